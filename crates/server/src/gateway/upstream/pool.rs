//! Connections that wait for the next request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Uri, uri::Authority};
use hyper::client::conn::http2;
use tokenward::time::{Clock, Moment};

use super::{Connection, Link, OutBody, host_header};

/// How long a connection may wait.
const IDLE: Duration = Duration::from_secs(60);
/// How many may wait for one origin.
const MOST: usize = 512;

/// Where a connection leads.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    key: Key,
    host: HeaderValue,
}

/// Whether it is encrypted, and the authority.
type Key = (bool, Authority);

impl Origin {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        Some(Self {
            key: (
                uri.scheme_str() == Some("https"),
                uri.authority()?.clone(),
            ),
            host: host_header(uri)?,
        })
    }

    /// The value of the `Host` header.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }
}

/// Idle connections by origin. The lock is among the tasks of one worker, and so never waited for.
#[derive(Clone)]
pub(super) struct Pool {
    idle: Arc<Mutex<HashMap<Key, Idle>>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Idle {
    /// The newest last, each with the time at which it came.
    links: Vec<(Link, Moment)>,
    shared: Option<http2::SendRequest<OutBody>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            idle: Arc::default(),
            clock,
        }
    }

    /// An empty one.
    pub(super) fn another(&self) -> Self {
        Self::new(self.clock.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was open when it was last looked at.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut all = self.lock();
        let idle = all.get_mut(&origin.key)?;
        if let Some(shared) = &idle.shared {
            if !shared.is_closed() {
                return Some(Connection::Http2(shared.clone()));
            }
            idle.shared = None;
        }
        let (link, since) = idle.links.pop()?;
        if self.clock.now() < since + IDLE {
            return Some(Connection::Http1(link));
        }
        // Those below it have waited for longer.
        idle.links.clear();
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, origin: &Origin, link: Link) {
        let now = self.clock.now();
        let mut all = self.lock();
        if let Some(idle) = all.get_mut(&origin.key) {
            if idle.links.len() < MOST {
                idle.links.push((link, now));
            }
            return;
        }
        let idle = all.entry(origin.key.clone()).or_default();
        idle.links.push((link, now));
    }

    /// Keeps a connection that many requests share.
    pub(super) fn keep_shared(&self, origin: &Origin, sender: &http2::SendRequest<OutBody>) {
        let mut all = self.lock();
        all.entry(origin.key.clone()).or_default().shared = Some(sender.clone());
    }

    /// Closes what has waited for too long.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        self.lock().retain(|_, idle| {
            idle.links.retain(|(_, since)| now < *since + IDLE);
            if idle.shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
                idle.shared = None;
            }
            idle.shared.is_some() || !idle.links.is_empty()
        });
    }
}
