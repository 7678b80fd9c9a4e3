//! Answers of token endpoints that could not be read.

use tokenward::{
    store::{ConnectionPatch, Store, UnreadAnswer},
    time::StoreTime,
};

use super::scene::*;

pub(super) fn answer(grant: &str, epoch: u64, base: u64) -> UnreadAnswer {
    UnreadAnswer {
        grant: grant.into(),
        epoch,
        base,
        at: StoreTime(1_800_000_000_000 + i64::try_from(epoch).expect("small")),
        sealed: format!("{grant} {epoch}").into_bytes(),
    }
}

async fn keep(store: &dyn Store, answer: UnreadAnswer) -> bool {
    store.keep_unread(answer).await.expect("keep")
}

async fn kept(store: &dyn Store, grant: &str) -> Vec<UnreadAnswer> {
    store.unread(&grant.into()).await.expect("read")
}

/// An answer is kept as it is, until it is removed, or its grant is.
pub async fn answers_are_kept_beside_their_grant(subject: Subject) {
    let store = &*subject.store;
    assert!(
        !keep(store, answer("g", 1, 1)).await,
        "there is no such grant"
    );
    assert_eq!(kept(store, "g").await, []);
    granted(store, "c", "g").await;
    granted(store, "d", "h").await;
    let before = read(store, "g").await;
    for epoch in [2, 1] {
        assert!(keep(store, answer("g", epoch, 1)).await);
    }
    assert!(keep(store, answer("h", 1, 1)).await);
    assert_eq!(
        kept(store, "g").await,
        [answer("g", 1, 1), answer("g", 2, 1)]
    );
    assert_eq!(
        read(store, "g").await,
        before,
        "the ledger knows nothing of it"
    );

    // Whose reply was lost keeps it again; the last answer of a claim is the one that counts.
    let other = UnreadAnswer {
        sealed: b"another".to_vec(),
        ..answer("g", 2, 1)
    };
    assert!(keep(store, other.clone()).await);
    assert_eq!(kept(store, "g").await, [answer("g", 1, 1), other.clone()]);

    assert!(store.remove_unread(&"g".into(), 1).await.expect("remove"));
    assert!(!store.remove_unread(&"g".into(), 1).await.expect("remove"));
    assert_eq!(kept(store, "g").await, [other]);
    store
        .link(&key("c"), &"h".into(), ConnectionPatch::default())
        .await
        .expect("link");
    assert_eq!(kept(store, "g").await, []);
    assert_eq!(kept(store, "h").await, [answer("h", 1, 1)]);
}

/// The newest stay, and the first that came for the present refresh token.
pub async fn few_answers_are_kept(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let epochs = async || -> Vec<u64> {
        let kept = kept(store, "g").await;
        kept.iter().map(|answer| answer.epoch).collect()
    };
    for epoch in 1..=9 {
        assert!(keep(store, answer("g", epoch, 1)).await);
    }
    assert_eq!(epochs().await, [1, 7, 8, 9]);
    for epoch in 10..=15 {
        assert!(keep(store, answer("g", epoch, 2)).await);
    }
    assert_eq!(epochs().await, [10, 13, 14, 15]);
}

/// Pages meet every answer once.
pub async fn answers_page_by_grant(subject: Subject) {
    let store = &*subject.store;
    let expected = [("g", 1), ("g", 2), ("g", 3), ("h", 1), ("h", 2)];
    for grant in ["g", "h"] {
        granted(store, grant, grant).await;
    }
    for (grant, epoch) in expected {
        assert!(keep(store, answer(grant, epoch, 1)).await);
    }
    let (mut met, mut after) = (Vec::new(), None);
    loop {
        let place = after.as_ref().map(|(grant, epoch)| (grant, *epoch));
        let page = store.unread_after(place, 2).await.expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some((last.grant.clone(), last.epoch));
        met.extend(page);
    }
    assert_eq!(met, expected.map(|(grant, epoch)| answer(grant, epoch, 1)));
}

/// A new seal takes the place of the one that was read, and of no other.
pub async fn a_reseal_needs_the_answer_that_was_read(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let read = answer("g", 1, 1);
    assert!(keep(store, read.clone()).await);
    let reseal = |seal: &'static [u8]| store.reseal_unread(&read, seal.to_vec());
    assert!(reseal(b"anew").await.expect("reseal"));
    assert!(!reseal(b"late").await.expect("reseal"));
    let resealed = UnreadAnswer {
        sealed: b"anew".to_vec(),
        ..read.clone()
    };
    assert_eq!(kept(store, "g").await, [resealed]);
}
