//! Three replicas on one PostgreSQL before npm `oidc-provider`, and a thousand callers at a time,
//! while replicas are killed, the database is killed, and wires between them are cut.
//!
//! What a killed process had in hand when the provider had rotated is lost, and with a provider
//! that revokes nobody can bring it back (`docs/guarantees.md`; the crash harness kills there).
//! Here the books have to show exactly one refresh for each expiry. So a replica is killed only
//! when no refresh can be under way: the newest one is saved, by the provider's books and the
//! database's rows, and its token stays fresh for at least [`CALM`]. The database and the wires
//! know no mercy: they fail in the middle of refreshes above all.

use std::{
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode, header::RETRY_AFTER};
use serde_json::Value;
use tokenward_testkit::{Signal, postgres::Proxy, signal};
use tokio_util::task::TaskTracker;

use crate::{
    harness::{Database, Server, TestVault},
    oidc_provider::Provider,
};

const REPLICAS: usize = 3;
const CALLERS: usize = 1_000;
const EXPIRIES: u64 = 3;
/// Tokens live 40 s and are stale for the last 10.
const FRESH_MS: i64 = 30_000;
const HALF_A_CLAIM: i64 = 10_000;
/// For so long after a refresh replicas may be killed; started again, they have the rest of
/// [`FRESH_MS`] to come up.
const CALM: i64 = 20_000;
/// Who is not answered by then never will be.
const NEVER: Duration = Duration::from_secs(90);

/// A process, until it is killed.
struct Replica {
    server: Server,
    killed: AtomicBool,
}

/// A replica's place: its own wire to the database, and the process of now.
struct Place {
    wire: Proxy,
    url: String,
    replica: RwLock<Arc<Replica>>,
}

/// How callers fared on the way to their answers.
#[derive(Default)]
struct Detours {
    /// Connections of processes that were killed.
    broken: AtomicU64,
    /// Answers that say "later".
    later: AtomicU64,
}

/// What was done.
#[derive(Debug, Default)]
struct Troubles {
    kills: [u64; REPLICAS],
    crashes: u64,
    cuts: u64,
    /// Of the crashes and cuts, those while the provider had a refresh in hand.
    amid_refreshes: u64,
}

