//! What goes wrong, and when: kills and stops timed by the provider's events, and its faults.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use tokenward::time::{Chance as _, SeededChance};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    callers::pick,
    fleet::{Fleet, Process},
    world::lock,
};
use crate::sandbox::{EventKind, Fault, TimelineEvent};

/// How many events an armed kill waits for, in time.
const ARMED: Duration = Duration::from_secs(4);

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChaosBooks {
    /// Processes killed.
    pub kills: u64,
    /// Of these, servers; the others are commands.
    pub servers_killed: u64,
    /// Kills by the moment.
    pub moments: BTreeMap<&'static str, u64>,
    /// Servers stopped for longer than a claim.
    pub stops: u64,
    /// Faults ordered at the provider.
    pub faults: u64,
    /// Servers started again.
    pub restarts: u64,
    /// Servers that did not start, in words.
    pub failed_starts: Vec<String>,
}

pub(super) struct Chaos {
    pub(super) fleet: Arc<Fleet>,
    pub(super) claim_ttl: Duration,
    pub(super) kills: u64,
    pub(super) kills_per_second: f64,
    pub(super) books: Mutex<ChaosBooks>,
    pub(super) tasks: TaskTracker,
}

/// The moments at which a process may die.
#[derive(Clone, Copy, Debug)]
struct Moment {
    name: &'static str,
    /// `None`: at any time.
    event: Option<EventKind>,
    /// The longest that the kill comes after the event.
    delay: Duration,
}

const MOMENTS: [Moment; 5] = [
    Moment {
        name: "seen, not decided",
        event: Some(EventKind::Seen),
        delay: Duration::from_millis(10),
    },
    Moment {
        name: "right after the rotation",
        event: Some(EventKind::Granted),
        delay: Duration::from_millis(10),
    },
    Moment {
        name: "right after the answer",
        event: Some(EventKind::Answered),
        delay: Duration::ZERO,
    },
    Moment {
        name: "while the answer is saved",
        event: Some(EventKind::Answered),
        delay: Duration::from_millis(12),
    },
    Moment {
        name: "at any time",
        event: None,
        delay: Duration::ZERO,
    },
];

/// Follows the provider's events and knows whose they are.
struct Watch {
    events: broadcast::Receiver<TimelineEvent>,
    whose: HashMap<u64, String>,
}

impl Watch {
    /// The next event of a process. `None`: the provider has ended.
    async fn next(&mut self) -> Option<(EventKind, String)> {
        loop {
            let event = match self.events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            let Some(request) = event.request else {
                continue;
            };
            let via = match (event.kind, event.via) {
                (EventKind::Seen, Some(via)) => {
                    self.whose.insert(request, via.clone());
                    via
                }
                (EventKind::Answered, _) => match self.whose.remove(&request) {
                    Some(via) => via,
                    None => continue,
                },
                _ => match self.whose.get(&request) {
                    Some(via) => via.clone(),
                    None => continue,
                },
            };
            return Some((event.kind, via));
        }
    }

    /// Lets time pass without losing sight of whose requests are whose.
    async fn idle(&mut self, pause: Duration) {
        let _ = tokio::time::timeout(pause, async { while self.next().await.is_some() {} }).await;
    }

    /// The process of the next event of a kind, if one comes in time.
    async fn process(&mut self, kind: EventKind, fleet: &Fleet) -> Option<Process> {
        let found = async {
            loop {
                let (seen, via) = self.next().await?;
                if seen == kind
                    && let Some(process) = fleet.find(&via)
                {
                    return Some(process);
                }
            }
        };
        tokio::time::timeout(ARMED, found).await.ok().flatten()
    }
}

