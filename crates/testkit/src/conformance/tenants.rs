//! Applications, keys, clients, and the vault's own values.

use std::collections::BTreeMap;

use tokenward::{
    store::{ApiKey, ConnectionPatch, NewApiKey, OAuthClient, Scope},
    time::StoreTime,
};
use tokio::task::JoinSet;

use super::scene::*;

pub(super) fn api_key(application: &str, id: &str, digest: u8) -> NewApiKey {
    NewApiKey {
        id: id.to_owned(),
        application: application.into(),
        digest: [digest; 32],
        hint: format!("tw_{id}"),
        scopes: [Scope::Token, Scope::Proxy].into_iter().collect(),
        lifetime: Some(HOUR),
    }
}

pub(super) fn oauth_client(application: &str, connector: &str) -> OAuthClient {
    OAuthClient {
        application: application.into(),
        connector: connector.into(),
        client_id: "id".to_owned(),
        sealed_secret: Some(vec![0, 255, 1]),
        settings: BTreeMap::from([("tenant".to_owned(), "ü".to_owned())]),
        scopes: vec!["b".to_owned(), "a".to_owned()],
    }
}

/// Applications, oldest first; an id is taken once.
pub async fn applications_round_trip(subject: Subject) {
    let store = &*subject.store;
    let zebra = store
        .add_application(&"zebra".into(), "Zebra")
        .await
        .expect("add");
    let acme = store
        .add_application(&"acme".into(), "Acme & Sons")
        .await
        .expect("add");
    assert_eq!(
        (acme.id.as_str(), acme.name.as_str()),
        ("acme", "Acme & Sons")
    );
    assert!(zebra.created_at <= acme.created_at);
    store
        .add_application(&"acme".into(), "again")
        .await
        .expect_err("the id is taken");
    assert_eq!(
        store.applications().await.expect("read"),
        [zebra.clone(), acme]
    );

    store.add_key(api_key("acme", "k", 1)).await.expect("add");
    store
        .put_client(oauth_client("acme", SERVICE))
        .await
        .expect("put");
    assert!(
        store
            .delete_application(&"acme".into())
            .await
            .expect("delete")
    );
    assert!(
        !store
            .delete_application(&"acme".into())
            .await
            .expect("delete")
    );
    assert_eq!(store.applications().await.expect("read"), [zebra]);
    assert_eq!(store.key_by_digest(&[1; 32]).await.expect("read"), None);
    assert_eq!(
        store
            .client(&"acme".into(), &SERVICE.into())
            .await
            .expect("read"),
        None
    );
}

/// An application whose connections are alive is not deleted by mistake.
pub async fn an_application_with_connections_stays(subject: Subject) {
    let store = &*subject.store;
    store
        .add_application(&APPLICATION.into(), "Acme")
        .await
        .expect("add");
    store
        .add_key(api_key(APPLICATION, "k", 1))
        .await
        .expect("add");
    store
        .save_connection(&key("c"), ConnectionPatch::default())
        .await
        .expect("save");
    store
        .delete_application(&APPLICATION.into())
        .await
        .expect_err("it has a connection");
    assert_eq!(store.applications().await.expect("read").len(), 1);
    assert!(store.key_by_digest(&[1; 32]).await.expect("read").is_some());
    store.delete_connection(&key("c")).await.expect("delete");
    assert!(
        store
            .delete_application(&APPLICATION.into())
            .await
            .expect("delete")
    );
}

