//! What strangers write into settings: it is checked on the way in, and steers no secret on the
//! way out.

use serde_json::{Map, Value, json};

use super::*;
use crate::connector::SettingProblem;

/// Says where requests went, and grants to all of them.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<String>>);

#[async_trait]
impl Transport for Recorder {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        lock(&self.0).push(request.endpoint.to_string());
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: r#"{"access_token":"at-2","refresh_token":"rt-2","expires_in":600}"#.into(),
        })
    }
}

fn settings(name: &str, value: Value) -> Map<String, Value> {
    [(name.to_owned(), value)].into_iter().collect()
}

async fn world() -> (World, Arc<Recorder>, Vault) {
    let text = CONNECTOR
        .replace("POLICY", "harmless")
        .replace(
            "[authorization]\nurl = \"https://id.acme.example/",
            "[oauth]\nhosts = [\"https://*.acme.example\"]\n[authorization]\nurl = \"https://{settings.host}/",
        )
        .replace("url = \"https://id.acme.example/", "url = \"https://{settings.host}/")
        + "[settings.host]\nlabel = \"Host\"\ntype = \"host\"\ndefault = \"id.acme.example\"\n";
    let world = World::with_connector(&text).await;
    let recorder = Arc::new(Recorder::default());
    let parts = VaultParts {
        transport: recorder.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    (world, recorder, vault)
}

impl World {
    /// Past the checks, as an older version may have stored it.
    async fn store_host(&self, host: &str) {
        let patch = ConnectionPatch {
            settings: Some(settings("host", json!(host))),
            ..ConnectionPatch::default()
        };
        self.store.save_connection(&self.key, patch).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_go_to_listed_hosts_only_at_every_endpoint() {
    for (host, listed) in [
        ("eu.acme.example", true),
        ("evil.example", false),
        ("acme.example.evil.example", false),
    ] {
        let (world, recorder, vault) = world().await;
        world.store_host(host).await;
        assert_eq!(vault.validate(&world.key).await.is_ok(), listed, "{host}");
        vault.delete(&world.key).await.unwrap();
        vault.drain(Duration::from_secs(60)).await;
        let went = lock(&recorder.0).clone();
        let expected: &[String] = &[
            format!("https://{host}/token"),
            format!("https://{host}/revoke"),
        ];
        assert_eq!(went, if listed { expected } else { &[] }, "{host}");
    }
    // A path, a query or a user in a host's place is not used at all: the default is.
    for host in [
        "eu.acme.example/x?",
        "u@eu.acme.example",
        "eu.acme.example#",
    ] {
        let (world, recorder, vault) = world().await;
        world.store_host(host).await;
        assert!(vault.validate(&world.key).await.is_ok());
        assert_eq!(
            *lock(&recorder.0),
            ["https://id.acme.example/token"],
            "{host}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn settings_from_strangers_are_checked_on_every_way_in() {
    let (world, _, vault) = world().await;
    let key = &world.key;
    let other = ConnectionKey::new("app", "cust-2", "crm", "acme");
    for (name, value) in [("host", json!("a/b")), ("hosts", json!("eu.acme.example"))] {
        let patch = ConnectionPatch {
            settings: Some(settings(name, value)),
            ..ConnectionPatch::default()
        };
        let import = Import {
            access_token: Some(Secret::new("at")),
            settings: patch.settings.clone(),
            ..Import::default()
        };
        let refused = [
            vault.update(key, patch.clone()).await.unwrap_err(),
            vault.link(&other, key, patch).await.unwrap_err(),
            vault.import(&other, import).await.unwrap_err(),
        ];
        for error in refused {
            let AdminError::Setting(error) = error else {
                panic!("{error}");
            };
            assert_eq!(error.name, name);
            assert_eq!(
                matches!(error.problem, SettingProblem::Unknown { .. }),
                name == "hosts"
            );
        }
    }
    assert!(vault.store().connection(&other).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn metadata_does_not_grow_without_end() {
    let (world, _, vault) = world().await;
    let mut refused = false;
    for number in 0..100 {
        let patch = ConnectionPatch {
            metadata: Some(settings(&format!("k{number}"), json!("x".repeat(1000)))),
            ..ConnectionPatch::default()
        };
        refused |= vault.update(&world.key, patch).await.is_err();
    }
    let stored = vault.store().connection(&world.key).await.unwrap().unwrap();
    assert!(refused && stored.metadata.len() < 20);
}
