//! Upkeep: refreshing ahead of expiry, keeping idle grants alive, hearing of other processes'
//! changes, adopting the spool.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Inner, Vault,
    entry::{GrantEntry, Joined, Snapshot, Waiter},
};
use crate::{
    error::TokenError,
    id::GrantId,
    refresh::{
        ledger::{GrantRow, Need},
        schedule,
    },
    store::Stamped,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        lock,
    },
    time::Moment,
};

/// Grants by the time at which they are to be looked at: (when, grant, the version meant).
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(Moment, GrantId, u64)>>,
}

/// How often the agenda is read.
const TICK: Duration = Duration::from_millis(250);
/// How many idle grants are listed at a time: enough for several replicas.
const KEEP_ALIVE_LIST: usize = 256;
/// How many of them this one refreshes before it lists them anew; the limiter spreads them.
const KEEP_ALIVE_BATCH: usize = 64;

impl Inner {
    /// Notes when a grant is to be refreshed ahead of its margin.
    pub(super) fn plan_ahead(&self, entry: &GrantEntry, snapshot: &Snapshot) {
        if let (true, true, Some(expires)) = (
            self.config.refresh_ahead,
            snapshot.refreshable,
            snapshot.expires,
        ) {
            let at = expires - schedule::ahead(snapshot.margin, self.chance.fraction());
            self.look_again_at(at, entry, snapshot.version);
        }
    }

    /// Notes when a grant in use is to be looked at again, unless it has a newer version by then.
    pub(super) fn look_again_at(&self, at: Moment, entry: &GrantEntry, version: u64) {
        lock(&self.agenda)
            .heap
            .push(Reverse((at, entry.id.clone(), version)));
    }

    fn due(&self, now: Moment) -> Vec<(Arc<GrantEntry>, u64)> {
        let mut agenda = lock(&self.agenda);
        let mut due = Vec::new();
        while agenda
            .heap
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= now)
        {
            let Some(Reverse((_, id, version))) = agenda.heap.pop() else {
                break;
            };
            if let Some(entry) = self.grants.pin().get(&id) {
                due.push((entry.clone(), version));
            }
        }
        due
    }
}

impl Inner {
    /// Never the same, so that replicas that start together do not stay together.
    fn upkeep_pause(&self) -> Duration {
        let every = self.config.upkeep_every;
        every.mul_f64(0.9 + 0.2 * self.chance.fraction())
    }

    fn shuffle<T>(&self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            // Far below 2^52, so exact.
            let other = ((last + 1) as f64 * self.chance.fraction()) as usize;
            list.swap(last, other.min(last));
        }
    }
}

impl Vault {
    /// Starts the upkeep; it ends with [`drain`](Vault::drain). Without it everything works, but
    /// callers wait at each expiry, and changes by other processes are seen only when a token is
    /// stale or rejected.
    pub fn start_upkeep(&self) {
        let closing = &self.inner.closing;
        self.inner.tracker.spawn(
            closing
                .clone()
                .run_until_cancelled_owned(self.clone().follow_agenda()),
        );
        self.inner.tracker.spawn(
            closing
                .clone()
                .run_until_cancelled_owned(self.clone().follow_changes()),
        );
        let keep_alive = self.clone().keep_alive_on();
        let keep_alive = closing.clone().run_until_cancelled_owned(keep_alive);
        self.inner.tracker.spawn(keep_alive);
        self.inner
            .tracker
            .spawn(look_after_spool(closing.clone(), self.clone()));
    }

    async fn follow_agenda(self) {
        loop {
            self.inner.clock.sleep(TICK).await;
            let now = self.inner.clock.now();
            for (entry, version) in self.inner.due(now) {
                // Nobody asks for it: it rests until somebody does, or until keep-alive.
                if entry.snapshot().version == version && entry.take_use() {
                    // Nobody waits for this flight; what it has to say, it logs.
                    let fresh = |newer: &Snapshot| newer.fresh(now);
                    let _ = self.inner.join(&entry, Need::Stale, version, fresh);
                }
            }
        }
    }

