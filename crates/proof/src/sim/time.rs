//! Virtual time: one timer fires at a time, and only when nothing else can run.
//!
//! That makes a run a function of its seed: `select!` never finds two timers ready at once, so
//! that the order in which it looks does not matter. The runtime calls [`Time::advance`] when it
//! would park.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokenward::time::{Boxed, Clock, Moment};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while locked")
}

/// The world's time: nanoseconds since the run's start.
#[derive(Debug, Default)]
pub(super) struct Time {
    now: AtomicU64,
    timers: Mutex<Timers>,
}

#[derive(Debug, Default)]
struct Timers {
    serial: u64,
    waiting: BTreeMap<(u64, u64), Waker>,
}

impl Time {
    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// Fires the earliest timer. `false`: there is none.
    pub(super) fn advance(&self) -> bool {
        let first = lock(&self.timers).waiting.pop_first();
        let Some(((at, _), waker)) = first else {
            return false;
        };
        self.now.store(at, Ordering::Relaxed);
        waker.wake();
        true
    }

    pub(super) fn sleep(self: &Arc<Self>, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    pub(super) fn sleep_until(self: &Arc<Self>, at: Duration) -> Sleep {
        Sleep {
            at: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            key: None,
            time: self.clone(),
        }
    }
}

/// A timer. Even one of no length waits for its turn, so that others may come first.
#[derive(Debug)]
pub(super) struct Sleep {
    time: Arc<Time>,
    at: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut timers = lock(&this.time.timers);
        match this.key {
            None => {
                timers.serial += 1;
                let at = this.at.max(this.time.now.load(Ordering::Relaxed));
                let key = (at, timers.serial);
                this.key = Some(key);
                timers.waiting.insert(key, context.waker().clone());
                Poll::Pending
            }
            Some(key) => match timers.waiting.get_mut(&key) {
                Some(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.time.timers).waiting.remove(&key);
        }
    }
}

/// Whether a process lives, and whether it is stopped for a while (`SIGSTOP`).
///
/// A dead process is one whose ports never answer and whose effects never happen: its tasks hang
/// at their next await, which nobody can tell from death.
#[derive(Debug)]
pub(super) struct Life {
    time: Arc<Time>,
    dead: AtomicBool,
    stopped_until: AtomicU64,
}

impl Life {
    pub(super) fn new(time: Arc<Time>) -> Self {
        Self {
            time,
            dead: AtomicBool::new(false),
            stopped_until: AtomicU64::new(0),
        }
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn stop_for(&self, pause: Duration) {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let until = nanos(self.time.now() + pause);
        self.stopped_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Returns when the process may go on: at once, after its stop, or never.
    pub(super) async fn goes_on(&self) {
        loop {
            if self.is_dead() {
                return pending().await;
            }
            let until = Duration::from_nanos(self.stopped_until.load(Ordering::Relaxed));
            if self.time.now() >= until {
                return;
            }
            self.time.sleep_until(until).await;
        }
    }
}

/// A replica's clock: set wrong by `offset`, and running at `rate`.
#[derive(Debug)]
pub(super) struct SimClock {
    pub(super) time: Arc<Time>,
    pub(super) life: Arc<Life>,
    pub(super) offset: Duration,
    pub(super) rate: f64,
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        Moment(self.offset + self.time.now().mul_f64(self.rate))
    }

    fn sleep(&self, duration: Duration) -> Boxed<'_, ()> {
        let sleep = self.time.sleep(duration.div_f64(self.rate));
        Box::pin(async move {
            sleep.await;
            self.life.goes_on().await;
        })
    }
}
