//! What is still there when the store is opened again.

use serde_json::json;
use tokenward::{
    refresh::ledger::{ClaimReply, FailureKind, FreshGrant, GrantRow, Verdict},
    store::{ApiKey, Application, Connection, ConnectionPatch, Consumer, OAuthClient, Store},
};

use super::{
    scene::*,
    tenants::{api_key, oauth_client},
};

/// Everything that can be read, as far as the test below writes it.
#[derive(Debug, PartialEq)]
struct Contents {
    grants: Vec<GrantRow>,
    connections: Vec<Connection>,
    clients: Vec<OAuthClient>,
    applications: Vec<Application>,
    keys: Vec<ApiKey>,
    consumers: Vec<Consumer>,
    value: Vec<u8>,
    position: u64,
}

async fn contents(store: &dyn Store) -> Contents {
    let acme = APPLICATION.into();
    Contents {
        grants: store.grants_after(None, 100).await.expect("read"),
        connections: store.connections(&acme, None).await.expect("read"),
        clients: store.clients(&acme).await.expect("read"),
        applications: store.applications().await.expect("read"),
        keys: store.keys(&acme).await.expect("read"),
        consumers: store.consumers_after(None, 100).await.expect("read"),
        value: store.value_or_insert("key", vec![9]).await.expect("read"),
        position: store.changes(None).await.expect("read").next,
    }
}

/// Whatever a verb has answered is there after the store was closed and opened again: claims and
/// attempts too. A store that forgets (the memory one) has nothing to prove.
pub async fn everything_survives_reopening(subject: Subject) {
    let Subject { store, reopen } = subject;
    let Some(reopen) = reopen else { return };

    store
        .add_application(&APPLICATION.into(), "Acme")
        .await
        .expect("add");
    store
        .add_key(api_key(APPLICATION, "k", 1))
        .await
        .expect("add");
    store
        .put_client(oauth_client(APPLICATION, SERVICE))
        .await
        .expect("put");
    store.put_value("key", vec![1, 2, 3]).await.expect("put");
    for grant in ["claimed", "committed", "dead", "fresh", "lost"] {
        let fresh = FreshGrant {
            keep_alive: Some(HOUR),
            fingerprint: Some([grant.len() as u8 ^ grant.as_bytes()[0]; 32]),
            ..fresh("v1")
        };
        authorized(&*store, authorization(grant, grant, 0, fresh)).await;
        if grant != "fresh" {
            claimed(&*store, grant, 1, "p", HOUR).await;
        }
    }
    committed(&*store, "committed", 1, 1, "v2").await;
    settled(
        &*store,
        "dead",
        1,
        1,
        Verdict::Dead {
            reason: "invalid_grant".to_owned(),
        },
    )
    .await;
    let lost = Verdict::Failed {
        kind: FailureKind::Unknown,
        message: "reset".to_owned(),
        retry_in: HOUR,
        asked: false,
    };
    settled(&*store, "lost", 1, 1, lost).await;
    let patch = ConnectionPatch {
        enabled: Some(false),
        settings: json!({"org": {"id": 1.5}}).as_object().cloned(),
        metadata: json!({"who": "ü"}).as_object().cloned(),
    };
    store
        .save_connection(&key("fresh"), patch)
        .await
        .expect("save");

    let before = contents(&*store).await;
    assert_eq!(before.grants.len(), 5);
    drop(store);
    let store = reopen();
    assert_eq!(contents(&*store).await, before);
    assert!(matches!(
        claim(&*store, "claimed", 1, "q", HOUR).await,
        ClaimReply::Held(_)
    ));
    assert!(matches!(
        claim(&*store, "claimed", 1, "p", HOUR).await,
        ClaimReply::Claimed(_)
    ));
}
