//! What was granted is the next version, once.

use std::{sync::Arc, time::Duration};

use tokenward::{
    id::ConnectionKey,
    refresh::ledger::{
        CommitReply, CommitRequest, FreshGrant, GrantRow, SettleReply, Standing, Verdict,
    },
    store::{Authorize, Authorized, Conflict, Store},
};
use tokio::{sync::Barrier, task::JoinSet};

use super::scene::*;

/// A commit replaces everything that it should, and is what others read.
pub async fn a_commit_is_the_next_version(subject: Subject) {
    let store = &*subject.store;
    let before = granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let request = CommitRequest {
        lifetime: Some(Duration::from_millis(1_234_567)),
        keep_alive: Some(HOUR * 24),
        fingerprint: Some([7; 32]),
        ..committing("g", 1, 1, "v2")
    };
    let sent_at = request.sent_at;
    let CommitReply::Committed { row, recovered } =
        store.commit(request).await.expect("commit").value
    else {
        panic!("the commit should succeed");
    };
    assert!(!recovered);
    let expected = GrantRow {
        version: 2,
        sealed: b"v2".to_vec(),
        expires_at: Some(sent_at + Duration::from_millis(1_234_567)),
        lifetime: Some(Duration::from_millis(1_234_567)),
        refreshed_at: Some(sent_at),
        keep_alive_at: Some(sent_at + HOUR * 24),
        fingerprint: Some([7; 32]),
        epoch: 1,
        committed_epoch: 1,
        ..before
    };
    assert_eq!(row, expected);
    assert_eq!(read(store, "g").await, expected);
}