/// Keys are found by their digest, and deleted by their application only.
pub async fn keys_round_trip(subject: Subject) {
    let store = &*subject.store;
    let k2 = NewApiKey {
        lifetime: None,
        ..api_key("acme", "k2", 2)
    };
    store.add_key(k2).await.expect("add");
    let k1 = store.add_key(api_key("acme", "k1", 1)).await.expect("add");
    assert_eq!(k1.scopes.to_string(), "proxy token");
    assert_eq!(k1.expires_at, Some(k1.created_at + HOUR));
    store.add_key(api_key("other", "k1", 3)).await.expect("add");
    let found = store.key_by_digest(&[1; 32]).await.expect("read");
    let found = found.expect("it is there");
    assert!(found.at >= k1.created_at, "the store's clock");
    let key = found.value;
    assert_eq!(key, k1);
    assert_eq!(
        (key.id.as_str(), key.application.as_str(), key.hint.as_str()),
        ("k1", "acme", "tw_k1")
    );
    assert!(key.created_at > StoreTime(0), "the store says when");
    assert_eq!(store.key_by_digest(&[9; 32]).await.expect("read"), None);
    let keys = store.keys(&"acme".into()).await.expect("read");
    assert_eq!(
        keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(),
        ["k2", "k1"]
    );
    assert_eq!((keys[0].expires_at, keys[0].last_used_at), (None, None));

    assert!(
        !store
            .delete_key(&"other".into(), "k2")
            .await
            .expect("delete")
    );
    assert!(
        store
            .delete_key(&"acme".into(), "k1")
            .await
            .expect("delete")
    );
    assert!(
        !store
            .delete_key(&"acme".into(), "k1")
            .await
            .expect("delete")
    );
    assert_eq!(store.key_by_digest(&[1; 32]).await.expect("read"), None);
    assert!(
        store.key_by_digest(&[3; 32]).await.expect("read").is_some(),
        "other's k1 is another key"
    );
}

/// That keys were shown is noted, of several at once, and nothing else changes by it; one that does not exist
/// harms nobody.
pub async fn shown_keys_are_noted(subject: Subject) {
    let store = &*subject.store;
    let mut made = Vec::new();
    for digest in 1..=3 {
        let key = api_key("acme", &format!("k{digest}"), digest);
        made.push(store.add_key(key).await.expect("add"));
    }
    let position = store.changes(None).await.expect("read").next;
    let shown = [[9; 32], [3; 32], [1; 32]];
    store.keys_used(&shown).await.expect("note");
    let keys = store.keys(&"acme".into()).await.expect("read");
    for (key, made) in keys.iter().zip(&made) {
        let shown = shown.contains(&key.digest);
        assert_eq!(key.last_used_at.is_some(), shown, "{}", key.id);
        assert!(key.last_used_at.is_none_or(|at| at >= made.created_at));
        let before = ApiKey {
            last_used_at: None,
            ..key.clone()
        };
        assert_eq!(before, *made);
    }
    let changes = store.changes(Some(position)).await.expect("read");
    assert_eq!(changes.changes, [], "nobody holds a copy of that");

    // Many who note the same do not stand in each other's way.
    let mut notes = JoinSet::new();
    for number in 0..16 {
        let store = subject.store.clone();
        let mut shown = [[1; 32], [2; 32], [3; 32]];
        shown.rotate_left(number % 3);
        notes.spawn(async move { store.keys_used(&shown).await });
    }
    for noted in notes.join_all().await {
        noted.expect("note");
    }
    let keys = store.keys(&"acme".into()).await.expect("read");
    assert!(keys.iter().all(|key| key.last_used_at.is_some()));
}

/// Clients are replaced as a whole.
pub async fn clients_round_trip(subject: Subject) {
    let store = &*subject.store;
    let secret = oauth_client("acme", "books");
    store.put_client(secret.clone()).await.expect("put");
    store
        .put_client(oauth_client("acme", "aaa"))
        .await
        .expect("put");
    store
        .put_client(oauth_client("other", "books"))
        .await
        .expect("put");
    assert_eq!(
        store
            .client(&"acme".into(), &"books".into())
            .await
            .expect("read"),
        Some(secret)
    );
    let public = OAuthClient {
        client_id: "new".to_owned(),
        sealed_secret: None,
        settings: BTreeMap::new(),
        scopes: Vec::new(),
        ..oauth_client("acme", "books")
    };
    store.put_client(public.clone()).await.expect("put");
    assert_eq!(
        store
            .client(&"acme".into(), &"books".into())
            .await
            .expect("read"),
        Some(public.clone())
    );
    let clients = store.clients(&"acme".into()).await.expect("read");
    assert_eq!(clients, [oauth_client("acme", "aaa"), public]);

    assert!(
        store
            .delete_client(&"acme".into(), &"books".into())
            .await
            .expect("delete")
    );
    assert!(
        !store
            .delete_client(&"acme".into(), &"books".into())
            .await
            .expect("delete")
    );
    assert_eq!(store.clients(&"acme".into()).await.expect("read").len(), 1);
    assert_eq!(store.clients(&"other".into()).await.expect("read").len(), 1);
}

