//! What the engine lets others watch: metrics, logs and, later, webhooks hang here.

use std::{fmt, time::Duration};

use crate::{id::GrantId, refresh::ledger::FailureKind};

/// How a caller was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Served {
    /// From memory.
    Fresh,
    /// After waiting for a flight.
    Joined,
    /// With a stale token that still lives, because the refresh failed or takes long.
    Stale,
    /// Not at all.
    Failed,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlightOutcome {
    /// We refreshed.
    Refreshed,
    /// Others had.
    Adopted,
    /// It failed in this way.
    Failed(FailureKind),
    /// A lost answer must not be asked for again yet.
    Deferred,
    /// The grant is dead.
    Dead,
    /// The endpoint's gate is shut.
    GateShut,
    /// The grant is gone.
    Missing,
    /// The store is down.
    StoreDown,
}

/// Something worth watching. Names grants, never tokens.
#[derive(Clone, Debug)]
pub enum Signal<'a> {
    /// A caller was served.
    Served(Served),
    /// A flight began.
    FlightBegan,
    /// A flight ended.
    FlightEnded {
        /// How.
        outcome: FlightOutcome,
        /// How long it took.
        took: Duration,
        /// How many callers waited for it.
        waiters: usize,
    },
    /// A claim was found lost while its owner waited for the provider.
    ClaimLost {
        /// Of which grant.
        grant: &'a GrantId,
    },
    /// How many answers wait in the spool.
    SpoolDepth(usize),
    /// How much is in memory; now and then.
    Cached {
        /// Grants.
        grants: usize,
        /// Connections.
        connections: usize,
    },
    /// So many grants that were not used lately were forgotten, because there were too many.
    Evicted(usize),
    /// A run of failures begins; once per run.
    Pending {
        /// Of which grant.
        grant: &'a GrantId,
        /// The first failure.
        message: &'a str,
    },
    /// A run of failures has ended.
    Recovered {
        /// Of which grant.
        grant: &'a GrantId,
    },
    /// The API refuses tokens that the provider has just granted, once more.
    TokensRefused {
        /// Of which grant.
        grant: &'a GrantId,
        /// How many in a row.
        refusals: u32,
        /// How long nothing is done about it.
        pause: Duration,
    },
    /// The API takes the tokens of such a grant again.
    TokensAccepted {
        /// Of which grant.
        grant: &'a GrantId,
    },
    /// A grant has died.
    Died {
        /// Which.
        grant: &'a GrantId,
        /// The provider's word.
        reason: &'a str,
    },
}

/// Watches the engine. Called on hot paths: it must not block.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Takes note.
    fn observe(&self, signal: &Signal<'_>);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blind;

impl Observer for Blind {
    fn observe(&self, _: &Signal<'_>) {}
}
