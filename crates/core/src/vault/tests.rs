//! The engine on a memory store, a scripted provider and paused time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::{
    id::OwnerId,
    oauth::TokenRequest,
    observe::Blind,
    refresh::{ledger::ClaimRequest, replay::ReplayPolicy},
    seal::Key,
    secret::Secret,
    spool::FolderSpool,
    store::{ConnectionPatch, MemoryStore},
    sync::lock,
    time::{SeededChance, TokioClock},
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

#[async_trait]
impl Transport for Provider {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let answer = |status: u16, headers: HeaderMap, body: String| {
            Ok(Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                body: body.into(),
            })
        };
        if request.url.path() == "/revoke" {
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
            Some(Act::Think(time)) => self.clock.sleep(*time).await,
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

struct World {
    vault: Vault,
    provider: Arc<Provider>,
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    key: ConnectionKey,
    keyring: Keyring,
    spool: tempdir::Folder,
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
        let provider = Arc::new(Provider {
            clock: clock.clone(),
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
        });
        let spool = tempdir::Folder::new();
        let key = ConnectionKey::new("app", "cust", "crm", "acme");
        let vault = open_with(&store, &keyring, &provider, &clock, &spool, connector).await;
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
        };
        world.import(&world.key, "1").await;
        world
    }

    /// Another process on the same store.
    async fn other(&self, policy: &str) -> Vault {
        open(
            &self.store,
            &self.keyring,
            &self.provider,
            &self.clock,
            &self.spool,
            policy,
        )
        .await
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

async fn open(
    store: &Arc<MemoryStore>,
    keyring: &Keyring,
    provider: &Arc<Provider>,
    clock: &Arc<dyn Clock>,
    spool: &tempdir::Folder,
    policy: &str,
) -> Vault {
    let connector = CONNECTOR.replace("POLICY", policy);
    open_with(store, keyring, provider, clock, spool, &connector).await
}

async fn open_with(
    store: &Arc<MemoryStore>,
    keyring: &Keyring,
    provider: &Arc<Provider>,
    clock: &Arc<dyn Clock>,
    spool: &tempdir::Folder,
    connector: &str,
) -> Vault {
    let mut catalogue = Catalogue::default();
    catalogue.add("acme.toml", connector).unwrap();
    Vault::open(VaultParts {
        store: store.clone(),
        keyring: keyring.clone(),
        transport: provider.clone(),
        spool: Arc::new(FolderSpool::new(&spool.0)),
        observer: Arc::new(Blind),
        clock: clock.clone(),
        chance: Arc::new(SeededChance::new(1)),
        catalogue,
        config: VaultConfig::default(),
    })
    .await
    .unwrap()
}

async fn tokens_at_once(
    vault: &Vault,
    key: &ConnectionKey,
    callers: usize,
) -> Vec<Result<Arc<Token>, TokenError>> {
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

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_cause_one_refresh() {
    let world = World::new("revokes").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(580).await;
    for result in tokens_at_once(&world.vault, &world.key, 1000).await {
        assert_eq!(result.unwrap().secret().expose(), "at-2");
    }
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn processes_on_one_store_cause_one_refresh() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let others = [
        world.vault.clone(),
        world.other("revokes").await,
        world.other("revokes").await,
    ];
    let tasks = TaskTracker::new();
    let handles: Vec<_> = others
        .into_iter()
        .map(|vault| {
            let key = world.key.clone();
            tasks.spawn(async move { tokens_at_once(&vault, &key, 50).await })
        })
        .collect();
    for handle in handles {
        for result in handle.await.unwrap() {
            assert_eq!(result.unwrap().secret().expose(), "at-2");
        }
    }
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_extended_while_the_provider_thinks() {
    let world = World::new("harmless").await;
    world.pass(700).await;
    // More than twice a claim's length: whoever took over would send a second time.
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(50))];
    let other = world.other("harmless").await;
    let _ = tokio::join!(world.vault.token(&world.key), async {
        for _ in 0..3 {
            let _ = other.token(&world.key).await;
        }
    });
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_does_not_wait_for_a_refresh_under_way() {
    let world = World::new("harmless").await;
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(20))];
    let (forced, ()) = tokio::join!(world.vault.validate(&world.key), async {
        world.pass(1).await;
        let before = world.clock.now();
        assert_eq!(world.token().await.unwrap(), "at-1");
        assert_eq!(world.clock.now(), before);
    });
    assert_eq!(forced.unwrap().version(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unsaid_life_is_refreshed_by_the_connectors_assumption() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::NoLifetime];
    assert_eq!(world.token().await.unwrap(), "at-2");
    // An hour is assumed where the connector says nothing: neither for ever nor each time.
    world.pass(3000).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.pass(600).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_grant_is_kept_alive() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    // Unused for four hours it would die: half of that, a tenth more or less.
    world.pass(6000).await;
    assert_eq!(world.refreshes(), 0);
    world.pass(3000).await;
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_cancel_nothing() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    for _ in 0..5 {
        let _ = tokio::time::timeout(Duration::from_millis(20), world.token()).await;
    }
    world.pass(1).await;
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_connections_on_one_grant_share_its_refresh() {
    let world = World::new("revokes").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    // The same refresh token imported again is the same grant.
    world.import(&second, "1").await;
    world.pass(700).await;
    assert_eq!(
        world.vault.token(&second).await.unwrap().secret().expose(),
        "at-2"
    );
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
    // Deleting one leaves the grant to the other; deleting both revokes it.
    world.vault.delete(&second).await.unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 0);
    world.vault.delete(&world.key).await.unwrap();
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
    assert!(matches!(
        world.token().await,
        Err(TokenError::UnknownConnection(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn validate_joins_what_is_under_way_and_forces_otherwise() {
    let world = World::new("revokes").await;
    let (a, b) = tokio::join!(
        world.vault.validate(&world.key),
        world.vault.validate(&world.key)
    );
    assert_eq!((a.unwrap().version(), b.unwrap().version()), (2, 2));
    assert_eq!(world.refreshes(), 1);
    world.vault.validate(&world.key).await.unwrap();
    assert_eq!(world.refreshes(), 2);
    // What another process did before we asked does not count as ours.
    let other = world.other("revokes").await;
    other.validate(&world.key).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    assert_eq!(world.refreshes(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_rejections_is_one_refresh_and_no_loop() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let token = world.vault.token(&world.key).await.unwrap();
    let wait = Duration::from_secs(28);
    let (a, b) = tokio::join!(
        world.vault.rejected(&resolved, &token, wait),
        world.vault.rejected(&resolved, &token, wait)
    );
    assert_eq!(
        (a.unwrap().unwrap().version(), b.unwrap().unwrap().version()),
        (2, 2)
    );
    // A late report about the old token gets the new one.
    let again = world
        .vault
        .rejected(&resolved, &token, wait)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((again.version(), world.refreshes()), (2, 1));
    // The new token is too young to have expired: the API's answer stands.
    assert!(
        world
            .vault
            .rejected(&resolved, &again, wait)
            .await
            .unwrap()
            .is_none()
    );
    world.pass(60).await;
    assert_eq!(
        world
            .vault
            .rejected(&resolved, &again, wait)
            .await
            .unwrap()
            .unwrap()
            .version(),
        3
    );
}

/// Found by the model checker (crates/proof): the 401 counted against the newest version.
#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_sends_no_spent_token() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let old = world.vault.token(&world.key).await.unwrap();
    world.pass(580).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    // The answer to the next refresh is lost while `at-2` has 20 s left.
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::Lose];
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.pass(5).await;
    let wait = Duration::from_secs(5);
    let token = world.vault.rejected(&resolved, &old, wait).await.unwrap();
    assert_eq!(token.unwrap().secret().expose(), "at-2");
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_is_no_outage_while_the_token_lives() {
    let world = World::new("harmless").await;
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    assert_eq!(world.token().await.unwrap(), "at-1");
    // Afterwards it is tried again, and not before its time.
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(2).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_a_second_try_when_nothing_lives() {
    let world = World::new("harmless").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    assert_eq!(world.token().await.unwrap(), "at-2");
}

/// Found by the crash harness: an owner is killed while the old token has a second left.
#[tokio::test(start_paused = true)]
async fn a_token_that_dies_during_the_wait_does_not_cut_it_short() {
    let world = World::new("harmless").await;
    world.pass(599).await;
    let connection = world.store.connection(&world.key).await.unwrap().unwrap();
    let claim = ClaimRequest {
        grant: connection.grant.unwrap(),
        seen: 1,
        owner: OwnerId::new("a process that is killed"),
        ttl: VaultConfig::default().claim_ttl,
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
    };
    world.store.claim(claim).await.unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_with_a_revoking_provider_waits_for_the_tokens_end() {
    let world = World::new("revokes").await;
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::Lose];
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.pass(10).await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    let error = world.vault.validate(&world.key).await.unwrap_err();
    assert!(
        matches!(&error, TokenError::AnswerLost { why, .. } if why == "connection reset"),
        "{error}"
    );
    assert_eq!(
        (
            world.refreshes(),
            world.provider.replays.load(Ordering::SeqCst)
        ),
        (1, 0)
    );
    // Nothing left to lose: one more send, which tells that the grant is gone and why.
    world.pass(20).await;
    let error = world.token().await.unwrap_err();
    assert!(
        matches!(&error, TokenError::Dead { reason, .. } if reason.contains("connection reset")),
        "{error}"
    );
    // Dead is dead: no further word with the provider.
    for _ in 0..5 {
        world.pass(600).await;
        assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    }
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_for_all_grants_of_the_client() {
    let world = World::new("refused").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Throttle(20)];
    let error = world.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    let error = world.vault.token(&second).await.unwrap_err();
    assert!(matches!(error, TokenError::Paused { .. }), "{error}");
    assert_eq!(world.refreshes(), 0);
    world.pass(25).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_new_authorization_revives_a_dead_grant() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Refuse];
    assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    *lock(&world.provider.current) = 9;
    world.import(&world.key, "9").await;
    assert_eq!(world.token().await.unwrap(), "at-9");
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-10");
}

#[tokio::test(start_paused = true)]
async fn a_dead_login_imported_elsewhere_lives_again_for_all() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Refuse];
    assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "1").await;
    assert_eq!(world.vault.token(&second).await.unwrap().version(), 2);
    assert_eq!(world.token().await.unwrap(), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_delete_in_flight_wins_and_its_answer_is_revoked() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let (token, deleted) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(100)).await;
        world.vault.delete(&world.key).await
    });
    deleted.unwrap();
    assert!(token.is_err());
    world.pass(1).await;
    // Once for the deleted grant, once for the late answer.
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 2);
    assert!(matches!(
        world.token().await,
        Err(TokenError::UnknownConnection(_))
    ));
}

/// Found by the simulator: the flight revoked its void answer before it adopted the version that
/// it knew of, and callers were served the old token meanwhile.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_revocation_of_a_void_answer() {
    let world = World::new("revokes").await;
    let other = world.other("revokes").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    let (validated, ()) = tokio::join!(world.vault.validate(&world.key), async {
        world.clock.sleep(Duration::from_millis(150)).await;
        let import = Import {
            access_token: Some(Secret::new("at-9")),
            refresh_token: Some(Secret::new("rt-9")),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        other.import(&world.key, import).await.unwrap();
        // The late answer has come at 200 ms; its revocation is under way.
        world.clock.sleep(Duration::from_millis(60)).await;
        assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 0);
        assert_eq!(world.token().await.unwrap(), "at-9");
    });
    assert_eq!(validated.unwrap().version(), 2);
    world.pass(1).await;
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
}

