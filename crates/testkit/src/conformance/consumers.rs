//! Applications' customers.

use serde_json::{Map, Value, json};
use tokenward::{
    ConnectionKey,
    store::{
        ApplicationSettings, ConnectionPatch, Consumer, ConsumerDeletion, ConsumerFilter, Store,
        Theme,
    },
    time::StoreTime,
};
use tokio::task::JoinSet;

use super::scene::*;

fn map(value: &Value) -> Option<Map<String, Value>> {
    value.as_object().cloned()
}

async fn ids(store: &dyn Store, filter: ConsumerFilter) -> Vec<String> {
    let app = APPLICATION.into();
    let page = store.consumers(&app, &filter, None, 100);
    let page = page.await.expect("read");
    page.iter().map(|it| it.id.to_string()).collect()
}

async fn made(store: &dyn Store, id: &str) -> Consumer {
    store
        .save_consumer(&APPLICATION.into(), &id.into(), None)
        .await
        .expect("save")
}

/// A consumer is made once, and its metadata is merged.
pub async fn consumers_round_trip(subject: Subject) {
    let store = &*subject.store;
    let (app, id) = (APPLICATION.into(), "ü/1".into());
    assert_eq!(store.consumer(&app, &id).await, Ok(None));
    let new = made(store, "ü/1").await;
    assert_eq!((&new.application, &new.id), (&app, &id));
    assert!(new.metadata.is_empty());
    assert!(new.created_at > StoreTime(0) && new.modified_at == new.created_at);

    let said = map(&json!({ "email": "a@example.test", "seats": 3 }));
    let changed = store.save_consumer(&app, &id, said).await.expect("save");
    let more = map(&json!({ "seats": null, "user_name": "Ü" }));
    let merged = store.save_consumer(&app, &id, more).await.expect("save");
    assert_eq!(
        Some(merged.metadata.clone()),
        map(&json!({ "email": "a@example.test", "user_name": "Ü" }))
    );
    assert_eq!(merged.created_at, new.created_at);
    assert!(merged.modified_at >= changed.modified_at);
    // What changes nothing is no change.
    assert_eq!(made(store, "ü/1").await, merged);
    assert_eq!(store.consumer(&app, &id).await, Ok(Some(merged)));
    assert_eq!(store.consumer(&"other".into(), &id).await, Ok(None));

    let deleted = store.delete_consumer(&"other".into(), &id).await;
    assert_eq!(deleted, Ok(ConsumerDeletion::Missing));
    let deleted = store.delete_consumer(&app, &id).await;
    assert_eq!(deleted, Ok(ConsumerDeletion::Deleted));
    let deleted = store.delete_consumer(&app, &id).await;
    assert_eq!(deleted, Ok(ConsumerDeletion::Missing));
    assert_eq!(store.consumer(&app, &id).await, Ok(None));
}

/// Changes to one consumer at once are all merged.
pub async fn concurrent_metadata_is_all_merged(subject: Subject) {
    let mut all = JoinSet::new();
    for number in 0..8 {
        let store = subject.store.clone();
        let name = format!("n{number}");
        all.spawn(async move {
            let metadata = Map::from_iter([(name, Value::from(number))]);
            store
                .save_consumer(&APPLICATION.into(), &"c".into(), Some(metadata))
                .await
                .expect("save");
        });
    }
    all.join_all().await;
    assert_eq!(made(&*subject.store, "c").await.metadata.len(), 8);
}

/// Whatever makes a connection makes its consumer, and leaves one that is there alone.
pub async fn a_connection_makes_its_consumer(subject: Subject) {
    let store = &*subject.store;
    let metadata = map(&json!({ "email": "a@example.test" }));
    let known = store
        .save_consumer(&APPLICATION.into(), &"known".into(), metadata)
        .await
        .expect("save");
    let patch = ConnectionPatch::default;
    store
        .save_connection(&key("known"), patch())
        .await
        .expect("save");
    assert_eq!(made(store, "known").await, known);

    store
        .save_connection(&key("patched"), patch())
        .await
        .expect("save");
    authorized(store, authorization("authorized", "g", 0, fresh("v1"))).await;
    store
        .link(&key("linked"), &"g".into(), patch())
        .await
        .expect("link");
    let other = ConnectionKey::new(APPLICATION, "known", "crm", "aaa");
    store.save_connection(&other, patch()).await.expect("save");
    let (app, asked) = (APPLICATION.into(), ["linked".into(), "known".into()]);
    let services = store.consumer_services(&app, &asked).await.expect("read");
    let services: Vec<_> = services
        .iter()
        .map(|(consumer, service)| (consumer.as_str(), service.as_str()))
        .collect();
    assert_eq!(
        services,
        [("known", "aaa"), ("known", SERVICE), ("linked", SERVICE)]
    );
    let all = ["authorized", "known", "linked", "patched"];
    assert_eq!(ids(store, ConsumerFilter::default()).await, all);
    let connection = store.connection(&key("patched")).await.expect("read");
    let connection = connection.expect("it is there");
    assert_eq!(
        made(store, "patched").await.created_at,
        connection.created_at
    );
}

