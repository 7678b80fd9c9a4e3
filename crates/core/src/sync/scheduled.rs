//! The primitives under shuttle. Where shuttle has none of a kind, the real one is wrapped: a turn
//! before each operation makes it one indivisible step among all interleavings of such steps.

use std::{fmt, future::Future, sync::Arc};

pub(crate) use arc_swap::Guard;
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
use tokio::sync::futures::Notified;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Another task may run here.
pub(crate) fn turn() {
    // Every operation on an atomic of shuttle's is such a point.
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}

pub(crate) struct ArcSwap<T>(arc_swap::ArcSwap<T>);

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }

    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        turn();
        self.0.load()
    }

    pub(crate) fn rcu(&self, mut change: impl FnMut(&Arc<T>) -> Arc<T>) {
        loop {
            let present = self.load();
            let next = change(&present);
            turn();
            let before = self.0.compare_and_swap(&*present, next);
            if Arc::ptr_eq(&before, &present) {
                return;
            }
        }
    }
}

pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self(std::sync::OnceLock::new())
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        turn();
        self.0.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        turn();
        self.0.set(value)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        turn();
        self.0.notified()
    }

    pub(crate) fn notify_one(&self) {
        turn();
        self.0.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        turn();
        self.0.notify_waiters();
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TaskTracker(tokio_util::task::TaskTracker);

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn spawn<F>(&self, task: F) -> shuttle::future::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        turn();
        shuttle::future::spawn(self.0.track_future(task))
    }

    pub(crate) fn token(&self) -> TaskTrackerToken {
        turn();
        self.0.token()
    }

    pub(crate) fn is_closed(&self) -> bool {
        turn();
        self.0.is_closed()
    }

    pub(crate) fn close(&self) {
        turn();
        self.0.close();
    }

    pub(crate) async fn wait(&self) {
        turn();
        self.0.wait().await;
    }
}

impl<T> fmt::Debug for ArcSwap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcSwap").finish_non_exhaustive()
    }
}
