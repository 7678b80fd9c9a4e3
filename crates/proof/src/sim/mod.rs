//! The simulator: whole clusters of the real engine on virtual time, from a seed.
//!
//! Replicas ([`tokenward::Vault`] with its flights, keeper and spool) share one store and talk to
//! providers that follow the sandbox's ledger. Requests and replies are delayed and lost, replicas
//! die, stop and start, clocks disagree, people re-authorize and delete. The judge reads the
//! provider's books, the store's and the callers'. The same seed gives the same run.

mod books;
mod callers;
pub mod cli;
mod judge;
mod provider;
mod replica;
mod report;
mod rng;
mod scenario;
mod spool;
mod store;
mod time;
mod world;

use std::{sync::Arc, time::Duration};

pub use report::{Counts, Report, Violation};
pub use scenario::Broken;
use tokenward::{
    Secret,
    seal::Purpose,
    store::{OAuthClient, prelude::*},
};
use tokio::sync::mpsc;

use self::{
    callers::{Question, administer, authorize, call},
    replica::{Process, Replica},
    rng::Rng,
    scenario::{HOUR, KINDS, PEACE, SECOND, Scenario},
    time::Time,
    world::{Temptation, World},
};

/// How a seed is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Virtual time with load and trouble.
    pub length: Duration,
    /// A safeguard to take away.
    pub broken: Option<Broken>,
    /// Whether to keep every event.
    pub trace: bool,
}

/// Runs a seed.
///
/// # Panics
///
/// When the engine does.
pub fn run(seed: u64, options: &Options) -> Report {
    let rng = Rng::new(seed);
    let scenario = Scenario::new(&rng, options.length, options.broken);
    let time = Arc::new(Time::default());
    let timers = time.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || {
            timers.advance();
        })
        .build()
        .expect("a runtime without drivers");
    let (tempted, temptations) = mpsc::unbounded_channel();
    let world = World::new(rng, scenario, time, options.trace, tempted);
    let world = Arc::new(world);
    runtime.block_on(live(world.clone(), temptations));
    drop(runtime);
    let mut books = world.books();
    Report {
        seed,
        hash: books.hash(),
        simulated: world.now(),
        counts: books.counts.clone(),
        violations: std::mem::take(&mut books.violations),
        trace: books.all.take().unwrap_or_default(),
    }
}

async fn live(world: Arc<World>, temptations: mpsc::UnboundedReceiver<Temptation>) {
    let scenario = &world.scenario;
    world.note(
        None,
        format_args!(
            "{} replicas, {} connections, calm: {}",
            scenario.replicas, scenario.connections, scenario.calm
        ),
    );
    for window in &scenario.windows {
        world.note(None, format_args!("to come: {window:?}"));
    }
    for kind in &KINDS {
        let purpose = Purpose::ClientSecret {
            application: "app",
            connector: kind.id,
        };
        let secret = Secret::new("client-secret");
        let client = OAuthClient {
            application: "app".into(),
            connector: kind.id.into(),
            client_id: "client".to_owned(),
            sealed_secret: Some(world.keyring.seal(purpose, secret.expose().as_bytes())),
            settings: std::collections::BTreeMap::new(),
            scopes: Vec::new(),
        };
        world
            .store
            .put_client(client)
            .await
            .expect("the truth is never down");
    }
    let replicas: Vec<_> = (0..scenario.replicas)
        .map(|index| Arc::new(Replica::new(world.clone(), index)))
        .collect();
    for replica in &replicas {
        replica.start().await;
    }
    for connection in 0..scenario.connections {
        let process = replicas[0].process().expect("nobody has died yet");
        authorize(&world, &process, connection).await;
    }
    world.tasks.spawn(load(world.clone(), replicas.clone()));
    world.tasks.spawn(watch(world.clone()));
    if !scenario.calm {
        world.tasks.spawn(crashes(world.clone(), replicas.clone()));
        let fate = fate(world.clone(), replicas.clone(), temptations);
        world.tasks.spawn(fate);
        world.tasks.spawn(stops(world.clone(), replicas.clone()));
    }
    world.tasks.spawn(admin(world.clone(), replicas.clone()));
    world.time.sleep_until(scenario.length).await;
    world.note(None, format_args!("peace"));
    for replica in &replicas {
        if replica.process().is_none() {
            replica.start().await;
        }
    }
    world.time.sleep(PEACE).await;
    world.note(None, format_args!("the last questions"));
    last_questions(&world, &replicas).await;
    for replica in &replicas {
        if let Some(process) = replica.process() {
            process.vault.drain(HOUR).await;
        }
    }
    world.overdue();
    world.audit();
}

fn over(world: &World) -> bool {
    world.now() >= world.scenario.length
}

