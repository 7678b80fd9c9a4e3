//! Connections that are made while requests wait for their token.
//!
//! A refresh takes as long as a few handshakes. Without this, all who waited for it would connect at the
//! moment at which it ends. Nothing of a request is sent before it is decided: what is made ahead is a
//! connection to an origin to which the token may go, and it waits in the pool for whoever is first.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Connection, Upstream, UpstreamError,
    pool::{Own, Prospect},
};
use crate::gateway::target::{Origin, Target};

/// For so long a request only waits: a refresh that others have made is there by then, and one that is
/// needed goes out before a herd of connections does.
const HEAD_START: Duration = Duration::from_millis(20);

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, UpstreamError>> + Send>>;

/// A connection that was still being made when the token came.
pub(in crate::gateway) struct Preconnect {
    origin: Arc<Origin>,
    connecting: Connecting,
}

impl fmt::Debug for Preconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preconnect").finish_non_exhaustive()
    }
}

impl Preconnect {
    /// The way to an origin, if this leads there.
    pub(super) fn to(self, origin: &Origin) -> Option<Connecting> {
        (self.origin.name() == origin.name()).then_some(self.connecting)
    }
}

impl Upstream {
    /// Waits, and meanwhile sees to it that the pool has a connection for each request that does the same.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends what it began.
    pub(in crate::gateway) async fn preconnect_while<T>(
        &self,
        target: &Target,
        deadline: Instant,
        waiting: impl Future<Output = T>,
    ) -> (T, Option<Preconnect>) {
        let mut waiting = pin!(waiting);
        tokio::select! {
            biased;
            value = &mut waiting => return (value, None),
            () = tokio::time::sleep(HEAD_START) => {}
        }
        let place = self.pool.expect_one(&target.origin);
        let making = loop {
            let mut news = pin!(place.news());
            news.as_mut().enable();
            match place.prospect() {
                Prospect::Good => return (waiting.await, None),
                Prospect::Poor(making) => break making,
                Prospect::Unknown => tokio::select! {
                    biased;
                    value = &mut waiting => return (value, None),
                    () = news => {}
                },
            }
        };
        let mut connecting = self.clone().connect_ahead(target.clone(), deadline);
        tokio::select! {
            biased;
            value = &mut waiting => {
                let origin = target.origin.clone();
                return (value, Some(Preconnect { origin, connecting }));
            }
            made = &mut connecting => match made {
                Ok(Connection::Http1(wire)) => self.pool.keep(&target.origin, Own::Wire(wire)),
                Ok(Connection::Library(sender)) => {
                    self.pool.keep(&target.origin, Own::Library(sender));
                }
                // It is in the pool already.
                Ok(Connection::Http2(_)) => {}
                // Whoever needs one finds out for itself.
                Err(error) => {
                    tracing::debug!(host = target.host(), %error, "no connection ahead of its use");
                }
            },
        }
        // It is in the pool before it does not count as being made any more.
        drop(making);
        (waiting.await, None)
    }

    fn connect_ahead(self, target: Target, deadline: Instant) -> Connecting {
        Box::pin(async move { self.connect(&target, deadline).await })
    }
}