/// Processes that start together agree on a value: the first one's.
pub async fn one_value_for_all(subject: Subject) {
    let store = subject.store;
    let mut starts = JoinSet::new();
    for number in 0..16_u8 {
        let store = store.clone();
        starts.spawn(async move {
            store
                .value_or_insert("key", vec![number; 40])
                .await
                .expect("insert")
        });
    }
    let values = starts.join_all().await;
    assert_eq!(values[0].len(), 40);
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    assert_eq!(
        store
            .value_or_insert("other", vec![1])
            .await
            .expect("insert"),
        [1]
    );
    store.put_value("key", vec![2]).await.expect("put");
    store.put_value("third", vec![3]).await.expect("put");
    assert_eq!(
        store.value_or_insert("key", vec![9]).await.expect("read"),
        [2]
    );
    assert_eq!(
        store.value_or_insert("third", vec![9]).await.expect("read"),
        [3]
    );
}

/// Pages by application and connector meet every client once, also one whose application is gone.
pub async fn clients_page_by_name(subject: Subject) {
    let store = &*subject.store;
    let names = [("a", "x"), ("a", "y"), ("b", "a"), ("b", "z")];
    for (application, connector) in names.iter().rev() {
        let client = oauth_client(application, connector);
        store.put_client(client).await.expect("put");
    }
    let first = store.clients_after(None, 3).await.expect("read");
    assert_eq!(
        first,
        [0, 1, 2].map(|n| oauth_client(names[n].0, names[n].1))
    );
    let after = (&"b".into(), &"a".into());
    let second = store.clients_after(Some(after), 3).await.expect("read");
    assert_eq!(second, [oauth_client("b", "z")]);
}

/// Whoever seals a secret anew does not put it back over one that was set meanwhile.
pub async fn a_new_secret_is_not_resealed_away(subject: Subject) {
    let store = &*subject.store;
    let read = oauth_client("acme", "books");
    store.put_client(read.clone()).await.expect("put");
    assert!(
        store
            .reseal_client(&read, b"resealed".to_vec())
            .await
            .expect("reseal")
    );
    let resealed = OAuthClient {
        sealed_secret: Some(b"resealed".to_vec()),
        ..read.clone()
    };
    let (acme, books) = ("acme".into(), "books".into());
    let client = store.client(&acme, &books).await.expect("read");
    assert_eq!(client, Some(resealed));

    let set = OAuthClient {
        client_id: "another".to_owned(),
        sealed_secret: Some(b"set meanwhile".to_vec()),
        ..read.clone()
    };
    store.put_client(set.clone()).await.expect("put");
    assert!(
        !store
            .reseal_client(&read, b"late".to_vec())
            .await
            .expect("reseal")
    );
    assert_eq!(store.client(&acme, &books).await.expect("read"), Some(set));
    store.delete_client(&acme, &books).await.expect("delete");
    assert!(
        !store
            .reseal_client(&read, b"late".to_vec())
            .await
            .expect("reseal")
    );
    assert_eq!(store.client(&acme, &books).await.expect("read"), None);
}

/// A value is replaced by whoever has read the present one.
pub async fn a_new_value_is_not_replaced(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(store.value("v").await.expect("read"), None);
    let replace =
        |read: &'static [u8], value: &'static [u8]| store.replace_value("v", read, value.to_vec());
    assert!(!replace(b"", b"1").await.expect("replace"));
    store.put_value("v", b"1".to_vec()).await.expect("put");
    assert!(replace(b"1", b"2").await.expect("replace"));
    assert!(!replace(b"1", b"3").await.expect("replace"));
    assert_eq!(store.value("v").await.expect("read"), Some(b"2".to_vec()));
}
