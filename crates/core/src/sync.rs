//! What the engine's tasks share state through: in one place, so that the schedule tests
//! (`vault/schedules.rs`, feature `shuttle`) can put primitives in their stead whose every
//! operation is a point at which another task may run.

#[cfg(not(all(test, feature = "shuttle")))]
mod real {
    pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, atomic};

    pub(crate) use arc_swap::{ArcSwap, Guard};
    pub(crate) use tokio::sync::Notify;
    pub(crate) use tokio_util::task::TaskTracker;
}
#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use real::*;

#[cfg(all(test, feature = "shuttle"))]
mod scheduled;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) use scheduled::*;

/// Locks that guard a few lines without a panic in them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