/// Many answers for one version: one is adopted, the others are void.
pub async fn one_of_many_commits_of_a_version_wins(subject: Subject) {
    const MANY: u64 = 16;
    let store = subject.store;
    granted(&*store, "c", "g").await;
    let start = Arc::new(Barrier::new(MANY as usize));
    let mut owners = JoinSet::new();
    for epoch in 1..=MANY {
        let (store, start) = (store.clone(), start.clone());
        owners.spawn(async move {
            start.wait().await;
            (
                epoch,
                commit(&*store, "g", 1, epoch, &format!("by {epoch}")).await,
            )
        });
    }
    let replies = owners.join_all().await;

    let row = read(&*store, "g").await;
    assert_eq!(row.version, 2);
    let mut winners = 0;
    for (epoch, reply) in replies {
        match reply {
            CommitReply::Committed { row: committed, .. } => {
                winners += 1;
                assert_eq!((committed.committed_epoch, &committed), (epoch, &row));
                assert_eq!(row.sealed, format!("by {epoch}").into_bytes());
            }
            CommitReply::Superseded(newer) => assert_eq!(newer, row),
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(winners, 1);
}

/// An owner that slept while others committed cannot overwrite them.
pub async fn a_stale_base_is_superseded(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let slow = claimed(store, "g", 1, "p", SHORT).await;
    let fast = taken_over(store, "g", 1, "q").await;
    let (row, _) = committed(store, "g", 1, fast.epoch, "q's").await;
    let reply = commit(store, "g", 1, slow.epoch, "p's").await;
    assert!(matches!(reply, CommitReply::Superseded(newer) if newer == row));
    assert_eq!(read(store, "g").await, row);
}

/// A person who authorizes anew while a refresh is under way has the last word.
pub async fn a_new_authorization_voids_an_answer(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let claim = claimed(store, "g", 1, "p", HOUR).await;
    let row = authorized(store, authorization("c", "g", 1, fresh("a person's"))).await;
    assert_eq!(
        (
            row.version,
            row.authorized_version,
            &row.claim,
            &row.attempt
        ),
        (2, 2, &None, &None)
    );
    let reply = commit(store, "g", 1, claim.epoch, "late").await;
    assert!(matches!(reply, CommitReply::Reauthorized(present) if present == row));
    let verdict = Verdict::Dead {
        reason: "invalid_grant".to_owned(),
    };
    let reply = settle(store, "g", 1, claim.epoch, verdict).await;
    assert!(matches!(reply, SettleReply::Superseded(present) if present == row));
    assert_eq!(read(store, "g").await.standing, Standing::Live);
}

/// A grant that was deleted while a refresh is under way stays deleted.
pub async fn a_deletion_voids_an_answer(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    store
        .delete_connection(&key("c"))
        .await
        .expect("delete")
        .expect("it existed");
    assert_eq!(commit(store, "g", 1, 1, "late").await, CommitReply::Missing);
    assert_eq!(
        settle(store, "g", 1, 1, Verdict::Released).await,
        SettleReply::Missing
    );
    assert_eq!(store.grant(&"g".into()).await.expect("read").value, None);
}

/// The claim was lost, but nobody has committed: the answer may be the only living token.
pub async fn a_late_answer_is_adopted(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let late = claimed(store, "g", 1, "p", SHORT).await;
    let present = taken_over(store, "g", 1, "q").await;
    let (row, _) = committed(store, "g", 1, late.epoch, "late").await;
    assert_eq!((row.version, row.committed_epoch), (2, late.epoch));
    // The other one's turn comes to nothing, whatever it brings.
    let verdict = Verdict::Dead {
        reason: "invalid_grant".to_owned(),
    };
    assert!(matches!(
        settle(store, "g", 1, present.epoch, verdict).await,
        SettleReply::Superseded(_)
    ));
    let row = read(store, "g").await;
    assert_eq!(
        (row.sealed, row.standing, row.claim),
        (b"late".to_vec(), Standing::Live, None)
    );
}

/// The commit's reply was lost: asking again finds it done, and does nothing.
pub async fn a_repeated_commit_is_recognised(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let (row, _) = committed(store, "g", 1, 1, "v2").await;
    let (again, recovered) = committed(store, "g", 1, 1, "v2").await;
    assert_eq!((&again, recovered), (&row, false));
    assert_eq!(read(store, "g").await, row);
}

/// A provider may answer the refreshes of two grants with one token. What it granted is kept.
pub async fn a_token_that_another_grant_has_is_kept(subject: Subject) {
    let store = &*subject.store;
    for (consumer, grant) in [("c", "g"), ("d", "h")] {
        granted(store, consumer, grant).await;
        claimed(store, grant, 1, "p", HOUR).await;
        let request = CommitRequest {
            fingerprint: Some([7; 32]),
            ..committing(grant, 1, 1, "v2")
        };
        let reply = store
            .commit(request)
            .await
            .expect("a commit is never refused for its token")
            .value;
        assert!(matches!(reply, CommitReply::Committed { .. }));
    }
    let first = store
        .grant_by_fingerprint(&APPLICATION.into(), &SERVICE.into(), &[7; 32])
        .await
        .expect("read");
    assert_eq!(first.expect("one of them").fingerprint, Some([7; 32]));
}

fn token(number: u8) -> [u8; 32] {
    [number; 32]
}

async fn imported(store: &dyn Store, consumer: &str, grant: &str, number: u8) -> Authorized {
    let expected = store.grant(&grant.into()).await.expect("read").value;
    let expected = expected.map_or(0, |row| row.version);
    let known = FreshGrant {
        fingerprint: Some(token(number)),
        ..fresh("imported")
    };
    let request = authorization(consumer, grant, expected, known);
    store.authorize(request).await.expect("authorize").value
}

async fn rotated(store: &dyn Store, base: u64, number: u8) {
    let epoch = claimed(store, "g", base, "p", HOUR).await.epoch;
    let request = CommitRequest {
        fingerprint: Some(token(number)),
        ..committing("g", base, epoch, "rotated")
    };
    let reply = store.commit(request).await.expect("commit").value;
    assert!(matches!(reply, CommitReply::Committed { .. }));
}

/// A token that a refresh has replaced is not taken for a new one: an old export that is imported
/// again would have the provider revoke what replaced it.
pub async fn an_old_token_is_recognised(subject: Subject) {
    let store = &*subject.store;
    let of_old = |reply| match reply {
        Authorized::Conflict(Conflict::Replaced { grant, at }) => (grant, at),
        other => panic!("an old token was taken: {other:?}"),
    };
    assert!(matches!(
        imported(store, "c", "g", 1).await,
        Authorized::Done(..)
    ));
    let before = store.grant(&"g".into()).await.expect("read").at;
    rotated(store, 1, 2).await;
    let after = store.grant(&"g".into()).await.expect("read").at;
    let (grant, at) = of_old(imported(store, "c", "g", 1).await);
    assert_eq!(grant, "g".into());
    assert!(before <= at && at <= after);
    // By another consumer, too; what is held now is shared, and another provider has others.
    assert_eq!(of_old(imported(store, "d", "h", 1).await), (grant, at));
    let twin = Authorized::Conflict(Conflict::Twin("g".into()));
    assert_eq!(imported(store, "d", "h", 2).await, twin);
    let elsewhere = ConnectionKey::new(APPLICATION, "c", API, "ledgers");
    let known = FreshGrant {
        fingerprint: Some(token(1)),
        ..fresh("imported")
    };
    let request = Authorize {
        connection: elsewhere,
        ..authorization("c", "i", 0, known)
    };
    authorized(store, request).await;
    assert_eq!(read(store, "g").await.version, 2);

    // What a person replaces may be alive still.
    assert!(matches!(
        imported(store, "c", "g", 3).await,
        Authorized::Done(..)
    ));
    assert!(matches!(
        imported(store, "c", "g", 2).await,
        Authorized::Done(..)
    ));
    of_old(imported(store, "c", "g", 1).await);

    // Only the newest are remembered.
    for number in 5..40 {
        let version = read(store, "g").await.version;
        rotated(store, version, number).await;
    }
    of_old(imported(store, "c", "g", 30).await);
    assert!(matches!(
        imported(store, "d", "h", 5).await,
        Authorized::Done(..)
    ));
    // And they go with the grant.
    store.delete_connection(&key("c")).await.expect("delete");
    assert!(matches!(
        imported(store, "c", "g", 30).await,
        Authorized::Done(..)
    ));
}
