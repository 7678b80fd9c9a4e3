//! Upkeep: refreshing ahead of expiry, keeping idle grants alive, hearing of other processes'
//! changes, adopting the spool.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Inner, Vault,
    entry::{GrantEntry, Snapshot},
};
use crate::{
    id::GrantId,
    refresh::{ledger::Need, schedule},
    sync::lock,
    time::Moment,
};

/// Grants by the time at which they are to be looked at: (when, grant, the version meant).
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(Moment, GrantId, u64)>>,
}

/// How often the agenda is read.
const TICK: Duration = Duration::from_millis(250);
/// How many idle grants are kept alive at a time; the limiter spreads them.
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
        self.inner
            .tracker
            .spawn(upkeep(closing.clone(), self.clone()));
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
                    if changes.gap || since.is_none() {
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

    async fn keep_alive(&self) {
        let due = match self.inner.store.keep_alive_due(KEEP_ALIVE_BATCH).await {
            Ok(due) => due,
            Err(error) => return tracing::warn!(%error, "idle grants could not be listed"),
        };
        for row in due {
            let Some(connector) = self.inner.catalogue.find(row.connector.as_str()) else {
                continue;
            };
            match self.inner.grant_entry(&row.id, connector).await {
                Ok(Some(entry)) => {
                    tracing::info!(grant = %row.id, connector = %row.connector, "refreshing an idle grant to keep it alive");
                    let _ = self.inner.join(&entry, Need::Stale, row.version, |_| true);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(grant = %row.id, %error, "an idle grant could not be read");
                }
            }
        }
    }
}

/// Adopts the spool at once, then looks after spool and idle grants now and then.
async fn upkeep(closing: CancellationToken, vault: Vault) {
    let every = vault.inner.config.upkeep_every;
    while !closing.is_cancelled() {
        vault.adopt_spool().await;
        vault.keep_alive().await;
        let pause = every.mul_f64(0.9 + 0.2 * vault.inner.chance.fraction());
        closing
            .run_until_cancelled(vault.inner.clock.sleep(pause))
            .await;
    }
}
