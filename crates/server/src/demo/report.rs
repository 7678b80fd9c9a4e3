//! The result in words: a timeline and a table.

use serde_json::{Map, Value, json};
use tokenward_sandbox::{EventKind, TimelineEvent};

use super::Run;
use crate::cli::table;

pub(super) fn json(runs: &[Run; 3]) -> Value {
    let names = ["uncoordinated", "validate_first", "tokenward"];
    let accounts = runs.iter().map(|run| json!(run.account));
    names
        .into_iter()
        .map(str::to_owned)
        .zip(accounts)
        .collect::<Map<_, _>>()
        .into()
}

pub(super) fn text(runs: &[Run; 3]) -> String {
    let mut lines = Vec::new();
    for run in runs {
        lines.push(String::new());
        lines.push(format!("{}: {}", run.title, run.about));
        lines.extend(
            timeline(&run.timeline)
                .into_iter()
                .map(|line| format!("  {line}")),
        );
        let done = run.spans.iter().map(|span| span.to_ms).max().unwrap_or(0);
        let Account {
            requests, failed, ..
        } = &run.account;
        lines.push(format!(
            "  {done:>6} ms  the batch is over: {} of {requests} requests answered by the API",
            requests - failed
        ));
    }
    let headers = [
        "",
        "REQUESTS",
        "FAILED",
        "REFRESHES",
        "INVALID_GRANT",
        "REVOKED GRANTS",
        "TIME",
    ];
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let account = &run.account;
            vec![
                run.title.to_owned(),
                account.requests.to_string(),
                account.failed.to_string(),
                account.refreshes.to_string(),
                account.invalid_grant.to_string(),
                account.revoked_grants.to_string(),
                format!("{} ms", account.elapsed_ms),
            ]
        })
        .collect();
    lines.push(String::new());
    lines.push(table(&headers, &rows));
    lines.push(String::new());
    lines.push("Counted by the provider, which rotates refresh tokens and revokes the grant when one is used twice.".to_owned());
    lines.push("The time goes from the first request, of the batch or for the validation before it, to the last answer.".to_owned());
    lines.push("Callers, provider and gateway share this machine.".to_owned());
    lines.join("\n")
}

use super::Account;

/// What the provider saw, with runs of the same put together.
fn timeline(events: &[TimelineEvent]) -> Vec<String> {
    let mut lines: Vec<(u64, u64, usize, &'static str)> = Vec::new();
    for event in events {
        let Some(what) = words(event.kind) else {
            continue;
        };
        match lines.last_mut() {
            Some((_, to, count, same)) if *same == what => {
                *to = event.at_ms;
                *count += 1;
            }
            _ => lines.push((event.at_ms, event.at_ms, 1, what)),
        }
    }
    const MOST: usize = 12;
    let left_out = lines.len().saturating_sub(MOST);
    let mut shown: Vec<String> = lines
        .into_iter()
        .take(MOST)
        .map(|(from, to, count, what)| {
            let times = if count > 1 {
                format!("{count} x ")
            } else {
                String::new()
            };
            let until = if to > from {
                format!(" (until {to} ms)")
            } else {
                String::new()
            };
            format!("{from:>6} ms  {times}{what}{until}")
        })
        .collect();
    if left_out > 0 {
        shown.push(format!("           ... and {left_out} more"));
    }
    shown
}

fn words(kind: EventKind) -> Option<&'static str> {
    Some(match kind {
        EventKind::Seen => "refresh request",
        EventKind::Granted => "refresh granted, the refresh token is replaced",
        EventKind::Revoked => {
            "the replaced refresh token is used again: THE WHOLE GRANT IS REVOKED"
        }
        EventKind::Refused => "invalid_grant",
        EventKind::ApiRefused => "the API refuses the access token (401)",
        EventKind::Dropped => "the caller is gone",
        EventKind::Hanging | EventKind::Fault | EventKind::Released | EventKind::Expired => "fault",
        // A replay shows as what comes of it.
        EventKind::Issued | EventKind::Answered | EventKind::Replay | EventKind::Lost => {
            return None;
        }
    })
}
