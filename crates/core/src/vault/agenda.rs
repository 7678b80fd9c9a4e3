//! When which grant is looked at again: ahead of its margin, or after a failure.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

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
impl Inner {
    /// Notes when a grant is to be refreshed ahead of its margin.
    pub(super) fn plan_ahead(&self, entry: &GrantEntry, snapshot: &Snapshot) {
        if let (true, true, Some(expires)) = (
            self.config.refresh_ahead,
            snapshot.refreshable,
            snapshot.expires,
        ) {
            let at = expires - schedule::ahead(snapshot.margin, self.chance.fraction());
            let refreshed = snapshot.refreshed;
            if refreshed.is_none_or(|refreshed| at >= refreshed + schedule::EARLIEST_AHEAD) {
                self.look_again_at(at, entry, snapshot.version);
            }
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
    pub(super) async fn follow_agenda(self) {
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
}
