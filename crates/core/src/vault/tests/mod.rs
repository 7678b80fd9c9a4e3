//! The engine on a memory store, a scripted provider and paused time.

mod bounds;
mod connect;
mod copies;
mod failures;
mod hanging;
mod herd;
mod keys;
mod people;
mod rejections;
mod sharing;
mod spool;
mod strangers;
mod unread;
mod upkeep;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::{
    error::TokenError,
    id::OwnerId,
    oauth::{TokenRequest, TokenSet},
    observe::Signal,
    refresh::{
        ledger::{ClaimReply, ClaimRequest, CommitRequest, Need},
        replay::ReplayPolicy,
    },
    seal::Key,
    secret::Secret,
    spool::FolderSpool,
    store::{ConnectionPatch, MemoryStore, prelude::*},
    sync::lock,
    time::{Moment, SeededChance, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
};

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
replay = { policy = "POLICY" }
idle_lifetime_s = 14400
[revocation]
url = "https://id.acme.example/revoke"
scope = "grant"
[api]
hosts = ["https://api.acme.example"]
"#;

/// What the provider does with the next request; afterwards it grants.
#[derive(Clone, Debug)]
enum Act {
    Lose,
    Refuse,
    RefuseClient,
    Throttle(u64),
    NotSent,
    /// Thinks for this long, then grants.
    Think(Duration),
    /// Grants without a word about the lifetime.
    NoLifetime,
}

/// A provider with strict rotation: only the newest refresh token works, once.
#[derive(Debug)]
struct Provider {
    clock: Arc<dyn Clock>,
    /// For the connection, before anything is sent.
    connect: Mutex<Duration>,
    latency: Duration,
    revoke_latency: Duration,
    lifetime: u64,
    acts: Mutex<Vec<Act>>,
    current: Mutex<u64>,
    refreshes: AtomicUsize,
    replays: AtomicUsize,
    revocations: AtomicUsize,
    store_dies: AtomicBool,
    store: Arc<MemoryStore>,
}

impl Provider {
    fn new(clock: &Arc<dyn Clock>, store: &Arc<MemoryStore>) -> Self {
        Self {
            clock: clock.clone(),
            connect: Mutex::default(),
            latency: Duration::from_millis(200),
            revoke_latency: Duration::from_millis(30),
            lifetime: 600,
            acts: Mutex::default(),
            current: Mutex::new(1),
            refreshes: AtomicUsize::new(0),
            replays: AtomicUsize::new(0),
            revocations: AtomicUsize::new(0),
            store_dies: AtomicBool::new(false),
            store: store.clone(),
        }
    }
}

#[async_trait]
impl Transport for Provider {
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        let connect = *lock(&self.connect);
        self.clock.sleep(connect).await;
        if !patience.may_send(&*self.clock).await {
            return Err(TransportError::TooLate);
        }
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let answer = |status: u16, headers: HeaderMap, body: String| {
            Ok(Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                body: body.into(),
            })
        };
        if request.endpoint.url().path() == "/revoke" {
            self.clock.sleep(self.revoke_latency).await;
            self.revocations.fetch_add(1, Ordering::SeqCst);
            return answer(200, HeaderMap::new(), String::new());
        }
        let act = lock(&self.acts).pop();
        if let Some(Act::NotSent) = act {
            return Err(TransportError::NotSent("connection refused".to_owned()));
        }
        self.clock.sleep(self.latency / 2).await;
        match &act {
            Some(Act::Throttle(seconds)) => {
                let headers = [(http::header::RETRY_AFTER, (*seconds).into())]
                    .into_iter()
                    .collect();
                return answer(429, headers, String::new());
            }
            Some(Act::Think(time)) => {
                self.clock.sleep((*time).min(patience.answer)).await;
                if *time > patience.answer {
                    return Err(TransportError::NoAnswer("timeout".to_owned()));
                }
            }
            Some(Act::RefuseClient) => {
                return answer(
                    401,
                    HeaderMap::new(),
                    r#"{"error":"invalid_client"}"#.to_owned(),
                );
            }
            Some(Act::Refuse) => {
                return answer(
                    400,
                    HeaderMap::new(),
                    r#"{"error":"invalid_grant"}"#.to_owned(),
                );
            }
            _ => {}
        }
        self.refreshes.fetch_add(1, Ordering::SeqCst);
        let reply = {
            let mut current = lock(&self.current);
            if body.contains(&format!("refresh_token=rt-{current}&"))
                || body.ends_with(&format!("refresh_token=rt-{current}"))
            {
                *current += 1;
                Some(format!(
                    r#"{{"access_token":"at-{current}","refresh_token":"rt-{current}","expires_in":{}}}"#,
                    self.lifetime
                ))
            } else {
                self.replays.fetch_add(1, Ordering::SeqCst);
                None
            }
        };
        if self.store_dies.swap(false, Ordering::SeqCst) {
            self.store.set_down(true);
        }
        self.clock.sleep(self.latency / 2).await;
        if matches!(act, Some(Act::Lose)) {
            return Err(TransportError::NoAnswer("connection reset".to_owned()));
        }
        let reply = match (reply, act) {
            (Some(body), Some(Act::NoLifetime)) => body
                .split_once(",\"expires_in\"")
                .map(|(kept, _)| format!("{kept}}}")),
            (reply, _) => reply,
        };
        match reply {
            Some(body) => answer(200, HeaderMap::new(), body),
            None => answer(
                400,
                HeaderMap::new(),
                r#"{"error":"invalid_grant"}"#.to_owned(),
            ),
        }
    }
}

