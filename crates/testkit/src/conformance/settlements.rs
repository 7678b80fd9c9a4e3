//! How a use ends without a grant.

use std::time::Duration;

use tokenward::refresh::ledger::{FailureKind, SettleReply, Standing, Verdict};

use super::scene::*;

fn dead() -> Verdict {
    Verdict::Dead {
        reason: "invalid_grant".to_owned(),
    }
}

fn failed(kind: FailureKind) -> Verdict {
    Verdict::Failed {
        kind,
        message: "no luck".to_owned(),
        retry_in: Duration::ZERO,
        asked: false,
    }
}

/// A refusal counts only while nobody has moved on.
pub async fn a_death_needs_the_version_and_the_claim(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;

    let lost = claimed(store, "g", 1, "p", SHORT).await;
    let present = taken_over(store, "g", 1, "q").await;
    let reply = settle(store, "g", 1, lost.epoch, dead()).await;
    assert!(
        matches!(reply, SettleReply::Superseded(row) if row == present),
        "another claim is in force"
    );

    let (row, _) = committed(store, "g", 1, present.epoch, "v2").await;
    let reply = settle(store, "g", 1, present.epoch, dead()).await;
    assert!(
        matches!(reply, SettleReply::Superseded(newer) if newer == row),
        "the version has moved"
    );

    let claim = claimed(store, "g", 2, "r", HOUR).await;
    let (row, first) = settled(store, "g", 2, claim.epoch, dead()).await;
    assert!(first);
    assert!(matches!(&row.standing, Standing::Dead { reason, .. } if reason == "invalid_grant"));
    assert_eq!((&row.claim, &row.attempt), (&None, &None));
    assert_eq!(read(store, "g").await, row);
}

/// A run of failures begins once and ends once.
pub async fn trouble_is_announced_once(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    for (failures, expected_first) in [(1, true), (2, false), (3, false)] {
        let claim = claimed(store, "g", 1, "p", HOUR).await;
        let (row, first) =
            settled(store, "g", 1, claim.epoch, failed(FailureKind::Throttled)).await;
        assert_eq!(first, expected_first);
        assert_eq!(
            row.trouble.as_ref().map(|trouble| trouble.failures),
            Some(failures)
        );
        assert_eq!(read(store, "g").await, row);
    }
    let claim = claimed(store, "g", 1, "p", HOUR).await;
    let (row, recovered) = committed(store, "g", 1, claim.epoch, "v2").await;
    assert!(recovered);
    assert_eq!(row.trouble, None);

    let claim = claimed(store, "g", 2, "p", HOUR).await;
    let (_, recovered) = committed(store, "g", 2, claim.epoch, "v3").await;
    assert!(!recovered, "there was nothing to recover from");
    let claim = claimed(store, "g", 3, "p", HOUR).await;
    let (_, first) = settled(store, "g", 3, claim.epoch, failed(FailureKind::NotSent)).await;
    assert!(first, "a new run");
}

/// A claim that is given back unused is as if it had not been.
pub async fn a_released_claim_leaves_no_trace(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let claim = claimed(store, "g", 1, "p", HOUR).await;
    let (row, first) = settled(store, "g", 1, claim.epoch, Verdict::Released).await;
    assert!(!first);
    assert_eq!(
        (&row.claim, &row.attempt, &row.trouble),
        (&None, &None, &None)
    );
    let next = claimed(store, "g", 1, "q", HOUR).await;
    assert_eq!(
        (next.epoch, next.attempt.map(|attempt| attempt.sends)),
        (2, Some(1))
    );
}

/// A use without an answer stays on record until the next commit.
pub async fn an_unknown_outcome_is_on_record(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let claim = claimed(store, "g", 1, "p", HOUR).await;
    let (row, _) = settled(store, "g", 1, claim.epoch, failed(FailureKind::Unknown)).await;
    let attempt = row.attempt.clone().expect("on record");
    assert!(!attempt.in_flight);
    assert_eq!(
        attempt.lost.map(|lost| lost.why),
        Some("no luck".to_owned())
    );
    assert_eq!(read(store, "g").await, row);

    let again = claimed(store, "g", 1, "q", HOUR).await;
    assert_eq!(again.attempt.map(|attempt| attempt.sends), Some(2));
    let (row, recovered) = committed(store, "g", 1, again.epoch, "v2").await;
    assert!(recovered);
    assert_eq!(row.attempt, None);
}
