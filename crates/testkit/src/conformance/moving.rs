//! Moving a vault.

use serde_json::Map;
use tokenward::{
    authorize::AttemptRow,
    refresh::ledger::FreshGrant,
    store::{
        ApiKey, Application, ApplicationSettings, Conflict, ConnectionPatch, Consumer, Freeze,
        Record, ReplacedToken, StoreError,
    },
    time::StoreTime,
};

use super::{
    attempts::attempt,
    scene::*,
    tenants::{api_key, oauth_client},
    unread::answer,
};

/// What is frozen is refused as such, is read on, and can be thawed.
pub async fn a_frozen_store_says_so(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    granted(store, "d", "h").await;
    claimed(store, "g", 1, "p", HOUR).await;
    assert_eq!(store.frozen().await, Ok(Freeze::Nothing));

    store.freeze(Freeze::Claims).await.expect("freeze");
    assert_eq!(store.frozen().await, Ok(Freeze::Claims));
    assert_eq!(store.claims_in_force().await, Ok(1));
    let begun = store.claim(claiming("h", 1, "q", HOUR)).await;
    assert_eq!(begun, Err(StoreError::Frozen));
    // What is under way is saved.
    committed(store, "g", 1, 1, "v2").await;
    assert_eq!(store.claims_in_force().await, Ok(0));

    store.freeze(Freeze::Writes).await.expect("freeze");
    assert_eq!(store.frozen().await, Ok(Freeze::Writes));
    let patch = ConnectionPatch::default();
    let written = store.save_connection(&key("c"), patch).await;
    assert_eq!(written, Err(StoreError::Frozen));
    let put = store.put_value("v", vec![1]).await;
    assert_eq!(put, Err(StoreError::Frozen));
    let kept = store.keep_unread(answer("g", 1, 1)).await;
    assert_eq!(kept, Err(StoreError::Frozen));
    assert_eq!(read(store, "g").await.version, 2);

    store.freeze(Freeze::Moved).await.expect("freeze");
    assert_eq!(store.frozen().await, Ok(Freeze::Moved));
    let put = store.put_value("v", vec![1]).await;
    assert_eq!(put, Err(StoreError::Frozen));

    store.freeze(Freeze::Nothing).await.expect("thaw");
    assert_eq!(store.frozen().await, Ok(Freeze::Nothing));
    claimed(store, "h", 1, "q", HOUR).await;
}

/// A key with all that one can have.
fn kept_key() -> ApiKey {
    ApiKey {
        last_used_at: Some(StoreTime(9)),
        ..api_key(APPLICATION, "k", 1).made(StoreTime(5))
    }
}

/// Every kind of row is put back as it was, over one of its name.
pub async fn what_is_restored_is_as_it_was(subject: Subject) {
    let store = &*subject.store;
    let known = FreshGrant {
        fingerprint: Some([1; 32]),
        ..fresh("v1")
    };
    let row = authorized(store, authorization("c", "g", 0, known)).await;
    let connection = store.connection(&key("c")).await.expect("read");
    let connection = connection.expect("there");
    store.delete_connection(&key("c")).await.expect("delete");
    store
        .delete_consumer(&APPLICATION.into(), &"c".into())
        .await
        .expect("delete");
    let application = Application {
        id: APPLICATION.into(),
        name: "Acme".to_owned(),
        created_at: StoreTime(5),
        settings: ApplicationSettings {
            nonce_required: true,
            ..ApplicationSettings::default()
        },
    };
    let consumer = Consumer {
        metadata: Map::from_iter([("email".to_owned(), "a@example.test".into())]),
        ..Consumer::new(APPLICATION.into(), "c".into(), StoreTime(6))
    };
    let token = ReplacedToken {
        grant: "g".into(),
        slot: 3,
        fingerprint: [2; 32],
        at: StoreTime(7),
    };
    let login = AttemptRow {
        revision: 5,
        ..attempt("one", "c")
    };
    let records = || {
        vec![
            Record::Value("v".to_owned(), vec![1]),
            Record::Key(kept_key()),
            Record::Client(oauth_client(APPLICATION, SERVICE)),
            Record::Grant(Box::new(row.clone())),
            Record::Consumer(consumer.clone()),
            Record::Application(application.clone()),
            Record::Connection(Box::new(connection.clone())),
            Record::Unread(answer("g", 4, 1)),
            Record::Replaced(token.clone()),
            Record::Attempt(Box::new(login.clone())),
        ]
    };
    for _ in 0..2 {
        store.restore(records()).await.expect("restore");
    }
    assert_eq!(store.value("v").await, Ok(Some(vec![1])));
    let digest = api_key(APPLICATION, "k", 1).digest;
    let found = store.key_by_digest(&digest).await;
    let found = found.map(|found| found.map(|found| found.value));
    assert_eq!(found, Ok(Some(kept_key())));
    let clients = store.clients_after(None, 10).await;
    assert_eq!(clients, Ok(vec![oauth_client(APPLICATION, SERVICE)]));
    assert_eq!(store.grants_after(None, 10).await, Ok(vec![row]));
    assert_eq!(
        store.connections_after(None, 10).await,
        Ok(vec![connection])
    );
    assert_eq!(store.consumers_after(None, 10).await, Ok(vec![consumer]));
    assert_eq!(store.applications().await, Ok(vec![application]));
    let answers = store.unread_after(None, 10).await;
    assert_eq!(answers, Ok(vec![answer("g", 4, 1)]));
    assert_eq!(
        store.replaced_after(None, 10).await,
        Ok(vec![token.clone()])
    );
    let after = Some((&token.grant, token.slot));
    assert_eq!(store.replaced_after(after, 10).await, Ok(vec![]));

    assert_eq!(store.attempts_after(None, 10).await, Ok(vec![login]));

    // And it counts.
    let old = FreshGrant {
        fingerprint: Some(token.fingerprint),
        ..fresh("old")
    };
    let request = authorization("c", "g", 1, old);
    let reply = store.authorize(request).await.expect("authorize").value;
    let conflict = Conflict::Replaced {
        grant: token.grant,
        at: token.at,
    };
    assert_eq!(reply, tokenward::store::Authorized::Conflict(conflict));
}