impl Chaos {
    /// Kills and stops until the number of kills is reached, or `stop`.
    pub(super) async fn kill_on(self: Arc<Self>, seed: u64, stop: CancellationToken) {
        let chance = SeededChance::new(seed);
        let mut watch = Watch {
            events: self.fleet.world.sandbox.follow(),
            whose: HashMap::new(),
        };
        let mut turn = 0;
        while !stop.is_cancelled() && lock(&self.books).kills < self.kills {
            let pause = Duration::from_secs_f64((0.5 + chance.fraction()) / self.kills_per_second);
            watch.idle(pause).await;
            turn += 1;
            if turn % 20 == 7 {
                self.stop_one(&mut watch).await;
            } else {
                self.kill_one(&mut watch, &chance).await;
            }
        }
    }

    async fn kill_one(self: &Arc<Self>, watch: &mut Watch, chance: &SeededChance) {
        let moment = MOMENTS[pick(MOMENTS.len(), chance)];
        let victim = match moment.event {
            Some(kind) => watch.process(kind, &self.fleet).await,
            // A command as likely as any server: they are few at a time.
            None => {
                let all = self.fleet.all();
                let commands: Vec<_> = all.iter().filter(|one| one.server.is_none()).collect();
                match commands.get(pick(2 * commands.len(), chance)) {
                    Some(command) => Some((*command).clone()),
                    None => all.get(pick(all.len(), chance)).cloned(),
                }
            }
        };
        let Some(victim) = victim else { return };
        let delay = moment.delay.mul_f64(chance.fraction());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if !self.fleet.kill(&victim).await {
            return;
        }
        {
            let mut books = lock(&self.books);
            books.kills += 1;
            *books.moments.entry(moment.name).or_default() += 1;
            books.servers_killed += u64::from(victim.server.is_some());
        }
        if let Some((slot, _)) = victim.server {
            let chaos = self.clone();
            let pause = Duration::from_millis(300).mul_f64(chance.fraction());
            self.tasks.spawn(async move {
                tokio::time::sleep(pause).await;
                let started = chaos.fleet.serve(slot).await;
                let mut books = lock(&chaos.books);
                match started {
                    Ok(()) => books.restarts += 1,
                    Err(error) => books.failed_starts.push(error.to_string()),
                }
            });
        }
    }

    /// Stops an owner until its claim has run out and others had time to take over.
    async fn stop_one(self: &Arc<Self>, watch: &mut Watch) {
        let Some(victim) = watch.process(EventKind::Seen, &self.fleet).await else {
            return;
        };
        if victim.server.is_none() {
            return;
        }
        lock(&self.books).stops += 1;
        let chaos = self.clone();
        self.tasks.spawn(async move {
            let pause = chaos.claim_ttl.mul_f64(1.5) + Duration::from_secs(1);
            chaos.fleet.pause(&victim, pause).await;
        });
    }

    /// Orders faults until `stop`.
    pub(super) async fn disturb(self: Arc<Self>, seed: u64, stop: CancellationToken) {
        let chance = SeededChance::new(seed);
        let sandbox = &self.fleet.world.sandbox;
        while !stop.is_cancelled() {
            let fault = fault(&chance);
            sandbox.inject(fault, 1);
            lock(&self.books).faults += 1;
            let pause = Duration::from_millis(400 + pick(1200, &chance) as u64);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            // Lets go what hung meanwhile.
            sandbox.release();
        }
        sandbox.clear_faults();
        sandbox.release();
    }
}

fn fault(chance: &SeededChance) -> Fault {
    let yes = chance.fraction() < 0.5;
    match pick(10, chance) {
        0 => Fault::DropBeforeRotation,
        1 => Fault::DropAfterRotation,
        2 => Fault::HangBeforeRotation,
        3 => Fault::HangAfterRotation,
        4 => Fault::ServerError {
            status: 500,
            rotate: yes,
        },
        5 => Fault::ServerError {
            status: 503,
            rotate: false,
        },
        6 => Fault::MalformedBody { rotate: yes },
        7 => Fault::TooManyRequests {
            retry_after: yes.then_some(Duration::from_secs(1)),
        },
        8 => Fault::OkWithError {
            error: "temporarily_unavailable".to_owned(),
        },
        _ => Fault::Latency(Duration::from_millis(1500)),
    }
}
