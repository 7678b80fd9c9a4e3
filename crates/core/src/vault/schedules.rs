//! The flight's code under shuttle: every interleaving of its tasks that chance finds, with callers
//! that leave at each of their await points. Time stands still, so that nobody is saved by a
//! timeout: a wake-up that is lost is a deadlock, and shuttle reports it with the schedule.
//!
//! `make schedules` runs them; they need the feature `shuttle`.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::atomic::{AtomicU64 as Count, Ordering},
    task::{Context, Poll},
};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use shuttle::{
    future::{block_on, spawn, yield_now},
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};

use super::*;
use crate::{
    error::TokenError,
    oauth::TokenRequest,
    observe::Blind,
    refresh::ledger::{GrantRow, Need},
    seal::Key,
    secret::Secret,
    spool::NoSpool,
    store::{MemoryStore, disturbed::Disturbed, prelude::*},
    time::{Boxed, Moment, SeededChance},
    transport::{Answer, Patience, TransportError},
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
replay = { policy = "revokes" }
[revocation]
url = "https://id.acme.example/revoke"
scope = "grant"
[api]
hosts = ["https://api.acme.example"]
"#;

/// Tries a scenario under schedules of both kinds: ones that switch at random, and ones with few
/// switches at the worst places (PCT). `SCHEDULES` says how many of each.
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SCHEDULES").map_or(300, |n| n.parse().expect("a number"));
    let scenario = Arc::new(scenario);
    let again = scenario.clone();
    check(RandomScheduler::new(schedules), move || scenario());
    check(PctScheduler::new(3, schedules), move || again());
    println!("explored {} schedules", 2 * schedules);
}

/// In a debug build futures are moved about on the stack, which has 32 KiB by default.
fn check(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = 0x4_0000;
    shuttle::Runner::new(scheduler, config).run(scenario);
}

/// Time stands still. What sleeps for less than 400 ms may wake up at any moment, what sleeps for
/// longer never does.
#[derive(Debug)]
struct StandStill;

impl Clock for StandStill {
    fn now(&self) -> Moment {
        Moment(Duration::from_secs(1_000_000))
    }

    fn sleep(&self, duration: Duration) -> Boxed<'_, ()> {
        Box::pin(async move {
            if duration >= Duration::from_millis(400) {
                std::future::pending::<()>().await;
            }
            yield_now().await;
        })
    }
}

/// A store that others use at the same time: each verb takes its time, before and after.
#[derive(Debug)]
struct Busy(MemoryStore);

#[async_trait]
impl Disturbed for Busy {
    fn truth(&self) -> &MemoryStore {
        &self.0
    }

    async fn before(&self) {
        yield_now().await;
    }

    async fn after(&self) {
        yield_now().await;
    }
}

/// Strict rotation: each refresh token works once. `rt-NAME-N` is followed by `rt-NAME-(N+1)`.
#[derive(Debug, Default)]
struct Provider {
    spent: std::sync::Mutex<HashSet<String>>,
    refreshes: Count,
    replays: Count,
    /// Requests for tokens that have begun and not ended.
    under_way: Count,
    unreachable: bool,
}

impl Provider {
    fn reply(&self, body: &str) -> String {
        let token = url::form_urlencoded::parse(body.as_bytes())
            .find_map(|(name, value)| (name == "refresh_token").then(|| value.into_owned()))
            .expect("a refresh token");
        let (name, number) = token.rsplit_once('-').expect("rt-NAME-N");
        let next = number.parse::<u64>().expect("rt-NAME-N") + 1;
        let first = self.spent.lock().unwrap().insert(token.clone());
        let count = if first {
            &self.refreshes
        } else {
            &self.replays
        };
        count.fetch_add(1, Ordering::SeqCst);
        let access = name.replace("rt-", "at-");
        format!(
            r#"{{"access_token":"{access}-{next}","refresh_token":"{name}-{next}","expires_in":600}}"#
        )
    }
}

