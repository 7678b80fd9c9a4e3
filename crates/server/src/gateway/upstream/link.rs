//! An HTTP/1.1 connection that is driven by whoever waits for its answer.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http1;
use tokio::time::{Instant, Sleep};

use super::Io;
use crate::gateway::body::OutBody;

/// A connection makes progress only while it is polled, and one that is polled by one task after
/// the other must wake the right one: its own waker stays the same, and leads to the task that
/// uses it at the time.
pub(super) struct Link {
    pub(super) sender: http1::SendRequest<OutBody>,
    /// `None` once the connection has ended.
    driver: Option<Box<http1::Connection<Io, OutBody>>>,
    relay: Arc<Relay>,
    waker: Waker,
    /// Kept from request to request: a timer is cheaper to put off than to make.
    timer: Pin<Box<Sleep>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// What the connection wakes.
#[derive(Debug, Default)]
struct Relay {
    task: AtomicWaker,
    state: AtomicU8,
}

/// Somebody is polling: there is nobody to be woken.
const POLLING: u8 = 1;
/// Something has happened meanwhile.
const NOTED: u8 = 2;

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.state.fetch_or(NOTED, Ordering::AcqRel);
        if before & POLLING == 0 {
            self.task.wake();
        }
    }
}

/// A connection that keeps itself busy for so many rounds lets others come first.
const MOST_ROUNDS: usize = 16;

impl Link {
    pub(super) fn new(
        sender: http1::SendRequest<OutBody>,
        driver: http1::Connection<Io, OutBody>,
    ) -> Self {
        let relay = Arc::new(Relay::default());
        Self {
            sender,
            driver: Some(Box::new(driver)),
            waker: relay.clone().into(),
            relay,
            // Set by each request before it is asked.
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    pub(super) fn set_timer(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline);
    }

    /// Whether the time is up.
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(context)
    }

    /// Drives the connection until `wanted` is there, which is given the link and the context to
    /// poll with.
    pub(super) fn poll_until<T>(
        &mut self,
        context: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.relay.task.register(context.waker());
        let waker = self.waker.clone();
        let own = &mut Context::from_waker(&waker);
        for _ in 0..MOST_ROUNDS {
            self.relay.state.store(POLLING, Ordering::Release);
            let mut result = wanted(self, own);
            if result.is_pending() {
                self.drive(own);
                result = wanted(self, own);
            }
            let noted = self.relay.state.swap(0, Ordering::AcqRel) & NOTED != 0;
            if result.is_ready() || !noted {
                return result;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// What is wrong with the connection, those who use it are told.
    fn drive(&mut self, own: &mut Context<'_>) {
        if let Some(running) = &mut self.driver
            && let Poll::Ready(_) = Pin::new(running).poll(own)
        {
            self.driver = None;
        }
    }

    /// Comes to rest. `false`: it cannot be used again.
    pub(super) fn rest(&mut self) -> bool {
        if !self.sender.is_ready() {
            let waker = self.waker.clone();
            self.drive(&mut Context::from_waker(&waker));
        }
        // What happens to it from now on, nobody needs to know before it is used again.
        drop(self.relay.task.take());
        self.driver.is_some() && self.sender.is_ready()
    }

    /// The driver, for a task of its own.
    pub(super) fn into_driver(self) -> Option<http1::Connection<Io, OutBody>> {
        self.driver.map(|driver| *driver)
    }
}