/// A consumer stays as long as it has a connection, and goes with its application.
pub async fn a_consumer_with_connections_stays(subject: Subject) {
    let store = &*subject.store;
    let (app, id) = (APPLICATION.into(), "c".into());
    store.add_application(&app, "Acme").await.expect("add");
    authorized(store, authorization("c", "g", 0, fresh("v1"))).await;
    let deleted = store.delete_consumer(&app, &id).await;
    assert_eq!(deleted, Ok(ConsumerDeletion::InUse));
    store.delete_connection(&key("c")).await.expect("delete");
    assert_eq!(ids(store, ConsumerFilter::default()).await, ["c"]);
    assert_eq!(store.delete_application(&app).await, Ok(true));
    assert_eq!(store.consumer(&app, &id).await, Ok(None));
}

/// Nobody has a connection without being a consumer, whatever is deleted meanwhile.
pub async fn no_connection_outlives_its_consumer(subject: Subject) {
    for round in 0..20 {
        let name = format!("c{round}");
        let (here, there) = (subject.store.clone(), subject.store.clone());
        made(&*here, &name).await;
        let (place, id) = (key(&name), name.as_str().into());
        let mut both = JoinSet::new();
        both.spawn(async move {
            let patch = ConnectionPatch::default();
            here.save_connection(&place, patch).await.expect("save");
        });
        both.spawn(async move {
            let deleted = there.delete_consumer(&APPLICATION.into(), &id).await;
            deleted.expect("delete");
        });
        both.join_all().await;
        assert_eq!(
            ids(&*subject.store, ConsumerFilter::default()).await.len(),
            round + 1
        );
    }
}

/// Pages meet every consumer once, and filters are taken literally.
pub async fn consumers_page_by_id(subject: Subject) {
    let store = &*subject.store;
    let all = ["a", "a%c", "a_b", "abc", "b", "cab", "ä"];
    for id in all.iter().rev() {
        made(store, id).await;
    }
    store
        .save_consumer(&"other".into(), &"abc".into(), None)
        .await
        .expect("save");
    let app = APPLICATION.into();
    let (everybody, mut met, mut after) = (ConsumerFilter::default(), Vec::new(), None);
    loop {
        let page = store.consumers(&app, &everybody, after.as_ref(), 3);
        let page = page.await.expect("read");
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        met.extend(page.iter().map(|it| it.id.to_string()));
    }
    assert_eq!(met, all);

    let filtered = async |prefix: Option<&str>, contains: Option<&str>| {
        let filter = ConsumerFilter {
            prefix: prefix.map(Into::into),
            contains: contains.map(Into::into),
        };
        ids(store, filter).await
    };
    assert_eq!(filtered(Some("a_"), None).await, ["a_b"]);
    assert_eq!(filtered(Some("a%"), None).await, ["a%c"]);
    assert_eq!(filtered(Some("ä"), None).await, ["ä"]);
    assert_eq!(filtered(Some("A"), None).await, [""; 0]);
    assert_eq!(filtered(None, Some("ab")).await, ["abc", "cab"]);
    assert_eq!(filtered(None, Some("_")).await, ["a_b"]);
    assert_eq!(filtered(Some("a"), Some("c")).await, ["a%c", "abc"]);

    let page = store.consumers_after(None, 7).await.expect("read");
    assert_eq!(page.len(), 7);
    let last = &page[6];
    let rest = store.consumers_after(Some((&last.application, &last.id)), 7);
    let rest = rest.await.expect("read");
    let rest: Vec<_> = rest.iter().map(|it| it.application.as_str()).collect();
    assert_eq!(rest, ["other"]);
}

/// Settings are replaced by whoever has read the present ones.
pub async fn settings_round_trip(subject: Subject) {
    let store = &*subject.store;
    let app = APPLICATION.into();
    let nothing = ApplicationSettings::default();
    let some = ApplicationSettings {
        redirect_urls: vec!["https://app.example.test/back?a=1".to_owned()],
        nonce_required: true,
        theme: Theme {
            vault_name: Some("Ü".to_owned()),
            ..Theme::default()
        },
        ..nothing.clone()
    };
    assert_eq!(store.application(&app).await, Ok(None));
    let replaced = store.replace_settings(&app, &nothing, some.clone()).await;
    assert_eq!(replaced, Ok(false));
    let made = store.add_application(&app, "Acme").await.expect("add");
    assert_eq!(made.settings, nothing);
    for (read, replaced) in [(&nothing, true), (&nothing, false), (&some, true)] {
        let done = store.replace_settings(&app, read, some.clone()).await;
        assert_eq!(done, Ok(replaced));
    }
    let application = store.application(&app).await.expect("read");
    let application = application.expect("it is there");
    assert_eq!(application.settings, some);
    assert_eq!(store.applications().await, Ok(vec![application]));
}