/// Found by the simulator: where a revocation ends all that a user has granted, the late answer
/// to a refresh of a deleted grant took the user's new authorization with it.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_deleted_grant_spares_the_users_new_one() {
    let world = World::user_scoped().await;
    world.pass(700).await;
    let (_, ()) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(50)).await;
        world.vault.delete(&world.key).await.unwrap();
        world.import(&world.key, "9").await;
    });
    world.pass(1).await;
    // The deletion's own revocation, and none for the answer that came after it.
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
    assert_eq!(world.token().await.unwrap(), "at-9");
}

/// Found by the simulator: a flight tidied the spool before it published what it had committed.
#[tokio::test(start_paused = true)]
async fn what_is_committed_is_served_before_the_spool_is_tidied() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let parts = |spool: Arc<dyn Spool>| {
        let mut catalogue = Catalogue::default();
        let text = CONNECTOR.replace("POLICY", "revokes");
        catalogue.add("acme.toml", &text).unwrap();
        VaultParts {
            store: world.store.clone(),
            keyring: world.keyring.clone(),
            transport: world.provider.clone(),
            spool,
            observer: Arc::new(Blind),
            clock: world.clock.clone(),
            chance: Arc::new(SeededChance::new(1)),
            catalogue,
            config: VaultConfig::default(),
        }
    };
    let vault = Vault::open(parts(Arc::new(SlowSpool(world.clock.clone()))))
        .await
        .unwrap();
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let (token, ()) = tokio::join!(vault.token(&world.key), async {
        world.clock.sleep(Duration::from_secs(1)).await;
        world.store.set_down(false);
    });
    assert_eq!(token.unwrap().version(), 2);
    assert!(world.clock.now() < Moment(Duration::from_secs(700 + 30)));
}

