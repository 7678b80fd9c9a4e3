//! The flight of a grant, for those who wait for it: joined, or started by the first who asks.

use std::sync::Arc;

use super::{
    Inner,
    entry::{GrantEntry, Snapshot},
    pilot,
    token::Held,
};
use crate::{
    error::TokenError,
    refresh::ledger::Need,
    sync::{Guard, Notify, OnceLock, lock},
    time::Moment,
};

/// What is known of a newer version.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// The flight itself has refreshed it: another one could do no better.
    pub(super) ours: bool,
    /// When the store was last seen without it.
    pub(super) not_before: Option<Moment>,
}

/// How a flight ended, for those who waited.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// The snapshot is newer than what the flight set out from.
    Newer(News),
    /// It is not.
    Failed {
        error: TokenError,
        retry_at: Option<Moment>,
    },
}

/// Where a flight's landing is made known. Its waiters are woken in the order in which they came;
/// a `watch` channel wakes them in a random order, which a simulation could not repeat.
#[derive(Default)]
struct Board {
    landing: OnceLock<Landing>,
    posted: Notify,
}

impl Board {
    fn post(&self, landing: Landing) {
        // Only the first counts.
        let _ = self.landing.set(landing);
        self.posted.notify_waiters();
    }
}

/// A place in the queue of a flight.
#[derive(Clone)]
pub(super) struct Waiter(Arc<Board>);

impl Waiter {
    pub(super) async fn landed(self) -> Landing {
        let posted = self.0.posted.notified();
        tokio::pin!(posted);
        posted.as_mut().enable();
        if self.0.landing.get().is_none() {
            posted.await;
        }
        let landing = self.0.landing.get();
        landing.expect("set before it is announced").clone()
    }
}

/// The flight's own end of the board. One that is dropped without a landing (a panic) says so.
pub(super) struct Herald(Arc<Board>);

impl Herald {
    fn new() -> (Self, Waiter) {
        let board = Arc::new(Board::default());
        (Self(board.clone()), Waiter(board))
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    pub(super) fn announce(&self, landing: Landing) {
        self.0.post(landing);
    }

    /// Lets those who wait go on while the flight goes on. Who comes from now on, and needs more
    /// than what is there, waits for its end.
    pub(super) fn announce_ahead(&mut self, entry: &GrantEntry) {
        let (herald, waiter) = Self::new();
        if let Some(slot) = &mut *lock(&entry.slot) {
            *slot = waiter;
        }
        let news = News {
            ours: true,
            not_before: None,
        };
        std::mem::replace(self, herald).announce(Landing::Newer(news));
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.0.post(Landing::Failed {
            error: TokenError::Store("the refresh task ended unexpectedly".to_owned()),
            retry_at: None,
        });
    }
}

/// What joining found.
pub(super) enum Joined {
    Newer(Held),
    Flight(Waiter),
}

impl Inner {
    /// Joins the flight of a grant, or starts it, unless a newer version is there by now that is
    /// good `enough`.
    pub(super) fn join(
        self: &Arc<Self>,
        entry: &Arc<GrantEntry>,
        need: Need,
        seen: u64,
        enough: impl Fn(&Snapshot) -> bool,
    ) -> Result<Joined, TokenError> {
        let find = |snapshot: Guard<Arc<Snapshot>>| {
            let newer = snapshot.version > seen && enough(&snapshot);
            newer.then(|| Held::of(snapshot)).flatten()
        };
        // Those whom a flight has woken all at once need not queue for the lock.
        if let Some(token) = find(entry.snapshot()) {
            return Ok(Joined::Newer(token));
        }
        let mut slot = lock(&entry.slot);
        // A flight that lands publishes its snapshot before it leaves the slot: under the lock,
        // either the snapshot is newer or the flight is still to be joined.
        let snapshot = entry.snapshot();
        let (version, refreshable) = (snapshot.version, snapshot.refreshable);
        if let Some(token) = find(snapshot) {
            return Ok(Joined::Newer(token));
        }
        if !refreshable {
            return Err(TokenError::NoRefreshToken);
        }
        if let Some(waiter) = &*slot {
            // Whether what others commit comes after this question can only be told by a look
            // after it.
            if need == Need::Forced {
                entry.changed.notify_waiters();
            }
            return Ok(Joined::Flight(waiter.clone()));
        }
        // Taken before the question: a drain that begins after the answer waits for this flight.
        let _counted = self.tracker.token();
        if self.tracker.is_closed() {
            return Err(TokenError::ShuttingDown);
        }
        let (herald, waiter) = Herald::new();
        *slot = Some(waiter.clone());
        let newest = version.max(seen);
        self.tracker.spawn(pilot::fly(
            self.clone(),
            entry.clone(),
            need.of(seen, newest),
            newest,
            herald,
        ));
        Ok(Joined::Flight(waiter))
    }
}