#[async_trait]
impl Transport for Provider {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        let answer = if request.endpoint.url().path() == "/revoke" {
            Ok(String::new())
        } else if self.unreachable {
            Err(TransportError::NotSent("connection refused".to_owned()))
        } else {
            Ok(self.reply(std::str::from_utf8(&request.body).unwrap()))
        };
        yield_now().await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer.map(|body| Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

#[derive(Clone)]
struct World {
    vault: Vault,
    store: Arc<Busy>,
    keyring: Keyring,
    provider: Arc<Provider>,
    key: ConnectionKey,
}

impl World {
    /// A connection whose token has a second left, or is dead.
    async fn new(provider: Provider) -> Self {
        let store = Arc::new(Busy(MemoryStore::new(Arc::new(StandStill))));
        let keyring = Keyring::new(vec![Key::generate()]).unwrap();
        let provider = Arc::new(provider);
        let vault = open(&store, &keyring, &provider).await;
        let key = ConnectionKey::new("app", "cust", "crm", "acme");
        let secret = Secret::new("cs");
        vault
            .set_client(
                &key.application,
                &key.service,
                "id",
                Some(&secret),
                Default::default(),
                vec![],
            )
            .await
            .unwrap();
        let world = Self {
            vault,
            store,
            keyring,
            provider,
            key,
        };
        world.import("a").await;
        world
    }

    async fn import(&self, name: &str) {
        let left: i64 = if thread_rng().gen_bool(0.5) { 1 } else { -1 };
        let now = 1_767_225_600_000 + 1_000_000_000;
        let import = Import {
            access_token: Some(Secret::new(format!("at-{name}-1"))),
            refresh_token: Some(Secret::new(format!("rt-{name}-1"))),
            issued_at_ms: Some(now + (left - 600) * 1000),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        self.vault.import(&self.key, import).await.unwrap();
    }

    async fn ask(&self, need: Need) -> Result<Held, TokenError> {
        match need {
            Need::Stale => self.vault.token(&self.key).await,
            Need::Forced => self.vault.validate(&self.key).await,
            Need::Rejected => {
                let resolved = self.vault.resolve(&self.key).await?;
                let token = Held::of(resolved.grant.snapshot()).expect("imported");
                let wait = self.vault.config().wait;
                let better = self.vault.rejected(&resolved, &token, wait).await?;
                Ok(better.unwrap_or(token))
            }
        }
    }

    async fn row(&self) -> GrantRow {
        let connection = self.store.0.connection(&self.key).await.unwrap().unwrap();
        let grant = connection.grant.unwrap();
        self.store.0.grant(&grant).await.unwrap().value.unwrap()
    }

    /// Every version after the first was granted, and nothing was sent twice.
    async fn audit(&self, first: u64) -> u64 {
        let row = self.row().await;
        let refreshes = self.provider.refreshes.load(Ordering::SeqCst);
        assert_eq!(self.provider.replays.load(Ordering::SeqCst), 0, "replays");
        assert_eq!(row.version - first, refreshes, "versions and refreshes");
        assert!(row.attempt.is_none() && row.claim.is_none());
        refreshes
    }
}

async fn open(store: &Arc<Busy>, keyring: &Keyring, provider: &Arc<Provider>) -> Vault {
    let mut catalogue = Catalogue::default();
    catalogue.add("acme.toml", CONNECTOR).unwrap();
    Vault::open(VaultParts {
        store: store.clone(),
        keyring: keyring.clone(),
        transport: provider.clone(),
        spool: Arc::new(NoSpool),
        observer: Arc::new(Blind),
        clock: Arc::new(StandStill),
        chance: Arc::new(SeededChance::new(1)),
        catalogue,
        config: VaultConfig {
            // Shorter than any pause after a failure, so that nobody waits for a second try.
            wait: Duration::from_millis(450),
            ..VaultConfig::default()
        },
    })
    .await
    .unwrap()
}

/// A future whose owner loses patience after some polls, and drops it at the await point that it
/// has come to.
struct Leaves<F> {
    future: Option<Pin<Box<F>>>,
    polls: usize,
}

impl<F: Future> Leaves<F> {
    fn after(polls: usize, future: F) -> Self {
        Self {
            future: Some(Box::pin(future)),
            polls,
        }
    }
}

impl<F: Future> Future for Leaves<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls > 0 {
            self.polls -= 1;
            let future = self.future.as_mut().expect("not polled after its end");
            if let Poll::Ready(answer) = future.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
        }
        if self.polls == 0 {
            self.future = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

#[test]
fn callers_of_a_stale_token_share_one_refresh() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let first = world.row().await.version;
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let world = world.clone();
                    spawn(async move { world.ask(Need::Stale).await.unwrap().version() })
                })
                .collect();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), first + 1);
            }
            assert!(world.vault.drain(Duration::from_secs(60)).await);
            assert_eq!(world.audit(first).await, 1);
        });
    });
}

