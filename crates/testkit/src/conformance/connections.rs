//! Connections and the grants that they share.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenward::{
    id::ConnectionKey,
    refresh::ledger::FreshGrant,
    store::{Authorize, Authorized, Conflict, ConnectionPatch, Store},
};
use tokio::{sync::Barrier, task::JoinSet};

use super::{scene::*, tenants::oauth_client};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is not an object"),
    }
}

fn known(fingerprint: u8) -> FreshGrant {
    FreshGrant {
        fingerprint: Some([fingerprint; 32]),
        ..fresh("v1")
    }
}

async fn authorize(store: &dyn Store, request: Authorize) -> Authorized {
    store.authorize(request).await.expect("authorize").value
}

async fn share(store: &dyn Store, consumer: &str, grant: &str) {
    store
        .link(&key(consumer), &grant.into(), ConnectionPatch::default())
        .await
        .expect("link")
        .expect("the grant exists");
}

/// What is read at once is what is read piece by piece.
pub async fn a_whole_is_its_parts(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(store.whole(&key("c")).await.expect("read"), None);
    let patch = ConnectionPatch::default();
    let unused = store.save_connection(&key("c"), patch).await;
    let whole = store.whole(&key("c")).await.expect("read").expect("there");
    assert_eq!(whole.connection, unused.expect("save"));
    assert_eq!((whole.client, whole.grant), (None, None));

    let row = granted(store, "c", "g").await;
    let client = oauth_client(APPLICATION, SERVICE);
    store.put_client(client.clone()).await.expect("put");
    let whole = store.whole(&key("c")).await.expect("read").expect("there");
    let connection = store.connection(&key("c")).await.expect("read");
    assert_eq!(Some(whole.connection), connection);
    assert_eq!(whole.client, Some(client));
    assert_eq!(whole.grant.and_then(|read| read.value), Some(row));
}

/// One statement makes the connection and its grant, and applies the patch.
pub async fn an_authorization_makes_both(subject: Subject) {
    let store = &*subject.store;
    let patch = ConnectionPatch {
        enabled: Some(false),
        settings: Some(object(json!({"org": "o-1"}))),
        ..ConnectionPatch::default()
    };
    let request = Authorize {
        patch,
        ..authorization("c", "g", 0, known(1))
    };
    let stamped = store.authorize(request).await.expect("authorize");
    let Authorized::Done(connection, row) = stamped.value else {
        panic!("it should not conflict")
    };
    assert_eq!(
        (&connection.key, &connection.grant),
        (&key("c"), &Some("g".into()))
    );
    assert!(!connection.enabled);
    assert_eq!(connection.settings, object(json!({"org": "o-1"})));
    assert_eq!(
        (
            row.version,
            row.authorized_version,
            row.epoch,
            &row.refreshed_at
        ),
        (1, 1, 0, &None)
    );
    assert_eq!(
        (row.expires_at, row.fingerprint),
        (Some(stamped.at + HOUR), Some([1; 32]))
    );
    assert_eq!(read(store, "g").await, *row);
    assert_eq!(
        store.connection(&key("c")).await.expect("read"),
        Some((*connection).clone())
    );
    assert_eq!(
        store.connection_of(&"g".into()).await.expect("read"),
        Some(*connection)
    );
    assert_eq!(store.connection_of(&"h".into()).await.expect("read"), None);
    let found = store
        .grant_by_fingerprint(&APPLICATION.into(), &SERVICE.into(), &[1; 32])
        .await;
    assert_eq!(found.expect("read"), Some(*row));
    let other = store
        .grant_by_fingerprint(&"other".into(), &SERVICE.into(), &[1; 32])
        .await;
    assert_eq!(other.expect("read"), None);
}

/// The version that was read, and the grant that the connection has: nothing else is replaced.
pub async fn an_authorization_replaces_its_own_grant_only(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let conflicts = [
        authorization("c", "g", 0, fresh("old version")),
        authorization("c", "g", 2, fresh("version that is not there")),
        authorization(
            "c",
            "h",
            0,
            fresh("another grant, while the first one lives"),
        ),
        authorization("c", "h", 1, fresh("a grant that is not there")),
        authorization("d", "g", 1, fresh("another one's grant")),
        authorization("d", "g", 0, fresh("another one's grant, as if new")),
    ];
    let before = read(store, "g").await;
    for conflict in conflicts {
        let what = format!("{:?}", String::from_utf8_lossy(&conflict.fresh.sealed));
        assert_eq!(
            authorize(store, conflict).await,
            Authorized::Conflict(Conflict::Moved),
            "{what}"
        );
    }
    assert_eq!(read(store, "g").await, before);
    assert_eq!(store.connection(&key("d")).await.expect("read"), None);
    assert_eq!(store.grant(&"h".into()).await.expect("read").value, None);

    let again = authorized(store, authorization("c", "g", 1, fresh("its own"))).await;
    assert_eq!((again.version, again.authorized_version), (2, 2));

    // A connection that has none may have a new one.
    let bare = store
        .save_connection(&key("e"), ConnectionPatch::default())
        .await
        .expect("save");
    assert_eq!(bare.grant, None);
    assert_eq!(granted(store, "e", "h").await.version, 1);
}