/// Bursts of callers.
async fn load(world: Arc<World>, replicas: Vec<Arc<Replica>>) {
    let World {
        rng,
        scenario,
        time,
        ..
    } = &*world;
    while !over(&world) {
        time.sleep(rng.gap(scenario.burst_every)).await;
        let connection = rng.index(scenario.connections);
        let callers = 1 + rng.index(if rng.chance(0.1) { 60 } else { 6 });
        let everywhere = rng.chance(0.5);
        let one = rng.index(replicas.len());
        let forced = rng.chance(0.03);
        for _ in 0..callers {
            let replica = if everywhere {
                rng.index(replicas.len())
            } else {
                one
            };
            let question = match rng.index(100) {
                0..2 => Question::Validate,
                2..4 => Question::Rejected,
                _ if forced => Question::Validate,
                _ => Question::Token,
            };
            let delay = rng.between(Duration::ZERO, SECOND / 2);
            let patience = rng
                .chance(0.1)
                .then(|| rng.between(Duration::ZERO, 2 * SECOND));
            let (world, replica) = (world.clone(), replicas[replica].clone());
            let shared = world.clone();
            world.tasks.spawn(async move {
                shared.time.sleep(delay).await;
                if let Some(process) = replica.process() {
                    call(shared, process, connection, question, patience).await;
                }
            });
        }
    }
}

async fn watch(world: Arc<World>) {
    loop {
        world.time.sleep(10 * SECOND).await;
        world.overdue();
    }
}

async fn crashes(world: Arc<World>, replicas: Vec<Arc<Replica>>) {
    let World {
        rng,
        scenario,
        time,
        ..
    } = &*world;
    loop {
        time.sleep(rng.gap(scenario.crash_every)).await;
        if over(&world) {
            return;
        }
        world
            .tasks
            .spawn(crash(world.clone(), rng.pick(&replicas).clone()));
    }
}

/// One replica dies, and comes back.
async fn crash(world: Arc<World>, replica: Arc<Replica>) {
    if replica.process().is_none() {
        return;
    }
    replica.kill();
    let pause = world.rng.between(SECOND / 10, 90 * SECOND);
    world.time.sleep(pause).await;
    if replica.process().is_none() && !over(&world) {
        replica.start().await;
    }
}

/// What happens at the worst moment.
async fn fate(
    world: Arc<World>,
    replicas: Vec<Arc<Replica>>,
    mut temptations: mpsc::UnboundedReceiver<Temptation>,
) {
    while let Some(temptation) = temptations.recv().await {
        let replicas = replicas.clone();
        let shared = world.clone();
        world.tasks.spawn(async move {
            let World { rng, time, .. } = &*shared;
            let longest = if rng.chance(0.5) {
                SECOND / 100
            } else {
                SECOND
            };
            time.sleep(rng.between(Duration::ZERO, longest)).await;
            match temptation {
                Temptation::Kill(replica) => {
                    crash(shared.clone(), replicas[replica].clone()).await;
                }
                Temptation::Stop(replica) => {
                    replicas[replica].stop_for(rng.between(SECOND, 60 * SECOND));
                }
                Temptation::Change(connection) => {
                    if let Some(process) = rng.pick(&replicas).process() {
                        take_turn(shared.clone(), process, connection, false).await;
                    }
                }
            }
        });
    }
}

async fn stops(world: Arc<World>, replicas: Vec<Arc<Replica>>) {
    let World {
        rng,
        scenario,
        time,
        ..
    } = &*world;
    loop {
        time.sleep(rng.gap(scenario.stop_every)).await;
        if over(&world) {
            return;
        }
        rng.pick(&replicas)
            .stop_for(rng.between(SECOND / 10, 60 * SECOND));
    }
}

async fn admin(world: Arc<World>, replicas: Vec<Arc<Replica>>) {
    let World {
        rng,
        scenario,
        time,
        ..
    } = &*world;
    loop {
        time.sleep(rng.gap(scenario.admin_every)).await;
        if over(&world) {
            return;
        }
        let dead: Vec<usize> = {
            let books = world.books();
            let dead = |connection: &usize| {
                books.connections[*connection]
                    .states
                    .last()
                    .is_none_or(|(_, grant)| {
                        grant.as_ref().is_none_or(|grant| books.grants[grant].dead)
                    })
            };
            (0..scenario.connections).filter(dead).collect()
        };
        let revive = !dead.is_empty() && rng.chance(0.5);
        let connection = if revive {
            *rng.pick(&dead)
        } else {
            rng.index(scenario.connections)
        };
        let Some(process) = rng.pick(&replicas).process() else {
            continue;
        };
        world
            .tasks
            .spawn(take_turn(world.clone(), process, connection, revive));
    }
}

/// A person changes a connection, unless another does.
async fn take_turn(world: Arc<World>, process: Process, connection: usize, revive: bool) {
    let busy = std::mem::replace(&mut world.books().connections[connection].busy, true);
    if busy {
        return;
    }
    tokio::select! {
        biased;
        () = administer(&world, &process, connection, revive) => {}
        // Whoever was asked has died.
        () = world.time.sleep(HOUR / 6) => {}
    }
    world.books().connections[connection].busy = false;
}

/// In the end everybody is served whose grant lives.
async fn last_questions(world: &Arc<World>, replicas: &[Arc<Replica>]) {
    for connection in 0..world.scenario.connections {
        let replica = world.rng.pick(replicas);
        let Some(process) = replica.process() else {
            continue;
        };
        let answer = process.vault.token(&world.keys[connection]).await;
        let now = world.now();
        let mut books = world.books();
        let grant = books.connections[connection]
            .states
            .last()
            .and_then(|(_, grant)| grant.clone());
        let Some(grant) = grant else { continue };
        let book = &books.grants[&grant];
        let (dead, number) = (book.dead, book.number);
        if let Err(error) = answer
            && !dead
        {
            books.violated(
                now,
                "everybody is served in the end",
                Some(number),
                format_args!("c{connection} gets {error}"),
            );
        }
    }
}
