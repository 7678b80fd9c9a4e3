//! One holder at a time.

use std::sync::Arc;

use tokenward::refresh::{
    ledger::{ClaimReply, ClaimRequest, FailureKind, Verdict},
    replay::ReplayPolicy,
};
use tokio::{sync::Barrier, task::JoinSet};

use super::scene::*;

/// Of 32 that ask at once, one gets the claim; the others find it held, or done.
pub async fn one_of_many_claimers_wins(subject: Subject) {
    const MANY: usize = 32;
    let store = subject.store;
    granted(&*store, "c", "g").await;
    let start = Arc::new(Barrier::new(MANY));
    let mut claimers = JoinSet::new();
    for number in 0..MANY {
        let (store, start) = (store.clone(), start.clone());
        claimers.spawn(async move {
            start.wait().await;
            let reply = claim(&*store, "g", 1, &format!("owner {number}"), HOUR).await;
            if let ClaimReply::Claimed(row) = &reply {
                committed(&*store, "g", 1, row.epoch, "v2").await;
            }
            reply
        });
    }
    let replies = claimers.join_all().await;
    let winners = replies
        .iter()
        .filter(|reply| matches!(reply, ClaimReply::Claimed(_)))
        .count();
    assert_eq!(winners, 1);
    for reply in replies {
        match reply {
            ClaimReply::Claimed(row) | ClaimReply::Held(row) => {
                assert_eq!((row.version, row.epoch), (1, 1));
            }
            ClaimReply::Newer(row) => assert_eq!((row.version, row.sealed), (2, b"v2".to_vec())),
            other => panic!("unexpected: {other:?}"),
        }
    }
}

/// An owner whose reply was lost asks again, and has the same claim, not a second one.
pub async fn a_repeated_claim_is_the_same_claim(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let first = claimed(store, "g", 1, "p", HOUR).await;
    let again = claimed(store, "g", 1, "p", HOUR).await;
    assert_eq!((first.epoch, again.epoch), (1, 1));
    assert_eq!(again.attempt.as_ref().map(|attempt| attempt.sends), Some(1));
    assert_eq!(read(store, "g").await, again);
    assert!(matches!(claim(store, "g", 1, "q", HOUR).await, ClaimReply::Held(row) if row == again));
}

/// Whoever comes with an old version is given the new one, whatever the claim.
pub async fn a_newer_version_is_handed_over(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let (row, _) = committed(store, "g", 1, 1, "v2").await;
    assert!(
        matches!(claim(store, "g", 1, "q", HOUR).await, ClaimReply::Newer(newer) if newer == row)
    );
    let second = claimed(store, "g", 2, "q", HOUR).await;
    assert_eq!((second.version, second.epoch), (2, 2));
}

/// After a failure nobody sends before its time.
pub async fn a_recent_failure_cools_claims_down(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let failed = Verdict::Failed {
        kind: FailureKind::Throttled,
        message: "429".to_owned(),
        retry_in: HOUR,
        asked: false,
    };
    let (row, _) = settled(store, "g", 1, 1, failed).await;
    assert!(
        matches!(claim(store, "g", 1, "q", HOUR).await, ClaimReply::Cooling(cooling) if cooling == row)
    );
}

/// Only an authorization revives a grant that the provider has refused.
pub async fn a_dead_grant_is_not_claimed(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let (row, first) = settled(
        store,
        "g",
        1,
        1,
        Verdict::Dead {
            reason: "invalid_grant".to_owned(),
        },
    )
    .await;
    assert!(first);
    assert!(matches!(claim(store, "g", 1, "q", HOUR).await, ClaimReply::Dead(dead) if dead == row));
    authorized(store, authorization("c", "g", 1, fresh("v2"))).await;
    claimed(store, "g", 2, "q", HOUR).await;
}

/// No grant, no claim.
pub async fn a_missing_grant_is_missing(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(claim(store, "g", 1, "p", HOUR).await, ClaimReply::Missing);
    assert!(!store.extend(&"g".into(), 1, HOUR).await.expect("extend"));
    assert_eq!(store.grant(&"g".into()).await.expect("read").value, None);
}

/// A claim that ran out is somebody else's, and what its owner sent is known to be unanswered.
pub async fn an_abandoned_claim_is_taken_over(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", SHORT).await;
    let row = taken_over(store, "g", 1, "q").await;
    assert_eq!(row.epoch, 2);
    let attempt = row.attempt.clone().expect("q is about to send");
    assert_eq!(attempt.sends, 2);
    assert!(attempt.in_flight && attempt.lost.is_some() && attempt.first_at < attempt.last_at);
    assert_eq!(read(store, "g").await, row);
}

/// While the access token lives, a provider that punishes repetitions is not asked again; the
/// lost answer is on record all the same.
pub async fn a_lost_answer_defers_under_a_revoking_provider(subject: Subject) {
    let store = &*subject.store;
    let row = granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", SHORT).await;
    let request = ClaimRequest {
        policy: ReplayPolicy::Revokes,
        ..claiming("g", 1, "q", HOUR)
    };
    let deferred = loop {
        match store.claim(request.clone()).await.expect("claim").value {
            ClaimReply::Deferred(deferred, until) => {
                assert_eq!(Some(until), row.expires_at);
                break deferred;
            }
            ClaimReply::Held(_) => tokio::time::sleep(SHORT).await,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert!(
        deferred
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.lost.is_some() && attempt.sends == 1)
    );
    assert_eq!(deferred.claim, None);
    assert_eq!(read(store, "g").await, deferred);
}

/// A claim grows under its own epoch only, and then holds.
pub async fn only_the_owner_extends(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let row = claimed(store, "g", 1, "p", SHORT).await;
    let id = row.id.clone();
    assert!(
        !store
            .extend(&id, row.epoch + 1, HOUR)
            .await
            .expect("extend")
    );
    assert_eq!(read(store, "g").await, row);
    assert!(store.extend(&id, row.epoch, HOUR).await.expect("extend"));
    tokio::time::sleep(SHORT * 2).await;
    assert!(matches!(
        claim(store, "g", 1, "q", HOUR).await,
        ClaimReply::Held(_)
    ));
    committed(store, "g", 1, row.epoch, "v2").await;
    assert!(
        !store.extend(&id, row.epoch, HOUR).await.expect("extend"),
        "a commit gives the claim back"
    );
}