struct World {
    vault: TestVault,
    provider: Provider,
    places: Vec<Place>,
    began_ms: i64,
    detours: Detours,
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl World {
    async fn new() -> Self {
        let vault = TestVault::on_postgres().await;
        // Long enough for something to go wrong meanwhile.
        let provider = Provider::start(Duration::from_millis(1_500)).await;
        provider.add_to(&vault);
        let mut places = Vec::new();
        for _ in 0..REPLICAS {
            let (wire, url) = vault.database.as_ref().unwrap().wire().await;
            let replica = RwLock::new(started(&vault, &url).await);
            places.push(Place { wire, url, replica });
        }
        let began_ms = now_ms();
        let replica = places[0].replica.read().unwrap().clone();
        let import = provider.authorize(&replica.server).await;
        vault.import_text("acme/oidc", &import);
        Self {
            vault,
            provider,
            places,
            began_ms,
            detours: Detours::default(),
        }
    }

    fn database(&self) -> &Database {
        self.vault.database.as_ref().unwrap()
    }

    fn replica(&self, number: usize) -> Arc<Replica> {
        let place = &self.places[number % REPLICAS];
        place.replica.read().unwrap().clone()
    }

    async fn books(&self) -> Value {
        self.provider.books(&self.replica(0).server).await
    }

    /// Asks until the API's own answer is there: the next replica if this one was killed, and
    /// again if it says when.
    async fn ask(&self, caller: usize) {
        for replica in (caller..).map(|number| self.replica(number)) {
            let call = replica
                .server
                .call(Method::GET, "/proxy")
                .header("x-apideck-service-id", "oidc")
                .header("x-apideck-downstream-url", self.provider.get("api"));
            match call.try_send().await {
                Ok(answer) if answer.status == StatusCode::OK => return,
                Ok(answer) => {
                    let later = answer.status == StatusCode::SERVICE_UNAVAILABLE
                        && answer.headers.contains_key(RETRY_AFTER);
                    assert!(later, "{answer:?}\n{}", self.vault.log());
                    self.detours.later.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => {
                    let killed = replica.killed.load(Ordering::SeqCst);
                    assert!(killed, "a living replica broke a connection: {error}");
                    self.detours.broken.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// All callers at once, and trouble meanwhile.
    async fn round(self: &Arc<Self>, number: usize, troubles: &mut Troubles) {
        let tasks = TaskTracker::new();
        let calls: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let world = self.clone();
                tasks.spawn(async move {
                    tokio::time::timeout(NEVER, world.ask(caller))
                        .await
                        .expect("a caller was not answered");
                })
            })
            .collect();
        tasks.close();
        if self.calm().await {
            self.trouble_in_calm(number, troubles).await;
        } else {
            self.trouble_at_expiry(&tasks, troubles).await;
        }
        for call in calls {
            call.await.unwrap();
        }
    }

    /// Whether no refresh can be under way now, or soon.
    async fn calm(&self) -> bool {
        let books = self.books().await;
        let (requests, granted) = (count(&books, "refresh_requests"), granted(&books));
        let since = match books["refreshes"].as_array().unwrap().last() {
            Some(refresh) => refresh["at_ms"].as_i64().unwrap(),
            None => self.began_ms,
        };
        // The first version was imported.
        requests == granted && self.version() == 1 + granted && now_ms() - since < CALM
    }

    fn version(&self) -> u64 {
        let version = self.database().sql("SELECT version FROM tokenward.grants");
        version.parse().unwrap()
    }

    async fn trouble_in_calm(&self, number: usize, troubles: &mut Troubles) {
        let victim = number % REPLICAS;
        match number / REPLICAS % 3 {
            0 => self.kill(victim, false, troubles).await,
            1 => self.kill(victim, true, troubles).await,
            _ => {
                self.crash(troubles);
                self.close(victim, Duration::from_millis(500), troubles)
                    .await;
            }
        }
    }

    /// Kills a replica with its calls under way, and starts another in its place. With `both`, it
    /// finds the database gone when it comes up.
    async fn kill(&self, victim: usize, both: bool, troubles: &mut Troubles) {
        let place = &self.places[victim];
        let replica = self.replica(victim);
        // Whoever sees a connection break knows why.
        replica.killed.store(true, Ordering::SeqCst);
        signal(replica.server.child.id().unwrap(), Signal::KILL).unwrap();
        troubles.kills[victim] += 1;
        let starting = started(&self.vault, &place.url);
        let (next, ()) = tokio::join!(starting, async {
            if both {
                self.crash(troubles);
            }
        });
        *place.replica.write().unwrap() = next;
    }

    fn crash(&self, troubles: &mut Troubles) {
        tokio::task::block_in_place(|| self.database().crash());
        troubles.crashes += 1;
    }

    async fn close(&self, victim: usize, pause: Duration, troubles: &mut Troubles) {
        let wire = &self.places[victim].wire;
        wire.close();
        troubles.cuts += 1;
        tokio::time::sleep(pause).await;
        wire.mend();
    }

    /// Waits for the provider to have a refresh in hand, if one comes in this round.
    async fn trouble_at_expiry(&self, calls: &TaskTracker, troubles: &mut Troubles) {
        // Whoever wants to claim there has to connect first.
        self.places[0].wire.cut();
        troubles.cuts += 1;
        while !calls.is_empty() {
            let books = self.books().await;
            let granted = granted(&books);
            if count(&books, "refresh_requests") > granted {
                troubles.amid_refreshes += 1;
                return self.trouble_amid_refresh(granted, troubles).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The answer finds no database.
    async fn trouble_amid_refresh(&self, number: u64, troubles: &mut Troubles) {
        match number {
            0 => return self.crash(troubles),
            1 => self.each_wire(Proxy::close),
            _ => self.each_wire(Proxy::swallow),
        }
        troubles.cuts += 1;
        // Longer than the provider takes.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        self.each_wire(Proxy::mend);
    }

    fn each_wire(&self, act: fn(&Proxy)) {
        for place in &self.places {
            act(&place.wire);
        }
    }
}

async fn started(vault: &TestVault, url: &str) -> Arc<Replica> {
    let mut command = vault.serve_command(&["--no-refresh-ahead"]);
    command.env("TOKENWARD_STORE", url);
    Arc::new(Replica {
        server: vault.started(command).await,
        killed: AtomicBool::new(false),
    })
}

fn count(books: &Value, name: &str) -> u64 {
    let count = books[name].as_u64();
    count.unwrap_or_else(|| panic!("no {name}: {books}"))
}

fn granted(books: &Value) -> u64 {
    count(books, "refresh_granted")
}

/// Each refresh belongs to an expiry of its own: the token before it was no longer fresh.
fn one_for_each_expiry(books: &Value) {
    assert_eq!(count(books, "refresh_requests"), EXPIRIES, "{books}");
    assert_eq!(granted(books), EXPIRIES, "{books}");
    for never in [
        "invalid_grant",
        "other_token_errors",
        "reuse_detected",
        "grants_revoked",
        "api_unauthorized",
    ] {
        assert_eq!(count(books, never), 0, "{never}: {books}");
    }
    let refreshes = books["refreshes"].as_array().unwrap();
    let times: Vec<i64> = refreshes
        .iter()
        .map(|refresh| refresh["at_ms"].as_i64().unwrap())
        .collect();
    // A token's life counts from the claim, which a request leaves at most half a claim after.
    let due = |pair: &[i64]| pair[1] - pair[0] >= FRESH_MS - HALF_A_CLAIM;
    assert!(times.windows(2).all(due), "{times:?}");
}

fn spooled(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("spool")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refresh_per_expiry_through_replicas_that_die_and_lose_their_database() {
    let world = Arc::new(World::new().await);
    let mut troubles = Troubles::default();
    let (mut rounds, mut done) = (0, false);
    // One more round after the last refresh, to see that nothing follows it.
    while !std::mem::replace(&mut done, granted(&world.books().await) >= EXPIRIES) {
        world.round(rounds, &mut troubles).await;
        rounds += 1;
        // Two cores are not to be worn out between the expiries.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let books = world.books().await;
    let Detours { broken, later } = &world.detours;
    println!(
        "{rounds} rounds of {CALLERS} callers, {troubles:?}; {broken:?} calls sent again after a kill, \
         {later:?} told to come later; books: {books}"
    );
    one_for_each_expiry(&books);
    assert_eq!(world.version(), 1 + EXPIRIES);
    assert_eq!(spooled(world.vault.path()), 0);
    // Callers whose replica was killed have asked another one: none is missing.
    assert!(count(&books, "api_ok") >= (rounds * CALLERS) as u64);
    assert!(broken.load(Ordering::Relaxed) > 0, "{troubles:?}");
    assert!(
        troubles.kills.iter().all(|kills| *kills > 0),
        "{troubles:?}"
    );
    assert!(troubles.amid_refreshes > 0, "{troubles:?}");
    assert!(troubles.crashes > 2 && troubles.cuts > 2, "{troubles:?}");
}