#[test]
fn a_forced_refresh_and_a_401_get_what_is_newer_than_when_they_asked() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let first = world.row().await.version;
            let callers: Vec<_> = [Need::Stale, Need::Forced, Need::Rejected, Need::Forced]
                .into_iter()
                .map(|need| {
                    let world = world.clone();
                    spawn(async move {
                        let before = world.row().await.version;
                        let version = world.ask(need).await.unwrap().version();
                        match need {
                            Need::Forced => assert!(version > before, "{version} {before}"),
                            Need::Stale | Need::Rejected => assert!(version > first),
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            assert!(world.vault.drain(Duration::from_secs(60)).await);
            assert!((1..=3).contains(&world.audit(first).await));
        });
    });
}

/// More than a caller has await points.
const AWAITS: usize = 40;

#[test]
fn callers_that_leave_at_any_await_point_harm_nobody() {
    // After how many polls the slowest of those who stayed was answered.
    static LONGEST: Count = Count::new(0);
    for need in [Need::Stale, Need::Forced, Need::Rejected] {
        explore(move || {
            block_on(async move {
                let world = World::new(Provider::default()).await;
                let first = world.row().await.version;
                let leavers: Vec<_> = (0..3)
                    .map(|_| {
                        let world = world.clone();
                        let polls = thread_rng().gen_range(0..12);
                        spawn(async move { Leaves::after(polls, world.ask(need)).await })
                    })
                    .collect();
                let stays = {
                    let world = world.clone();
                    spawn(async move { world.ask(Need::Stale).await.unwrap().version() })
                };
                for leaver in leavers {
                    if let Some(answer) = leaver.await.unwrap() {
                        assert!(answer.unwrap().version() > first);
                    }
                }
                assert!(stays.await.unwrap() > first);
                assert!(world.vault.drain(Duration::from_secs(60)).await);
                assert!((1..=4).contains(&world.audit(first).await));
            });
        });
        // Each await point, one after the other, with nobody else about.
        let schedules = 20;
        check(RandomScheduler::new(schedules), move || {
            block_on(async move {
                for polls in 0..AWAITS {
                    let world = World::new(Provider::default()).await;
                    let first = world.row().await.version;
                    let answer = Leaves::after(polls, world.ask(need)).await;
                    if answer.is_some() {
                        LONGEST.fetch_max(polls as u64, Ordering::SeqCst);
                    }
                    // A flight that it has left behind ends by itself.
                    assert!(world.vault.drain(Duration::from_secs(60)).await);
                    let refreshes = world.audit(first).await;
                    assert!(refreshes <= 1);
                    if answer.is_some() {
                        assert_eq!(refreshes, 1);
                        break;
                    }
                }
            });
        });
    }
    let longest = LONGEST.load(Ordering::SeqCst);
    assert!(
        (4..AWAITS as u64).contains(&longest),
        "not every await point was left at, of {longest}"
    );
}

#[test]
fn a_failure_is_told_to_everybody_and_leaves_the_slot_free() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider {
                unreachable: true,
                ..Provider::default()
            })
            .await;
            let first = world.row().await.version;
            let callers: Vec<_> = (0..4)
                .map(|caller| {
                    let world = world.clone();
                    let need = if caller == 0 {
                        Need::Forced
                    } else {
                        Need::Stale
                    };
                    spawn(async move { (need, world.ask(need).await) })
                })
                .collect();
            for caller in callers {
                match caller.await.unwrap() {
                    // The old one, while it lives.
                    (Need::Stale, Ok(token)) => assert_eq!(token.version(), first),
                    (_, Ok(_)) => panic!("nothing was granted"),
                    (_, Err(TokenError::Failed { .. } | TokenError::Paused { .. })) => {}
                    (_, Err(error)) => panic!("{error}"),
                }
            }
            assert!(world.ask(Need::Forced).await.is_err());
            assert!(world.vault.drain(Duration::from_secs(60)).await);
            assert_eq!(world.audit(first).await, 0);
        });
    });
}

