//! What the keeper and the re-sealing walk over.

use std::time::Duration;

use tokenward::refresh::ledger::{FailureKind, FreshGrant, GrantRow, Verdict};

use super::scene::*;

fn ids(rows: &[GrantRow]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

/// Live grants whose time has come and that are not cooling down, most urgent first.
pub async fn what_wants_keeping_alive(subject: Subject) {
    let store = &*subject.store;
    let resting = |keep_alive| FreshGrant {
        keep_alive,
        ..fresh("v1")
    };
    // The order of the ids is not the order of the times.
    for grant in ["f", "e", "dead", "cooling", "troubled", "b"] {
        authorized(
            store,
            authorization(grant, grant, 0, resting(Some(Duration::ZERO))),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    authorized(
        store,
        authorization("later", "later", 0, resting(Some(HOUR))),
    )
    .await;
    authorized(store, authorization("never", "never", 0, resting(None))).await;
    let verdicts = [
        (
            "dead",
            Verdict::Dead {
                reason: "invalid_grant".to_owned(),
            },
        ),
        ("cooling", failed(HOUR)),
        ("troubled", failed(Duration::ZERO)),
    ];
    for (grant, verdict) in verdicts {
        claimed(store, grant, 1, "p", HOUR).await;
        settled(store, grant, 1, 1, verdict).await;
    }

    let due = store.keep_alive_due(10).await.expect("read");
    assert_eq!(ids(&due), ["f", "e", "troubled", "b"]);
    assert_eq!(due[2], read(store, "troubled").await);
    assert_eq!(
        ids(&store.keep_alive_due(2).await.expect("read")),
        ["f", "e"]
    );
    assert!(store.keep_alive_due(0).await.expect("read").is_empty());

    // A commit moves its grant's time.
    claimed(store, "f", 1, "p", HOUR).await;
    committed(store, "f", 1, 1, "v2").await;
    assert_eq!(
        ids(&store.keep_alive_due(10).await.expect("read")),
        ["e", "troubled", "b"]
    );
}

fn failed(retry_in: Duration) -> Verdict {
    Verdict::Failed {
        kind: FailureKind::NotSent,
        message: "down".to_owned(),
        retry_in,
        asked: false,
    }
}

/// A new seal for the same version; nothing else changes, and no other version.
pub async fn a_reseal_needs_its_version(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    claimed(store, "g", 1, "p", HOUR).await;
    let before = read(store, "g").await;
    assert!(
        store
            .reseal(&"g".into(), 1, b"new key".to_vec())
            .await
            .expect("reseal")
    );
    assert_eq!(
        read(store, "g").await,
        GrantRow {
            sealed: b"new key".to_vec(),
            ..before
        }
    );
    let (row, _) = committed(store, "g", 1, 1, "v2").await;
    assert!(
        !store
            .reseal(&"g".into(), 1, b"late".to_vec())
            .await
            .expect("reseal")
    );
    assert!(
        !store
            .reseal(&"h".into(), 1, b"nobody's".to_vec())
            .await
            .expect("reseal")
    );
    assert_eq!(read(store, "g").await, row);
}

/// Pages by id meet every grant once.
pub async fn grants_page_by_id(subject: Subject) {
    let store = &*subject.store;
    for grant in ["g3", "g1", "G9", "g20", "g2"] {
        granted(store, grant, grant).await;
    }
    let first = store.grants_after(None, 2).await.expect("read");
    assert_eq!(ids(&first), ["G9", "g1"]);
    assert_eq!(first[1], read(store, "g1").await);
    let second = store
        .grants_after(Some(&"g1".into()), 2)
        .await
        .expect("read");
    assert_eq!(ids(&second), ["g2", "g20"]);
    assert_eq!(
        ids(&store
            .grants_after(Some(&"g20".into()), 2)
            .await
            .expect("read")),
        ["g3"]
    );
    assert!(
        store
            .grants_after(Some(&"g3".into()), 2)
            .await
            .expect("read")
            .is_empty()
    );
    assert_eq!(
        ids(&store
            .grants_after(Some(&"g15".into()), 1)
            .await
            .expect("read")),
        ["g2"]
    );
}

/// What is asked for at once is what is read one by one; what does not exist is left out.
pub async fn grants_are_read_at_once(subject: Subject) {
    let store = &*subject.store;
    for grant in ["g1", "g2", "g3"] {
        granted(store, grant, grant).await;
    }
    let ids = ["g3", "none", "g1"].map(Into::into);
    let read_at_once = store.grants(&ids).await.expect("read");
    let mut rows = read_at_once.value;
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(rows, [read(store, "g1").await, read(store, "g3").await]);
    let nothing = store.grants(&[]).await.expect("read");
    assert!(nothing.value.is_empty() && read_at_once.at <= nothing.at);
    let missing = store.grants(&["none".into()]).await.expect("read");
    assert!(missing.value.is_empty() && nothing.at <= missing.at);
}
