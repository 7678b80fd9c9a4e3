//! What a run found.

use std::{collections::BTreeMap, time::Duration};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which promise.
    pub property: &'static str,
    /// What happened.
    pub what: String,
    /// The last events of the grant and of the cluster before it.
    pub trace: Vec<String>,
}

/// What happened in a run, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Questions by callers, by how they ended.
    pub calls: BTreeMap<&'static str, u64>,
    /// Refreshes that providers granted.
    pub granted: u64,
    /// Of them, for a refresh token that had been replaced.
    pub replays: u64,
    /// Grants that died of a token that was sent again.
    pub revoked_by_reuse: u64,
    /// Versions committed by refreshes.
    pub committed: u64,
    /// Answers that waited in the spool.
    pub spooled: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Replicas killed.
    pub crashes: u64,
    /// Re-authorizations, deletions, links and the like.
    pub admin: u64,
    /// The store's verbs.
    pub statements: u64,
}

impl Counts {
    pub(super) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(super) fn call(&mut self, end: &'static str) {
        *self.calls.entry(end).or_default() += 1;
    }

    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.calls {
            *self.calls.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.granted += other.granted;
        self.replays += other.replays;
        self.revoked_by_reuse += other.revoked_by_reuse;
        self.committed += other.committed;
        self.spooled += other.spooled;
        self.crashes += other.crashes;
        self.admin += other.admin;
        self.statements += other.statements;
    }
}

/// One seed's end.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of every event in its order: equal for equal seeds.
    pub hash: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Numbers.
    pub counts: Counts,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Every event, if that was wanted.
    pub trace: Vec<String>,
}
