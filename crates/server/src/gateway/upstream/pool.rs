//! Connections that wait for the next request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::client::conn::{http1, http2};

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
        if idle.wires.len() < MOST && all < MOST_IN_ALL {
            idle.wires.push((own, now));
        }
    }

    /// Keeps a connection that many requests share.
    pub(super) fn keep_shared(&self, origin: &Origin, sender: &http2::SendRequest<OutBody>) {
        let mut shelf = self.lock();
        let now = shelf.sweeps;
        shelf.of(origin).shared = Some((sender.clone(), now));
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
