//! Connections that wait for the next request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::client::conn::http2;

use super::{Connection, wire::Wire};
use crate::gateway::{body::OutBody, target::Origin};

/// For how many sweeps a connection may wait.
const IDLE: u64 = 4;
/// How many may wait for one origin.
const MOST: usize = 512;

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
    /// The newest last, each with the time at which it came.
    wires: Vec<(Box<Wire>, u64)>,
    shared: Option<http2::SendRequest<OutBody>>,
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

    /// A connection that is open, as far as is known.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut shelf = self.lock();
        let idle = shelf.origins.get_mut(origin.name())?;
        if let Some(shared) = &idle.shared {
            if !shared.is_closed() {
                return Some(Connection::Http2(shared.clone()));
            }
            idle.shared = None;
        }
        while let Some((mut wire, _)) = idle.wires.pop() {
            if wire.is_quiet() {
                return Some(Connection::Http1(wire));
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, origin: &Origin, wire: Box<Wire>) {
        let mut shelf = self.lock();
        let now = shelf.sweeps;
        let idle = shelf.of(origin);
        if idle.wires.len() < MOST {
            idle.wires.push((wire, now));
        }
    }

    /// Keeps a connection that many requests share.
    pub(super) fn keep_shared(&self, origin: &Origin, sender: &http2::SendRequest<OutBody>) {
        self.lock().of(origin).shared = Some(sender.clone());
    }

    /// Closes what has waited for too long.
    pub(super) fn sweep(&self) {
        let mut shelf = self.lock();
        shelf.sweeps += 1;
        let now = shelf.sweeps;
        shelf.origins.retain(|_, idle| {
            idle.wires.retain(|(_, since)| now < since + IDLE);
            if idle
                .shared
                .as_ref()
                .is_some_and(http2::SendRequest::is_closed)
            {
                idle.shared = None;
            }
            idle.shared.is_some() || !idle.wires.is_empty()
        });
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