#[test]
fn nothing_is_under_way_after_a_drain() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let first = world.row().await.version;
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let world = world.clone();
                    spawn(async move { world.ask(Need::Stale).await })
                })
                .collect();
            let drained = {
                let world = world.clone();
                spawn(async move {
                    for _ in 0..thread_rng().gen_range(0..20) {
                        yield_now().await;
                    }
                    assert!(world.vault.drain(Duration::from_secs(60)).await);
                    let under_way = world.provider.under_way.load(Ordering::SeqCst);
                    assert_eq!(under_way, 0, "the drain has ended");
                    world.provider.refreshes.load(Ordering::SeqCst)
                })
            };
            let refreshes = drained.await.unwrap();
            for caller in callers {
                match caller.await.unwrap() {
                    Ok(token) => assert!(token.version() > first || refreshes == 0),
                    Err(TokenError::ShuttingDown) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(
                world.audit(first).await,
                refreshes,
                "none began after the drain"
            );
        });
    });
}

#[test]
fn after_a_new_authorization_nobody_gets_the_old_tokens() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let world = world.clone();
                    spawn(async move {
                        let token = world.ask(Need::Stale).await.unwrap();
                        token.secret().expose().to_owned()
                    })
                })
                .collect();
            let renewed = {
                let world = world.clone();
                spawn(async move {
                    world.import("b").await;
                    let token = world.ask(Need::Stale).await.unwrap();
                    assert!(token.secret().expose().starts_with("at-b-"));
                })
            };
            for caller in callers {
                let token = caller.await.unwrap();
                assert!(token.starts_with("at-"), "{token}");
            }
            renewed.await.unwrap();
            let token = world.ask(Need::Stale).await.unwrap();
            assert_eq!(token.secret().expose(), "at-b-2");
            assert!(world.vault.drain(Duration::from_secs(60)).await);
            assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
        });
    });
}

#[test]
fn two_processes_share_one_refresh() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let first = world.row().await.version;
            let other = World {
                vault: open(&world.store, &world.keyring, &world.provider).await,
                ..world.clone()
            };
            let callers: Vec<_> = [&world, &other, &world, &other]
                .into_iter()
                .map(|world| {
                    let world = world.clone();
                    spawn(async move { world.ask(Need::Stale).await.unwrap().version() })
                })
                .collect();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), first + 1);
            }
            for world in [&world, &other] {
                assert!(world.vault.drain(Duration::from_secs(60)).await);
            }
            assert_eq!(world.audit(first).await, 1);
        });
    });
}

#[test]
fn what_was_heard_of_is_never_forgotten() {
    explore(|| {
        block_on(async {
            let world = World::new(Provider::default()).await;
            let other = World {
                vault: open(&world.store, &world.keyring, &world.provider).await,
                ..world.clone()
            };
            let callers: Vec<_> = (0..2)
                .map(|_| {
                    let world = world.clone();
                    spawn(async move { world.ask(Need::Stale).await.unwrap().version() })
                })
                .collect();
            let watcher = {
                let world = world.clone();
                spawn(async move {
                    let resolved = world.vault.resolve(&world.key).await.unwrap();
                    let mut last = 0;
                    for _ in 0..20 {
                        let version = resolved.grant.snapshot().version;
                        assert!(version >= last, "from {last} back to {version}");
                        last = version;
                        yield_now().await;
                    }
                })
            };
            // Another process authorizes anew; this one is told some time later.
            other.import("b").await;
            let changes = world.store.0.changes(Some(0)).await.unwrap().changes;
            world.vault.apply(&changes).await;
            let token = world.ask(Need::Stale).await.unwrap();
            assert_eq!(token.secret().expose(), "at-b-2");
            for caller in callers {
                caller.await.unwrap();
            }
            watcher.await.unwrap();
            assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
        });
    });
}
