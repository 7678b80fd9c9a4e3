//! The result as a picture: one self-contained page.

use std::fmt::Write as _;

use tokenward_sandbox::EventKind;

use super::{Run, load::Span};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 10.0;
const FAILED_WIDTH: f64 = 12.0;
/// No more lines than this; of a larger batch every n-th request is drawn.
const MOST_LINES: usize = 160;

pub(super) fn page(runs: &[Run; 3]) -> String {
    let longest = runs
        .iter()
        .flat_map(|run| &run.spans)
        .map(|span| span.to_ms)
        .max()
        .unwrap_or(1)
        .max(1);
    let mut body = String::new();
    for run in runs {
        panel(&mut body, run, longest as f64);
    }
    let mut rows = String::new();
    for run in runs {
        let a = &run.account;
        let class = if a.failed == 0 { "good" } else { "bad" };
        let _ = write!(
            rows,
            "<tr><th>{}</th><td>{}</td><td class={class}>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{} ms</td></tr>",
            run.title,
            a.requests,
            a.failed,
            a.refreshes,
            a.invalid_grant,
            a.revoked_grants,
            a.elapsed_ms
        );
    }
    TEMPLATE
        .replace("{{ROWS}}", &rows)
        .replace("{{BODY}}", &body)
}

fn panel(body: &mut String, run: &Run, longest: f64) {
    let step = run.spans.len().div_ceil(MOST_LINES).max(1);
    let lines: Vec<&Span> = run.spans.iter().step_by(step).collect();
    let pitch = if lines.len() > 60 { 2.0 } else { 4.0 };
    let lane = 26.0;
    let height = lane + lines.len() as f64 * pitch + 24.0;
    let x = |ms: u64| LEFT + ms as f64 / longest * (WIDTH - 2.0 * LEFT);
    let _ = write!(
        body,
        "<section><h2>{}</h2><p>{}{}</p><svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}'>",
        run.title,
        run.about,
        if step > 1 {
            format!(" (one request in {step} is drawn)")
        } else {
            String::new()
        },
        run.title
    );
    for event in &run.timeline {
        let (class, label) = match event.kind {
            EventKind::Seen => ("seen", "refresh request"),
            EventKind::Granted => ("granted", "granted"),
            EventKind::Refused => ("refused", "invalid_grant"),
            EventKind::Revoked => ("revoked", "grant revoked"),
            _ => continue,
        };
        let _ = write!(
            body,
            "<line class='{class}' x1='{0:.1}' x2='{0:.1}' y1='4' y2='18'><title>{label} at {1} ms</title></line>",
            x(event.at_ms),
            event.at_ms
        );
    }
    let refreshed_at = run
        .timeline
        .iter()
        .find(|event| event.kind == EventKind::Answered)
        .map(|event| event.at_ms);
    for (index, span) in lines.iter().enumerate() {
        let y = lane + index as f64 * pitch;
        let mut bar = |class: &str, from: f64, to: f64| {
            let (width, height) = ((to - from).max(1.0), pitch * 0.75);
            let _ = write!(
                body,
                "<rect class='{class}' x='{from:.1}' y='{y:.1}' width='{width:.1}' height='{height:.1}'/>"
            );
        };
        let (from, to) = (x(span.from_ms), x(span.to_ms));
        // What came before the answer: its own refresh, or the wait for the one that was answered.
        let before = match (span.refreshed_ms, refreshed_at) {
            (Some(refreshed), _) => Some(("own", x(refreshed))),
            (None, Some(at)) if (span.from_ms..span.to_ms).contains(&at) => {
                Some(("waiting", x(at)))
            }
            _ => None,
        };
        let answered = before.map_or(from, |(_, until)| until);
        if let Some((class, until)) = before {
            bar(class, from, until);
        }
        if span.ok {
            bar("ok", answered, to);
        } else {
            // A failure is seen even where nothing came after the refresh.
            bar("failed", answered.min(to - FAILED_WIDTH).max(from), to);
        }
    }
    let axis = height - 8.0;
    for part in 0..=4 {
        let ms = (longest * f64::from(part) / 4.0) as u64;
        let anchor = match part {
            0 => "start",
            4 => "end",
            _ => "middle",
        };
        let _ = write!(
            body,
            "<text x='{:.1}' y='{axis}' text-anchor='{anchor}'>{ms} ms</text>",
            x(ms)
        );
    }
    body.push_str("</svg></section>");
}

const TEMPLATE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tokenward: the refresh race</title>
<style>
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667; --paper: #fff; --line: #dde; --ok: #2e9e6b; --own: #e0a030; --bad: #d0443a; --wait: #b9c0d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaf0; --soft: #99a; --paper: #14171f; --line: #334; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { color: var(--soft); margin: .2rem 0 .6rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; } .good { color: var(--ok); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; background: color-mix(in srgb, var(--line) 25%, transparent); border-radius: 6px; }
.ok { fill: var(--ok); } .own { fill: var(--own); } .waiting { fill: var(--wait); } .failed { fill: var(--bad); }
line { stroke-width: 1.5; } .seen { stroke: var(--own); } .granted { stroke: var(--ok); stroke-width: 3; } .refused { stroke: var(--bad); } .revoked { stroke: var(--bad); stroke-width: 4; }
text { font-size: 11px; fill: var(--soft); } .key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
</style>
<h1>One expiring token, one batch of requests, three ways</h1>
<table><thead><tr><th></th><th>requests</th><th>failed</th><th>refreshes</th><th>invalid_grant</th><th>revoked grants</th><th>time</th></tr></thead><tbody>{{ROWS}}</tbody></table>
<p>Counted by the provider, which rotates refresh tokens and revokes the grant when one is used twice.</p>
<p class="key">One line is one request:<span style="background:var(--own)"></span>its own refresh<span style="background:var(--wait)"></span>waiting for the one refresh<span style="background:var(--ok)"></span>answered by the API<span style="background:var(--bad)"></span>failed. The marks above are what the provider saw.</p>
{{BODY}}
</html>
"#;