/// A disk that takes a minute to forget an entry.
#[derive(Debug)]
struct SlowSpool(Arc<dyn Clock>);

#[async_trait]
impl Spool for SlowSpool {
    async fn put(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    async fn entries(&self) -> Result<Vec<crate::spool::Spooled>, String> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<(), String> {
        self.0.sleep(Duration::from_secs(60)).await;
        Ok(())
    }
    async fn set_aside(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_dies_during_the_refresh_loses_nothing() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    world.token().await.unwrap();
    world.pass(700).await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let (token, ()) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_secs(3)).await;
        world.store.set_down(false);
    });
    assert_eq!(token.unwrap(), "at-3");
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_spool_is_adopted_by_the_next_start() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let _ = tokio::time::timeout(Duration::from_secs(2), world.token()).await;
    let spooled: Vec<_> = std::fs::read_dir(&world.spool.0).unwrap().collect();
    assert_eq!(spooled.len(), 1);
    // This process "dies": its flight is never heard of again.
    let files: Vec<_> = spooled
        .into_iter()
        .map(|entry| entry.unwrap().path())
        .collect();
    let copy = std::fs::read(&files[0]).unwrap();
    assert!(!copy.windows(4).any(|bytes| bytes == b"rt-2"));
    world.store.set_down(false);
    let next = world.other("revokes").await;
    assert_eq!(next.adopt_spool().await, 0);
    assert_eq!(
        next.token(&world.key).await.unwrap().secret().expose(),
        "at-2"
    );
    assert_eq!(world.refreshes(), 1);
    // A corrupt entry is put aside, not lost, and harms nobody.
    std::fs::write(world.spool.0.join("x.spooled"), b"garbage").unwrap();
    assert_eq!(next.adopt_spool().await, 0);
    assert!(world.spool.0.join("x.unreadable").exists());
}

