//! Bounds for what is kept in memory.
//!
//! Everything in memory is a copy, so that forgetting one costs a read. Callers leave a mark at the
//! grants that they use (one bit, written when it is not set yet); when there are too many, those
//! without a mark go, and the marks of the others are taken away.

use std::{collections::HashSet, sync::Arc};

use super::Inner;
use crate::{id::GrantId, observe::Signal, sync::atomic::Ordering};

/// One of so many parts is forgotten at a time, so that it need not be done again at once.
const SHARE: usize = 16;

impl Inner {
    /// Looks through the cache if there is too much in it.
    pub(super) fn mind_bounds(self: &Arc<Self>) {
        if self.over(self.config.cached_grants) == (0, 0)
            || self.sweeping.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let inner = self.clone();
        // No caller waits for it.
        self.tracker.spawn(async move {
            inner.sweep();
            inner.sweeping.store(false, Ordering::Release);
        });
    }

    /// What upkeep does: grants of connections that are no more are forgotten, too.
    pub(super) fn tidy(self: &Arc<Self>) {
        if self.orphans.swap(false, Ordering::AcqRel) {
            let orphans = self.orphans();
            self.forget(&orphans);
        }
        self.mind_bounds();
        self.observer.observe(&Signal::Cached {
            grants: self.grants.len(),
            connections: self.connections.len(),
        });
    }

    /// By how much there are too many grants and connections.
    fn over(&self, most: usize) -> (usize, usize) {
        (
            self.grants.len().saturating_sub(most),
            self.connections.len().saturating_sub(most),
        )
    }

    pub(super) fn sweep(&self) {
        let most = self.config.cached_grants;
        let (grants, connections) = self.over(most - most / SHARE);
        let victims = self.least_used(grants);
        self.forget(&victims);
        // Connections that share a grant.
        let (_, left) = self.over(most - most / SHARE);
        if connections > 0 && left > 0 {
            let kept = self.connections.pin();
            for (key, _) in kept.iter().take(left) {
                kept.remove(key);
            }
        }
        self.observer.observe(&Signal::Evicted(victims.len()));
    }

    /// So many grants, by choice such that nobody has asked for lately, and none with a refresh
    /// under way.
    fn least_used(&self, count: usize) -> HashSet<GrantId> {
        let grants = self.grants.pin();
        // Where it begins differs, so that it is not always the same ones.
        let begin = (grants.len() as f64 * self.chance.fraction()) as usize;
        let mut victims = HashSet::with_capacity(count);
        // In the second round nobody has a mark any more.
        for _ in 0..2 {
            let around = grants.iter().skip(begin).chain(grants.iter().take(begin));
            for (id, entry) in around {
                // Of all, also when enough are found: a mark tells of the time since the last look.
                let recent = entry.take_recent();
                if victims.len() < count && !recent && !entry.flying() {
                    victims.insert(id.clone());
                }
            }
            if victims.len() >= count {
                break;
            }
        }
        victims
    }

    /// Grants that no connection in memory uses.
    fn orphans(&self) -> HashSet<GrantId> {
        let connections = self.connections.pin();
        let used: HashSet<_> = connections.values().map(|it| it.grant_id()).collect();
        let grants = self.grants.pin();
        let orphans = grants
            .iter()
            .filter(|(id, entry)| !used.contains(id) && !entry.flying());
        orphans.map(|(id, _)| id.clone()).collect()
    }

    /// Forgets grants, and the connections that use them.
    ///
    /// A connection in memory whose grant is not would hear of no change to it. So who is about to
    /// keep one with such a grant must hear of this: between the two removals.
    fn forget(&self, victims: &HashSet<GrantId>) {
        if victims.is_empty() {
            return;
        }
        let grants = self.grants.pin();
        for id in victims {
            grants.remove(id);
        }
        self.hear();
        let connections = self.connections.pin();
        connections.retain(|_, resolved| !victims.contains(resolved.grant_id()));
    }
}
