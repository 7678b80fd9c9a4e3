//! The result as a picture: one self-contained page.

use std::{collections::BTreeSet, fmt::Write as _};

use tokenward_sandbox::{EventKind, TimelineEvent};

use super::{Account, Run, load::Span};

/// No more lines than this; of a larger batch every n-th request is drawn.
const MOST_LINES: usize = 160;
/// What a failure takes of the width at least, in percent: it is seen even where nothing came after the refresh.
const FAILED_WIDTH: f64 = 1.5;

pub(super) fn page(runs: &[Run; 3]) -> String {
    let ends = runs.iter().flat_map(|run| &run.spans);
    let scale = Scale::to(ends.map(|span| span.to_ms).max().unwrap_or(1).max(1));
    let mut body = String::new();
    for run in runs {
        panel(&mut body, run, &scale);
    }
    TEMPLATE
        .replace("{{TABLE}}", &table(runs))
        .replace("{{BODY}}", &body)
}

/// A column for each way, which fits on a phone.
fn table(runs: &[Run; 3]) -> String {
    let mut table = String::from("<tr><td>");
    for run in runs {
        let _ = write!(table, "<th scope=col>{}", run.title);
    }
    let mut row = |name: &str, cell: &dyn Fn(&Account) -> String| {
        let _ = write!(table, "<tr><th scope=row>{name}");
        for run in runs {
            table.push_str(&cell(&run.account));
        }
    };
    row("requests", &|a| format!("<td>{}", a.requests));
    row("failed", &|a| {
        let class = if a.failed == 0 { "good" } else { "bad" };
        format!("<td class={class}>{}", a.failed)
    });
    row("refreshes", &|a| format!("<td>{}", a.refreshes));
    row("invalid_grant", &|a| format!("<td>{}", a.invalid_grant));
    row("revoked grants", &|a| format!("<td>{}", a.revoked_grants));
    row("time", &|a| format!("<td>{} ms", a.elapsed_ms));
    table
}

/// Times as places on the page, from 0 to 100.
struct Scale {
    longest: f64,
    /// From one line of the grid to the next.
    step: u64,
}

impl Scale {
    fn to(longest_ms: u64) -> Self {
        let steps = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let mut fitting = steps.skip_while(|step| longest_ms / step > 5);
        Self {
            longest: longest_ms as f64,
            step: fitting.next().expect("there is no largest"),
        }
    }

    fn of(&self, ms: u64) -> f64 {
        100.0 * ms as f64 / self.longest
    }

    fn grid(&self) -> impl Iterator<Item = u64> {
        (0..=self.longest as u64).step_by(usize::try_from(self.step).unwrap_or(usize::MAX))
    }
}

fn panel(body: &mut String, run: &Run, scale: &Scale) {
    let step = run.spans.len().div_ceil(MOST_LINES).max(1);
    let lines: Vec<&Span> = run.spans.iter().step_by(step).collect();
    let pitch = if lines.len() > 60 { 2 } else { 4 };
    let height = lines.len() * pitch;
    let drawn = match step {
        1 => String::new(),
        _ => format!(" One request in {step} is drawn."),
    };
    let failed = run.account.failed;
    let _ = write!(
        body,
        "<section><h2>{}</h2><p>{}.{drawn}</p><figure><div class=marks>",
        run.title, run.about
    );
    marks(body, &run.timeline, scale);
    let _ = write!(
        body,
        "</div><svg viewBox='0 0 100 {height}' height={height} preserveAspectRatio=none role=img \
         aria-label='{}: {failed} of {} requests failed'>",
        run.title, run.account.requests
    );
    for ms in scale.grid() {
        let x = scale.of(ms);
        let _ = write!(body, "<line x1={x:.2} x2={x:.2} y1=0 y2={height} />");
    }
    let refreshed = run
        .timeline
        .iter()
        .find(|event| event.kind == EventKind::Answered);
    for (index, span) in lines.iter().enumerate() {
        let refreshed = refreshed.map(|event| event.at_ms);
        for (class, from, to) in bars(span, refreshed, scale) {
            let (y, thick) = (index * pitch, pitch as f64 * 0.75);
            let width = (to - from).max(0.15);
            let _ = write!(
                body,
                "<rect class={class} x={from:.2} y={y} width={width:.2} height={thick} />"
            );
        }
    }
    body.push_str("</svg><div class=axis>");
    for ms in scale.grid() {
        let _ = write!(body, "<span style='left:{:.2}%'>{ms}</span>", scale.of(ms));
    }
    body.push_str("</div></figure></section>");
}

/// What the provider saw, each kind at each place once, and in words what happened only once.
fn marks(body: &mut String, timeline: &[TimelineEvent], scale: &Scale) {
    let mut drawn = BTreeSet::new();
    let mut named = BTreeSet::new();
    for event in timeline {
        let (class, title, word) = match event.kind {
            EventKind::Seen => ("seen", "refresh request", None),
            EventKind::Granted => ("granted", "granted", Some("granted")),
            EventKind::Refused => ("refused", "refused (invalid_grant)", None),
            EventKind::Revoked => ("revoked", "grant revoked", Some("grant revoked")),
            _ => continue,
        };
        let x = scale.of(event.at_ms);
        if drawn.insert((class, (x * 4.0) as u64)) {
            let at = event.at_ms;
            let _ = write!(
                body,
                "<i class={class} style='left:{x:.2}%' title='{title} at {at} ms'></i>"
            );
        }
        if let Some(word) = word.filter(|_| named.insert(class)) {
            let _ = write!(
                body,
                "<b class={class} style='left:{x:.2}%'><span>{word}</span></b>"
            );
        }
    }
}

/// A request from left to right: its own refresh or the wait for the one that was `refreshed`, and the rest.
fn bars(
    span: &Span,
    refreshed: Option<u64>,
    scale: &Scale,
) -> impl Iterator<Item = (&'static str, f64, f64)> {
    let (from, to) = (scale.of(span.from_ms), scale.of(span.to_ms));
    let before = match (span.refreshed_ms, refreshed) {
        (Some(own), _) => Some((if span.ok { "own" } else { "vain" }, scale.of(own))),
        (None, Some(at)) if span.from_ms < at && at < span.to_ms => Some(("waiting", scale.of(at))),
        _ => None,
    };
    let answered = before.map_or(from, |(_, until)| until);
    let (how, answered) = if span.ok {
        ("ok", answered)
    } else {
        ("failed", answered.min(to - FAILED_WIDTH).max(from))
    };
    let before = before.map(|(class, until)| (class, from, until.min(answered)));
    before.into_iter().chain([(how, answered, to)])
}

const TEMPLATE: &str = include_str!("page.html");