/// One refresh token is one grant: a second import of it must find the first.
pub async fn a_known_token_is_a_conflict(subject: Subject) {
    let store = &*subject.store;
    authorized(store, authorization("c", "g", 0, known(1))).await;
    assert_eq!(
        authorize(store, authorization("d", "h", 0, known(1))).await,
        Authorized::Conflict(Conflict::Twin("g".into()))
    );
    // The same connection may bring the same token again; another provider knows nothing of it.
    authorized(store, authorization("c", "g", 1, known(1))).await;
    authorized(store, authorization("d", "h", 0, known(2))).await;
    let elsewhere = ConnectionKey::new(APPLICATION, "c", API, "ledgers");
    authorized(
        store,
        Authorize {
            connection: elsewhere,
            ..authorization("c", "i", 0, known(1))
        },
    )
    .await;
    let moved = authorize(store, authorization("d", "h", 1, known(1))).await;
    assert_eq!(moved, Authorized::Conflict(Conflict::Twin("g".into())));
}

/// The same new token on many connections at once: one of them makes the grant.
pub async fn one_of_many_authorizations_with_a_token_wins(subject: Subject) {
    const MANY: usize = 8;
    let store = subject.store;
    let start = Arc::new(Barrier::new(MANY));
    let mut imports = JoinSet::new();
    for number in 0..MANY {
        let (store, start) = (store.clone(), start.clone());
        imports.spawn(async move {
            start.wait().await;
            let request = authorization(&format!("c{number}"), &format!("g{number}"), 0, known(1));
            matches!(authorize(&*store, request).await, Authorized::Done(..))
        });
    }
    let done = imports.join_all().await;
    assert_eq!(done.into_iter().filter(|done| *done).count(), 1);
    assert_eq!(store.grants_after(None, MANY).await.expect("read").len(), 1);
    assert_eq!(
        store
            .connections(&APPLICATION.into(), None)
            .await
            .expect("read")
            .len(),
        1
    );
}

/// Maps are merged at their first level, a null removes, the rest stays.
pub async fn a_patch_is_merged(subject: Subject) {
    let store = &*subject.store;
    let made = store
        .save_connection(&key("c"), ConnectionPatch::default())
        .await
        .expect("save");
    assert!(made.enabled && made.grant.is_none() && made.settings.is_empty());
    let settings = json!({"a": 1, "b": {"x": [1, 2.5, "ü"], "y": null}, "c": "gone soon"});
    let patch = ConnectionPatch {
        settings: Some(object(settings)),
        metadata: Some(object(json!({"m": true}))),
        ..ConnectionPatch::default()
    };
    store.save_connection(&key("c"), patch).await.expect("save");
    let patch = ConnectionPatch {
        enabled: Some(false),
        settings: Some(object(json!({"b": {"z": 1}, "c": null, "d": "'\"\\"}))),
        metadata: None,
    };
    let saved = store.save_connection(&key("c"), patch).await.expect("save");
    assert_eq!(
        saved.settings,
        object(json!({"a": 1, "b": {"z": 1}, "d": "'\"\\"}))
    );
    assert_eq!(saved.metadata, object(json!({"m": true})));
    assert!(!saved.enabled && saved.grant.is_none());
    assert_eq!(saved.created_at, made.created_at);
    assert!(saved.updated_at >= made.updated_at);
    assert_eq!(
        store.connection(&key("c")).await.expect("read"),
        Some(saved)
    );
}

/// A connection can use a grant that exists, and what it used before goes with its last user.
pub async fn a_link_leaves_no_grant_behind(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    granted(store, "d", "h").await;
    let nothing = ConnectionPatch::default;
    let missing = store.link(&key("c"), &"none".into(), nothing()).await;
    assert_eq!(missing.expect("link"), None);
    share(store, "e", "g").await;
    share(store, "c", "h").await;
    // `e` uses it still.
    assert!(
        store
            .grant(&"g".into())
            .await
            .expect("read")
            .value
            .is_some()
    );
    share(store, "e", "h").await;
    assert!(
        store
            .grant(&"g".into())
            .await
            .expect("read")
            .value
            .is_none()
    );
    // Linking to what it has already takes nothing away.
    share(store, "e", "h").await;
    assert!(
        store
            .grant(&"h".into())
            .await
            .expect("read")
            .value
            .is_some()
    );
}

