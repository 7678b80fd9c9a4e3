//! A replica: the real engine behind simulated ports, killed and started again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokenward::{Vault, observe::Blind, time::SeededChance, vault::VaultParts};

use super::{
    books::LifeBook,
    provider::SimTransport,
    scenario::SECOND,
    spool::SimSpool,
    store::SimStore,
    time::{Life, SimClock, lock},
    world::World,
};

/// One replica over all its lives.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) world: Arc<World>,
    index: usize,
    /// The machine's clock, which restarts do not mend.
    rate: f64,
    present: Mutex<Option<Process>>,
}

/// One life.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) vault: Vault,
    pub(super) life: Arc<Life>,
    pub(super) number: usize,
}

impl Replica {
    pub(super) fn new(world: Arc<World>, index: usize) -> Self {
        // Up to 100 ppm fast or slow.
        let rate = 1.0 + (world.rng.fraction() - 0.5) * 2e-4;
        Self {
            world,
            index,
            rate,
            present: Mutex::new(None),
        }
    }

    /// The process that runs now, if one does.
    pub(super) fn process(&self) -> Option<Process> {
        lock(&self.present).clone()
    }

    /// Starts a process and waits until it is open; the store may be down.
    pub(super) async fn start(&self) {
        let world = &self.world;
        loop {
            let life = Arc::new(Life::new(world.time.clone()));
            let position = world.position().await;
            let number = {
                let mut books = world.books();
                books.lives.push(LifeBook {
                    replica: self.index,
                    known: position,
                    born: position,
                    ..LifeBook::default()
                });
                books.lives.len() - 1
            };
            let clock = Arc::new(SimClock {
                time: world.time.clone(),
                life: life.clone(),
                offset: Duration::from_millis(world.rng.range(0, 10_000_000)),
                rate: self.rate,
            });
            let parts = VaultParts {
                store: Arc::new(SimStore {
                    world: world.clone(),
                    life: life.clone(),
                    number,
                    replica: self.index,
                }),
                keyring: world.keyring.clone(),
                transport: Arc::new(SimTransport {
                    world: world.clone(),
                    life: life.clone(),
                    clock: clock.clone(),
                    number,
                }),
                spool: Arc::new(SimSpool {
                    world: world.clone(),
                    life: life.clone(),
                    replica: self.index,
                }),
                observer: Arc::new(Blind),
                clock,
                chance: Arc::new(SeededChance::new(world.rng.next())),
                catalogue: world.catalogue.clone(),
                config: world.scenario.config.clone(),
            };
            if let Ok(vault) = Vault::open(parts).await {
                vault.start_upkeep();
                world.note(None, format_args!("r{} starts", self.index));
                let process = Process {
                    vault,
                    life,
                    number,
                };
                *lock(&self.present) = Some(process);
                return;
            }
            life.kill();
            world.time.sleep(SECOND).await;
        }
    }

    /// `SIGKILL`.
    pub(super) fn kill(&self) {
        let Some(process) = lock(&self.present).take() else {
            return;
        };
        process.life.kill();
        self.world.note(None, format_args!("r{} dies", self.index));
        let now = self.world.now();
        let mut books = self.world.books();
        books.counts.crashes += 1;
        books.life_incident(process.number, now, true);
    }

    /// `SIGSTOP`, and `SIGCONT` after a while.
    pub(super) fn stop_for(&self, pause: Duration) {
        let Some(process) = self.process() else {
            return;
        };
        let now = self.world.now();
        self.world
            .note(None, format_args!("r{} stops for {pause:?}", self.index));
        process.life.stop_for(pause);
        let mut books = self.world.books();
        books.counts.fault("replica: stopped");
        let number = process.number;
        for due in books.lives[number].waiting.values_mut() {
            *due += pause;
        }
        // Until it goes on.
        books.life_incident(number, now + pause, false);
    }
}
