//! Connections that wait for the next request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::client::conn::{http1, http2};
use tokio::sync::{Notify, futures::Notified};

use super::{Connection, Wire};
use crate::gateway::{body::OutBody, target::Origin};

/// For how many sweeps a connection may wait.
const IDLE: u64 = 4;
/// How many may wait for one origin.
const MOST: usize = 512;
/// How many may wait in all.
const MOST_IN_ALL: usize = 4096;

/// Idle connections by origin. The lock is among the tasks of one worker, and so never waited for.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    origins: HashMap<Box<str>, Idle>,
    /// How often was swept: the pool's time.
    sweeps: u64,
}

#[derive(Default)]
struct Idle {
    /// How many requests that wait for their token will want a connection.
    expected: usize,
    /// How many connections are being made for them.
    making: usize,
    /// The last connection that was kept was one that serves a request at a time.
    http1: bool,
    /// Told when a [`Prospect::Unknown`] may have become another.
    news: Arc<Notify>,
    /// The newest last, each with the time at which it came.
    wires: Vec<(Own, u64)>,
    /// With the time at which it was last used.
    shared: Option<(http2::SendRequest<OutBody>, u64)>,
}

/// A connection that one request has to itself.
pub(super) enum Own {
    Wire(Box<Wire>),
    Library(http1::SendRequest<OutBody>),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts on one more request that will want a connection to an origin.
    pub(super) fn expect_one(&self, origin: &Arc<Origin>) -> Expected {
        let mut shelf = self.lock();
        let idle = shelf.of(origin);
        idle.expected += 1;
        Expected {
            pool: self.clone(),
            origin: origin.clone(),
            news: idle.news.clone(),
        }
    }

    /// A connection that is open, as far as is known.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut shelf = self.lock();
        let now = shelf.sweeps;
        let idle = shelf.origins.get_mut(origin.name())?;
        if let Some((shared, used)) = &mut idle.shared {
            if !shared.is_closed() {
                *used = now;
                return Some(Connection::Http2(shared.clone()));
            }
            idle.shared = None;
        }
        while let Some((own, _)) = idle.wires.pop() {
            match own {
                Own::Wire(mut wire) => {
                    if wire.is_quiet() {
                        return Some(Connection::Http1(wire));
                    }
                }
                Own::Library(sender) => {
                    if sender.is_ready() {
                        return Some(Connection::Library(sender));
                    }
                }
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, origin: &Origin, own: Own) {
        let mut shelf = self.lock();
        let now = shelf.sweeps;
        let all: usize = match shelf.origins.len() {
            // Counted only where it can matter.
            few if few * MOST <= MOST_IN_ALL => 0,
            _ => shelf.origins.values().map(|idle| idle.wires.len()).sum(),
        };
        let idle = shelf.of(origin);
        idle.http1 = true;
        if idle.wires.len() < MOST && all < MOST_IN_ALL {
            idle.wires.push((own, now));
        }
    }

    /// Keeps a connection that many requests share.
    pub(super) fn keep_shared(&self, origin: &Origin, sender: &http2::SendRequest<OutBody>) {
        let mut shelf = self.lock();
        let now = shelf.sweeps;
        let idle = shelf.of(origin);
        idle.shared = Some((sender.clone(), now));
        idle.http1 = false;
    }

    /// Closes what has waited for too long.
    pub(super) fn sweep(&self) {
        let mut shelf = self.lock();
        shelf.sweeps += 1;
        let now = shelf.sweeps;
        shelf.origins.retain(|_, idle| {
            idle.wires.retain(|(_, since)| now < since + IDLE);
            // Requests that are under way on it end all the same.
            idle.shared
                .take_if(|(shared, used)| shared.is_closed() || now >= *used + IDLE);
            idle.shared.is_some() || !idle.wires.is_empty() || idle.expected + idle.making > 0
        });
    }
}

/// A request that waits for its token, and will want a connection. Until this is dropped.
pub(super) struct Expected {
    pool: Pool,
    origin: Arc<Origin>,
    news: Arc<Notify>,
}

/// What requests that wait have to look forward to.
pub(super) enum Prospect {
    /// There is a connection for each, or there soon will be.
    Good,
    /// There is one too few: it is to be made while this is held.
    Poor(Making),
    /// The first connection to an origin is being made. If it can be shared, it is enough for all.
    Unknown,
}

impl Expected {
    /// The next time that a [`Prospect::Unknown`] may have become another.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    pub(super) fn prospect(&self) -> Prospect {
        let mut shelf = self.pool.lock();
        let idle = shelf.of(&self.origin);
        let shared = idle.shared.as_ref();
        if shared.is_some_and(|(shared, _)| !shared.is_closed()) {
            return Prospect::Good;
        }
        let soon = idle.wires.len() + idle.making;
        if soon >= idle.expected.min(MOST) {
            return Prospect::Good;
        }
        if !idle.http1 && idle.making > 0 {
            return Prospect::Unknown;
        }
        idle.making += 1;
        Prospect::Poor(Making {
            pool: self.pool.clone(),
            origin: self.origin.clone(),
        })
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.pool.lock().of(&self.origin).expected -= 1;
    }
}

