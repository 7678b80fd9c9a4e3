//! Idle grants, kept alive.

use std::sync::Arc;

use super::{
    Inner, Vault,
    entry::GrantEntry,
    join::{Joined, Waiter},
};
use crate::{
    error::TokenError,
    refresh::ledger::{GrantRow, Need},
    store::Stamped,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        lock,
    },
};

/// How many idle grants are listed at a time: enough for several replicas.
const KEEP_ALIVE_LIST: usize = 256;
/// How many of them this one refreshes before it lists them anew; the limiter spreads them.
const KEEP_ALIVE_BATCH: usize = 64;

impl Inner {
    fn shuffle<T>(&self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            // Far below 2^52, so exact.
            let other = ((last + 1) as f64 * self.chance.fraction()) as usize;
            list.swap(last, other.min(last));
        }
    }
}

impl Vault {
    pub(super) async fn keep_alive_on(self) {
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
        let asked = self.inner.clock.now();
        let Stamped { value, at } = self.inner.store.grant(&row.id).await?;
        // Each claim has a number of its own.
        let untouched = |present: &GrantRow| {
            (present.version, present.epoch) == (row.version, row.epoch)
                && present.claim.as_ref().is_none_or(|claim| claim.until <= at)
        };
        let Some(present) = value.filter(untouched) else {
            return Ok(None);
        };
        let known = self.inner.grants.pin().get(&row.id).cloned();
        let entry = match known {
            Some(entry) => entry,
            // Nobody asks for it, so it is not kept.
            None => {
                let snapshot = self.inner.read(&present, connector, at, asked)?;
                Arc::new(GrantEntry::new(&present, connector.clone(), snapshot))
            }
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