#[tokio::test(start_paused = true)]
async fn grants_in_use_are_refreshed_before_anybody_waits() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    for expected in ["at-1", "at-2", "at-3"] {
        // Well inside the token's life it is served from memory.
        assert_eq!(world.token().await.unwrap(), expected);
        world.pass(565).await;
        world.pass(10).await;
    }
    assert!(world.refreshes() >= 3);
    // Nobody asks any more: it rests.
    let before = world.refreshes();
    world.pass(6000).await;
    assert!(world.refreshes() <= before + 1);
    assert!(world.vault.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn other_processes_hear_of_changes() {
    let world = World::new("revokes").await;
    let other = world.other("revokes").await;
    other.start_upkeep();
    assert_eq!(other.token(&world.key).await.unwrap().version(), 1);
    world.vault.validate(&world.key).await.unwrap();
    world.pass(1).await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    world
        .vault
        .update(
            &world.key,
            ConnectionPatch {
                enabled: Some(false),
                ..ConnectionPatch::default()
            },
        )
        .await
        .unwrap();
    world.pass(1).await;
    assert!(matches!(
        other.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
    assert!(matches!(
        world.vault.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_a_loud_error() {
    let world = World::new("revokes").await;
    let keyring = Keyring::new(vec![Key::generate()]).unwrap();
    let parts = VaultParts {
        store: world.store.clone(),
        keyring,
        transport: world.provider.clone(),
        spool: Arc::new(FolderSpool::new(&world.spool.0)),
        observer: Arc::new(Blind),
        clock: world.clock.clone(),
        chance: Arc::new(SeededChance::new(1)),
        catalogue: Catalogue::default(),
        config: VaultConfig::default(),
    };
    let error = Vault::open(parts).await.unwrap_err().to_string();
    assert!(
        error.contains(&world.keyring.active().id().to_string()),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_while_the_vault_is_open() {
    let world = World::new("revokes").await;
    world
        .store
        .add_application(&world.key.application, "App")
        .await
        .unwrap();
    let new = Key::generate();
    let both = Keyring::new(vec![new.clone(), world.keyring.active().clone()]).unwrap();
    let second = open(
        &world.store,
        &both,
        &world.provider,
        &world.clock,
        &world.spool,
        "revokes",
    )
    .await;
    assert_eq!(second.reseal().await.unwrap(), 2);
    assert_eq!(second.reseal().await.unwrap(), 0);
    let alone = Keyring::new(vec![new]).unwrap();
    let third = open(
        &world.store,
        &alone,
        &world.provider,
        &world.clock,
        &world.spool,
        "revokes",
    )
    .await;
    world.pass(700).await;
    assert_eq!(
        third.token(&world.key).await.unwrap().secret().expose(),
        "at-2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_grants_dead_tokens_is_not_asked_for_ever() {
    let mut world = World::new("revokes").await;
    Arc::get_mut(&mut world.provider);
    let clock = world.clock.clone();
    let provider = Arc::new(Provider {
        clock: clock.clone(),
        latency: Duration::from_millis(10),
        revoke_latency: Duration::ZERO,
        lifetime: 0,
        acts: Mutex::default(),
        current: Mutex::new(1),
        refreshes: AtomicUsize::new(0),
        replays: AtomicUsize::new(0),
        revocations: AtomicUsize::new(0),
        store_dies: AtomicBool::new(false),
        store: world.store.clone(),
    });
    let vault = open(
        &world.store,
        &world.keyring,
        &provider,
        &clock,
        &world.spool,
        "revokes",
    )
    .await;
    world.pass(700).await;
    assert!(vault.token(&world.key).await.is_ok());
    assert!(provider.refreshes.load(Ordering::SeqCst) <= 2);
}
