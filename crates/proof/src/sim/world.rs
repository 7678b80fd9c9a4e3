//! What everybody in a run shares.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokenward::{
    ConnectionKey, GrantId,
    connector::Catalogue,
    oauth::TokenSet,
    seal::{Key, Keyring, Purpose},
    store::{MemoryStore, prelude::*},
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    books::Books,
    rng::Rng,
    scenario::{Broken, KINDS, Scenario},
    time::{Life, SimClock, Time, lock},
};

pub(super) struct World {
    pub(super) time: Arc<Time>,
    pub(super) rng: Rng,
    pub(super) scenario: Scenario,
    /// The truth behind every replica's [`super::store::SimStore`].
    pub(super) store: MemoryStore,
    pub(super) keyring: Keyring,
    pub(super) catalogue: Catalogue,
    pub(super) tasks: TaskTracker,
    /// Each replica's folder; it survives a crash.
    pub(super) spools: Vec<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub(super) keys: Vec<ConnectionKey>,
    books: Mutex<Books>,
    tempted: mpsc::UnboundedSender<Temptation>,
}

/// The worst moment for something has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Temptation {
    Kill(usize),
    Stop(usize),
    /// Somebody re-authorizes or deletes this connection.
    Change(usize),
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// The kind of provider of a connection.
pub(super) fn kind_of(connection: usize) -> usize {
    connection % KINDS.len()
}

impl World {
    pub(super) fn new(
        rng: Rng,
        scenario: Scenario,
        time: Arc<Time>,
        keep_all: bool,
        tempted: mpsc::UnboundedSender<Temptation>,
    ) -> Self {
        let clock = SimClock {
            life: Arc::new(Life::new(time.clone())),
            time: time.clone(),
            offset: Duration::ZERO,
            rate: 1.0,
        };
        let keys = (0..scenario.connections)
            .map(|number| {
                let kind = KINDS[kind_of(number)].id;
                ConnectionKey::new("app", format!("c{number}"), "crm", kind)
            })
            .collect();
        Self {
            rng,
            store: MemoryStore::new(Arc::new(clock)),
            keyring: Keyring::new(vec![Key::generate()]).expect("one key"),
            catalogue: super::scenario::catalogue(),
            tasks: TaskTracker::new(),
            spools: (0..scenario.replicas).map(|_| Mutex::default()).collect(),
            keys,
            books: Mutex::new(Books::new(scenario.connections, keep_all)),
            scenario,
            time,
            tempted,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.time.now()
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(super) fn broken(&self, broken: Broken) -> bool {
        self.scenario.broken == Some(broken)
    }

    /// A replica is in the middle of a refresh: fate may strike now.
    pub(super) fn tempt(&self, replica: usize, connection: Option<usize>) {
        self.tempt_with(self.scenario.temptation, replica, connection);
    }

    /// As [`tempt`](Self::tempt), where it is likelier.
    pub(super) fn tempt_with(&self, chance: f64, replica: usize, connection: Option<usize>) {
        if self.scenario.calm || self.now() >= self.scenario.length || !self.rng.chance(chance) {
            return;
        }
        let temptation = match (self.rng.index(3), connection) {
            (0, _) => Temptation::Kill(replica),
            (1, Some(connection)) => Temptation::Change(connection),
            _ => Temptation::Stop(replica),
        };
        // Nobody listens any more when the run is over.
        let _ = self.tempted.send(temptation);
    }

    pub(super) fn note(&self, grant: Option<&GrantId>, what: fmt::Arguments<'_>) {
        let mut books = self.books();
        let number = grant.and_then(|grant| books.number(grant));
        books.note(self.now(), number, what);
    }

    /// Opens what a replica has sealed.
    pub(super) fn tokens(&self, grant: &GrantId, version: u64, sealed: &[u8]) -> Option<TokenSet> {
        let plain = self
            .keyring
            .open(Purpose::TokenSet { grant, version }, sealed)
            .ok()?;
        TokenSet::from_plain(&plain)
    }

    /// Where the store's changes end at present.
    pub(super) async fn position(&self) -> u64 {
        let changes = self.store.changes(None).await;
        changes.expect("the truth is never down").next
    }
}