    async fn follow_changes(self) {
        let mut since = None;
        loop {
            match self.inner.store.changes(since).await {
                Ok(changes) => {
                    // Of what changed before the first position nobody tells.
                    if changes.gap.is_some() || since.is_none() {
                        self.forget_all();
                    }
                    // What failed to be read is forgotten, so that it is read when it is needed.
                    if let Err(error) = self.apply(&changes.changes).await {
                        tracing::warn!(%error, "changes could not be read; copies in memory are dropped");
                        self.forget_all();
                    }
                    since = Some(changes.next);
                }
                Err(error) => tracing::warn!(%error, "the store does not tell of changes"),
            }
            let poll = self.inner.clock.sleep(self.inner.config.change_poll);
            tokio::select! {
                () = poll => {}
                () = self.inner.store.news() => {}
            }
        }
    }

    async fn keep_alive_on(self) {
        loop {
            self.keep_alive().await;
            self.inner.clock.sleep(self.inner.upkeep_pause()).await;
        }
    }

    /// Every replica finds the same grants. Each takes them in an order of its own, a few at a
    /// time, and passes over those that others have been at meanwhile. So they share the work,
    /// however many they are; what one leaves undone because it dies is still due for the rest.
    async fn keep_alive(&self) {
        let mut due = match self.inner.store.keep_alive_due(KEEP_ALIVE_LIST).await {
            Ok(due) => due,
            Err(error) => return tracing::warn!(%error, "idle grants could not be listed"),
        };
        self.inner.shuffle(&mut due);
        let round = KeepAlive {
            due: Mutex::new(due),
            flights: AtomicUsize::new(0),
        };
        // Four at a time. The more, the more often two replicas are at the same one.
        tokio::join!(
            self.keep_some_alive(&round),
            self.keep_some_alive(&round),
            self.keep_some_alive(&round),
            self.keep_some_alive(&round),
        );
    }

    async fn keep_some_alive(&self, round: &KeepAlive) {
        while let Some(row) = round.next() {
            match self.keep_one_alive(&row).await {
                Ok(Some(flight)) => {
                    round.flights.fetch_add(1, Ordering::Relaxed);
                    // What it has to say, it logs.
                    flight.landed().await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(grant = %row.id, %error, "an idle grant could not be kept alive");
                }
            }
        }
    }

    /// The flight that refreshes a grant, unless others have seen to it since it was listed.
    async fn keep_one_alive(&self, row: &GrantRow) -> Result<Option<Waiter>, TokenError> {
        let Some(connector) = self.inner.catalogue.find(row.connector.as_str()) else {
            return Ok(None);
        };
        let Stamped { value, at } = self.inner.store.grant(&row.id).await?;
        // Each claim has a number of its own.
        let untouched = value.is_some_and(|present| {
            (present.version, present.epoch) == (row.version, row.epoch)
                && present.claim.is_none_or(|claim| claim.until <= at)
        });
        if !untouched {
            return Ok(None);
        }
        let Some(entry) = self.inner.grant_entry(&row.id, connector).await? else {
            return Ok(None);
        };
        tracing::info!(grant = %row.id, connector = %row.connector, "refreshing an idle grant to keep it alive");
        match self
            .inner
            .join(&entry, Need::Stale, row.version, |_| true)?
        {
            Joined::Flight(flight) => Ok(Some(flight)),
            Joined::Newer(_) => Ok(None),
        }
    }
}

/// One round of keeping alive.
struct KeepAlive {
    due: Mutex<Vec<GrantRow>>,
    flights: AtomicUsize,
}

impl KeepAlive {
    /// The next grant, if this replica has not done enough by now.
    fn next(&self) -> Option<GrantRow> {
        let enough = self.flights.load(Ordering::Relaxed) >= KEEP_ALIVE_BATCH;
        (!enough).then(|| lock(&self.due).pop())?
    }
}

/// Adopts the spool at once, then now and then.
async fn look_after_spool(closing: CancellationToken, vault: Vault) {
    while !closing.is_cancelled() {
        vault.adopt_spool().await;
        let pause = vault.inner.clock.sleep(vault.inner.upkeep_pause());
        closing.run_until_cancelled(pause).await;
    }
}