/// No patch is lost to another one at the same time.
pub async fn concurrent_patches_are_all_merged(subject: Subject) {
    const MANY: usize = 16;
    let store = subject.store;
    let mut patches = JoinSet::new();
    for number in 0..MANY {
        let store = store.clone();
        patches.spawn(async move {
            let settings = Some(object(json!({ format!("s{number}"): number })));
            let patch = ConnectionPatch {
                settings,
                ..ConnectionPatch::default()
            };
            store.save_connection(&key("c"), patch).await.expect("save");
        });
    }
    patches.join_all().await;
    let connection = store
        .connection(&key("c"))
        .await
        .expect("read")
        .expect("it exists");
    assert_eq!(connection.settings.len(), MANY);
}

/// A grant that others use outlives a connection, and goes with the last one.
pub async fn the_last_connection_takes_the_grant_with_it(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    share(store, "d", "g").await;
    let deleted = store
        .delete_connection(&key("c"))
        .await
        .expect("delete")
        .expect("it existed");
    assert_eq!((deleted.connection.key, deleted.grant), (key("c"), None));
    assert_eq!(store.connection(&key("c")).await.expect("read"), None);
    let row = read(store, "g").await;
    let owner = store
        .connection_of(&"g".into())
        .await
        .expect("read")
        .expect("d uses it");
    assert_eq!(owner.key, key("d"));

    let deleted = store
        .delete_connection(&key("d"))
        .await
        .expect("delete")
        .expect("it existed");
    assert_eq!(deleted.grant, Some(row));
    assert_eq!(store.grant(&"g".into()).await.expect("read").value, None);
    assert_eq!(
        store.delete_connection(&key("d")).await.expect("delete"),
        None
    );

    store
        .save_connection(&key("e"), ConnectionPatch::default())
        .await
        .expect("save");
    let deleted = store
        .delete_connection(&key("e"))
        .await
        .expect("delete")
        .expect("it existed");
    assert_eq!(deleted.grant, None);
}

/// In the order of their keys, byte by byte, and of one application only.
pub async fn connections_are_listed_by_key(subject: Subject) {
    let store = &*subject.store;
    let mut keys = vec![
        ConnectionKey::new("acme", "b", "crm", "x"),
        ConnectionKey::new("acme", "a", "crm", "y"),
        ConnectionKey::new("acme", "a", "accounting", "z"),
        ConnectionKey::new("acme", "B", "crm", "x"),
        ConnectionKey::new("acme", "a", "crm", "x"),
        ConnectionKey::new("acme", "ä", "crm", "x"),
        ConnectionKey::new("acme2", "a", "crm", "x"),
    ];
    for key in &keys {
        store
            .save_connection(key, ConnectionPatch::default())
            .await
            .expect("save");
    }
    keys.sort();
    keys.retain(|key| key.application.as_str() == "acme");
    let listed = store.connections(&"acme".into(), None).await.expect("read");
    assert_eq!(
        listed
            .into_iter()
            .map(|connection| connection.key)
            .collect::<Vec<_>>(),
        keys
    );

    keys.retain(|key| key.consumer.as_str() == "a");
    let listed = store
        .connections(&"acme".into(), Some(&"a".into()))
        .await
        .expect("read");
    assert_eq!(
        listed
            .into_iter()
            .map(|connection| connection.key)
            .collect::<Vec<_>>(),
        keys
    );
    assert!(
        store
            .connections(&"nobody".into(), None)
            .await
            .expect("read")
            .is_empty()
    );
}

/// Pages by key meet every connection of every application once.
pub async fn connections_page_by_key(subject: Subject) {
    let store = &*subject.store;
    let keys = [("a", "z"), ("a", "zz"), ("b", "a"), ("b", "c")]
        .map(|(application, consumer)| ConnectionKey::new(application, consumer, API, SERVICE));
    for key in keys.iter().rev() {
        let patch = ConnectionPatch::default();
        store.save_connection(key, patch).await.expect("save");
    }
    let (mut met, mut after) = (Vec::new(), None);
    loop {
        let page = store.connections_after(after.as_ref(), 3).await;
        let page = page.expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.key.clone());
        met.extend(page.into_iter().map(|connection| connection.key));
    }
    assert_eq!(met, keys);
}