/// A connection that is being made. Until this is dropped.
pub(super) struct Making {
    pool: Pool,
    origin: Arc<Origin>,
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut shelf = self.pool.lock();
        let idle = shelf.of(&self.origin);
        idle.making -= 1;
        if idle.http1 || idle.shared.is_some() {
            idle.news.notify_waiters();
        } else {
            // It has failed: one of those who wait is to find out more, and not all of them.
            idle.news.notify_one();
        }
    }
}

impl Shelf {
    fn of(&mut self, origin: &Origin) -> &mut Idle {
        if !self.origins.contains_key(origin.name()) {
            self.origins.insert(origin.name().into(), Idle::default());
        }
        self.origins
            .get_mut(origin.name())
            .expect("it was there, or has just been made")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::gateway::target::Target;

    fn origin() -> Arc<Origin> {
        Target::for_tests("https://api.acme.example/").origin
    }

    async fn http1() -> Own {
        let (near, far) = tokio::io::duplex(64);
        let (sender, driver) = http1::handshake(TokioIo::new(near)).await.unwrap();
        TaskTracker::new().spawn(async move {
            let _far = far;
            driver.await
        });
        Own::Library(sender)
    }

    async fn http2() -> http2::SendRequest<OutBody> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .unwrap();
        TaskTracker::new().spawn(async move {
            let _far = far;
            driver.await
        });
        sender
    }

    fn poor(expected: &Expected) -> Making {
        match expected.prospect() {
            Prospect::Poor(making) => making,
            Prospect::Good => panic!("there is one already"),
            Prospect::Unknown => panic!("it waits"),
        }
    }

    #[tokio::test]
    async fn there_is_to_be_one_connection_for_each_who_waits() {
        let (pool, origin) = (Pool::default(), origin());
        let waiting = [(); 4].map(|()| pool.expect_one(&origin));
        // Nobody knows yet whether one will do for all.
        let first = poor(&waiting[0]);
        assert!(matches!(waiting[1].prospect(), Prospect::Unknown));
        let mut news = waiting.each_ref().map(|one| Box::pin(one.news()));
        for one in &mut news {
            one.as_mut().enable();
        }
        let told = |news: &mut [Pin<Box<Notified<'_>>>; 4]| {
            let told = news
                .iter_mut()
                .filter_map(|one| one.as_mut().enable().then_some(()));
            told.count()
        };
        // The first has failed, or has left: another finds it out.
        drop(first);
        assert_eq!(told(&mut news), 1);
        let second = poor(&waiting[1]);
        pool.keep(&origin, http1().await);
        drop(second);
        assert_eq!(told(&mut news), 4);
        drop(news);
        let others = [poor(&waiting[2]), poor(&waiting[3]), poor(&waiting[0])];
        assert!(matches!(waiting[0].prospect(), Prospect::Good));
        drop(others);
        // Who has left needs none.
        let [one, left @ ..] = waiting;
        drop(left);
        assert!(matches!(one.prospect(), Prospect::Good));
    }

    #[tokio::test]
    async fn a_connection_that_can_be_shared_is_enough_for_all_who_wait() {
        let (pool, origin) = (Pool::default(), origin());
        let waiting = [(); 3].map(|()| pool.expect_one(&origin));
        let making = poor(&waiting[0]);
        assert!(matches!(waiting[1].prospect(), Prospect::Unknown));
        let sender = http2().await;
        pool.keep_shared(&origin, &sender);
        drop(making);
        for one in &waiting {
            assert!(matches!(one.prospect(), Prospect::Good));
        }
        drop(waiting);
        // It is swept as if nobody had waited.
        drop(sender);
        for _ in 0..=IDLE {
            pool.sweep();
        }
        assert!(pool.lock().origins.is_empty());
    }
}