impl Vault {
    /// Forgets every copy, as if each had been evicted.
    fn forget_all(&self) {
        self.inner.hear();
        self.inner.connections.pin().clear();
        self.inner.grants.pin().clear();
    }
}

struct World {
    vault: Vault,
    provider: Arc<Provider>,
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    key: ConnectionKey,
    keyring: Keyring,
    spool: tempdir::Folder,
    catalogue: Catalogue,
}

/// A folder that is removed in the end.
mod tempdir {
    #[derive(Debug)]
    pub(super) struct Folder(pub(super) std::path::PathBuf);
    impl Folder {
        pub(super) fn new() -> Self {
            Self(std::env::temp_dir().join(format!("tokenward-test-{}", uuid::Uuid::now_v7())))
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl World {
    async fn new(policy: &str) -> Self {
        Self::with_connector(&CONNECTOR.replace("POLICY", policy)).await
    }

    /// A provider whose revocations end all that a user has granted.
    async fn user_scoped() -> Self {
        let text = CONNECTOR.replace("POLICY", "revokes");
        Self::with_connector(&text.replace(r#"scope = "grant""#, r#"scope = "user""#)).await
    }

    async fn with_connector(connector: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let keyring = Keyring::new(vec![Key::generate()]).unwrap();
        let provider = Arc::new(Provider::new(&clock, &store));
        let spool = tempdir::Folder::new();
        let key = ConnectionKey::new("app", "cust", "crm", "acme");
        let mut catalogue = Catalogue::default();
        catalogue.add("acme.toml", connector).unwrap();
        let parts = VaultParts {
            spool: Arc::new(FolderSpool::new(&spool.0)),
            clock: clock.clone(),
            chance: Arc::new(SeededChance::new(1)),
            catalogue: catalogue.clone(),
            ..VaultParts::new(store.clone(), keyring.clone(), provider.clone())
        };
        let vault = Vault::open(parts).await.unwrap();
        vault
            .set_client(
                &key.application,
                &key.service,
                "id",
                Some(&Secret::new("cs")),
                Default::default(),
                vec![],
            )
            .await
            .unwrap();
        let world = Self {
            vault,
            provider,
            store,
            clock,
            key,
            keyring,
            spool,
            catalogue,
        };
        world.import(&world.key, "1").await;
        world
    }

    /// What another process on the same store is made of.
    fn parts(&self) -> VaultParts {
        let provider = self.provider.clone();
        VaultParts {
            spool: Arc::new(FolderSpool::new(&self.spool.0)),
            clock: self.clock.clone(),
            chance: Arc::new(SeededChance::new(1)),
            catalogue: self.catalogue.clone(),
            ..VaultParts::new(self.store.clone(), self.keyring.clone(), provider)
        }
    }

    /// Another process on the same store.
    async fn other(&self) -> Vault {
        Vault::open(self.parts()).await.unwrap()
    }

    async fn import(&self, key: &ConnectionKey, number: &str) {
        let import = Import {
            access_token: Some(Secret::new(format!("at-{number}"))),
            refresh_token: Some(Secret::new(format!("rt-{number}"))),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        self.vault.import(key, import).await.unwrap();
    }

    async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    fn refreshes(&self) -> usize {
        self.provider.refreshes.load(Ordering::SeqCst)
    }

    async fn token(&self) -> Result<String, TokenError> {
        self.vault
            .token(&self.key)
            .await
            .map(|token| token.secret().expose().to_owned())
    }
}

async fn tokens_at_once(
    vault: &Vault,
    key: &ConnectionKey,
    callers: usize,
) -> Vec<Result<Held, TokenError>> {
    let tasks = TaskTracker::new();
    let handles: Vec<_> = (0..callers)
        .map(|_| {
            let (vault, key) = (vault.clone(), key.clone());
            tasks.spawn(async move { vault.token(&key).await })
        })
        .collect();
    let mut results = Vec::new();
    for handle in handles {
        results.push(handle.await.unwrap());
    }
    results
}
