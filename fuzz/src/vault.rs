//! Targets that need a vault: one in memory, with a connection.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use tokenward::{
    ConnectionKey, Secret, Vault, VaultConfig,
    connector::Catalogue,
    oauth::TokenRequest,
    observe::Blind,
    seal::{Key, Keyring},
    spool::{Spool, Spooled},
    store::MemoryStore,
    time::{Clock, SeededChance, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
    vault::{Import, Resolved, VaultParts},
};
use tokio::runtime::Runtime;

const CONNECTOR: &str = r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[authorization]
url = "https://id.acme.example/authorize"
[token]
url = "https://id.acme.example/token"
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[api]
base_url = "https://{token.pod}.acme.example/v1"
hosts = ["https://api.acme.example", "https://*.pods.acme.example", "http://127.0.0.1:8080"]
[settings.tenant]
label = "Tenant"
[settings.odd]
label = "Odd"
"#;

/// Nobody is asked anything.
#[derive(Debug)]
struct Silence;

#[async_trait]
impl Transport for Silence {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        Err(TransportError::NotSent("there is no network".to_owned()))
    }
}

/// One entry at a time.
#[derive(Debug, Default)]
struct OneEntry(Mutex<BTreeMap<String, Vec<u8>>>);

impl OneEntry {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().expect("no panic while locked")
    }
}

#[async_trait]
impl Spool for OneEntry {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        self.entries().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<Spooled>, String> {
        let entries = self.entries().clone();
        Ok(entries
            .into_iter()
            .map(|(name, bytes)| Spooled { name, bytes })
            .collect())
    }

    async fn remove(&self, name: &str) -> Result<(), String> {
        self.entries().remove(name);
        Ok(())
    }

    async fn set_aside(&self, name: &str) -> Result<(), String> {
        let bytes = self.entries().remove(name);
        self.entries()
            .insert("aside".to_owned(), bytes.unwrap_or_default());
        Ok(())
    }
}

struct World {
    runtime: Runtime,
    vault: Vault,
    resolved: Arc<Resolved>,
    spool: Arc<OneEntry>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let spool = Arc::new(OneEntry::default());
        let made = runtime.block_on(async {
            let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
            let mut catalogue = Catalogue::default();
            catalogue.add("acme.toml", CONNECTOR).expect("a good file");
            let vault = Vault::open(VaultParts {
                store: Arc::new(MemoryStore::new(clock.clone())),
                keyring: Keyring::new(vec![Key::generate()]).expect("a key"),
                transport: Arc::new(Silence),
                spool: spool.clone(),
                observer: Arc::new(Blind),
                clock,
                chance: Arc::new(SeededChance::new(1)),
                catalogue,
                config: VaultConfig::default(),
            });
            let vault = vault.await.expect("a vault");
            let key = ConnectionKey::new("app", "cust", "crm", "acme");
            let settings = [
                ("tenant".to_owned(), "t-1".into()),
                ("odd".to_owned(), "a b".into()),
            ];
            let import = Import {
                access_token: Some(Secret::new("at")),
                refresh_token: Some(Secret::new("rt")),
                settings: Some(settings.into_iter().collect()),
                ..Import::default()
            };
            vault.import(&key, import).await.expect("an import");
            let resolved = vault.resolve(&key).await.expect("a connection");
            (vault, resolved)
        });
        World {
            runtime,
            vault: made.0,
            resolved: made.1,
            spool,
        }
    })
}

/// An answer's headers as the caller gets them.
pub(crate) fn finish(headers: &mut http::HeaderMap, status: http::StatusCode) {
    let resolved = &world().resolved;
    tokenward_server::fuzz::finish(headers, status, "https://api.acme.example/x", resolved);
}

/// A URL for `/proxy`: what is let through goes to a listed origin and to no other, read by the
/// parser that the connection is made with.
pub fn proxy_target(data: &[u8]) {
    let Ok(given) = std::str::from_utf8(data) else {
        return;
    };
    let Some(uri) = tokenward_server::fuzz::target(given, &world().resolved) else {
        return;
    };
    // The second time it may be known already where it leads.
    let again = tokenward_server::fuzz::target(given, &world().resolved);
    assert_eq!(Some(&uri), again.as_ref());
    let authority = uri.authority().expect("absolute").as_str();
    assert!(!authority.contains('@'), "{authority}");
    let host = uri.host().expect("absolute");
    let port = uri.port_u16();
    let listed = match uri.scheme_str() {
        Some("https") => {
            let pod = host
                .strip_suffix(".pods.acme.example")
                .is_some_and(|front| !front.is_empty());
            (host == "api.acme.example" || pod) && port.is_none_or(|port| port == 443)
        }
        Some("http") => host == "127.0.0.1" && port == Some(8080),
        _ => false,
    };
    assert!(listed, "{given:?} goes to {uri}");
    let url: url::Url = uri.to_string().parse().expect("a URL, too");
    assert_eq!(url.host_str(), Some(host));
}

/// A file in the spool: adopted, kept or put aside, never just gone.
pub fn spool_entry(data: &[u8]) {
    let World {
        runtime,
        vault,
        spool,
        ..
    } = world();
    spool.entries().clear();
    spool.entries().insert("entry".to_owned(), data.to_vec());
    runtime.block_on(vault.adopt_spool());
    // Nobody but the vault has its key, so nothing can be adopted.
    let entries = spool.entries();
    assert_eq!(entries.len(), 1);
    assert!(entries.values().all(|bytes| bytes == data));
}
