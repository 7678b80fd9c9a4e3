//! The feed of changes.

use tokenward::{
    refresh::ledger::{FailureKind, Verdict},
    store::{Change, ConnectionPatch, Store},
};

use super::{
    scene::*,
    tenants::{api_key, oauth_client},
};

/// Reads on from a position.
struct Feed<'a> {
    store: &'a dyn Store,
    next: u64,
}

impl<'a> Feed<'a> {
    async fn from_here(store: &'a dyn Store) -> Self {
        let present = store.changes(None).await.expect("read");
        assert!(present.changes.is_empty() && present.gap.is_none());
        Self {
            store,
            next: present.next,
        }
    }

    async fn read(&mut self) -> Vec<Change> {
        let read = self.store.changes(Some(self.next)).await.expect("read");
        assert_eq!(read.gap, None);
        assert!(read.next >= self.next);
        self.next = read.next;
        read.changes
    }

    /// Exactly these, in any order: one verb may announce several.
    async fn says(&mut self, expected: &[Change]) {
        let changes = self.read().await;
        assert_eq!(changes.len(), expected.len(), "{changes:?}");
        for change in expected {
            assert!(changes.contains(change), "{change:?} is not in {changes:?}");
        }
    }
}

/// A new reader starts here, not at the beginning of time.
pub async fn none_asks_for_the_position_only(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let present = store.changes(None).await.expect("read");
    assert!(present.changes.is_empty() && present.gap.is_none());
    let nothing = store.changes(Some(present.next)).await.expect("read");
    assert_eq!(nothing, present);
    granted(store, "d", "h").await;
    assert_eq!(
        store
            .changes(Some(present.next))
            .await
            .expect("read")
            .changes
            .len(),
        2
    );
}

/// Every kind of change, in the order in which they happened.
pub async fn every_kind_of_change_in_order(subject: Subject) {
    let store = &*subject.store;
    let feed = &mut Feed::from_here(store).await;
    let connection = Change::Connection(key("c"));
    let grant = |version| Change::Grant("g".into(), version);
    let client = Change::Client("acme".into(), "books".into());
    let application = Change::Application("acme".into());

    granted(store, "c", "g").await;
    feed.says(&[grant(1), connection.clone()]).await;
    claimed(store, "g", 1, "p", HOUR).await;
    committed(store, "g", 1, 1, "v2").await;
    feed.says(&[grant(2)]).await;
    claimed(store, "g", 2, "p", HOUR).await;
    settled(
        store,
        "g",
        2,
        2,
        Verdict::Dead {
            reason: "invalid_grant".to_owned(),
        },
    )
    .await;
    feed.says(&[grant(2)]).await;
    authorized(store, authorization("c", "g", 2, fresh("v3"))).await;
    feed.says(&[grant(3), connection.clone()]).await;
    store
        .save_connection(&key("c"), ConnectionPatch::default())
        .await
        .expect("save");
    feed.says(std::slice::from_ref(&connection)).await;
    store.delete_connection(&key("c")).await.expect("delete");
    feed.says(&[connection.clone(), grant(3)]).await;

    store
        .add_application(&"acme".into(), "Acme")
        .await
        .expect("add");
    feed.read().await;
    store
        .put_client(oauth_client("acme", "books"))
        .await
        .expect("put");
    feed.says(std::slice::from_ref(&client)).await;
    store
        .delete_client(&"acme".into(), &"books".into())
        .await
        .expect("delete");
    feed.says(std::slice::from_ref(&client)).await;
    store.add_key(api_key("acme", "k", 1)).await.expect("add");
    feed.says(std::slice::from_ref(&application)).await;
    store.delete_key(&"acme".into(), "k").await.expect("delete");
    feed.says(std::slice::from_ref(&application)).await;
    store
        .delete_application(&"acme".into())
        .await
        .expect("delete");
    feed.says(std::slice::from_ref(&application)).await;

    // And several at once.
    store
        .put_client(oauth_client("acme", "books"))
        .await
        .expect("put");
    store.add_key(api_key("acme", "k", 1)).await.expect("add");
    store
        .save_connection(&key("c"), ConnectionPatch::default())
        .await
        .expect("save");
    assert_eq!(feed.read().await, [client, application, connection]);
}

/// Claims, failures and extensions are nobody else's business: no other process holds a copy of
/// what they change.
pub async fn what_changes_nothing_is_silent(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let feed = &mut Feed::from_here(store).await;
    claimed(store, "g", 1, "p", HOUR).await;
    claim(store, "g", 1, "q", HOUR).await;
    store.extend(&"g".into(), 1, HOUR).await.expect("extend");
    commit(store, "g", 7, 1, "of a version that is not there").await;
    settle(
        store,
        "g",
        7,
        1,
        Verdict::Dead {
            reason: "of a version that is not there".to_owned(),
        },
    )
    .await;
    claimed(store, "g", 1, "p", HOUR).await;
    let failed = Verdict::Failed {
        kind: FailureKind::NotSent,
        message: "down".to_owned(),
        retry_in: HOUR,
        asked: false,
    };
    settled(store, "g", 1, 2, failed).await;
    store
        .reseal(&"g".into(), 1, b"new key".to_vec())
        .await
        .expect("reseal");
    feed.says(&[]).await;
}
