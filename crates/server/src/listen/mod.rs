//! Bytes in: the accept loop and its workers, TLS, and the timers that keep a slow or silent client from
//! holding a connection for ever. What is said on a connection is not known here.

mod bind;
pub(crate) mod timers;
pub mod tls;
mod workers;

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use self::timers::ConnectionTimer;
pub(crate) use self::{
    bind::{address, bind},
    workers::Workers,
};

/// What serves connections.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves one connection until its end, its timer's, or the server's.
    fn serve<S>(
        self: Arc<Self>,
        stream: S,
        connection: Connection,
    ) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// A connection beside its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// To be told what goes on, so that it knows how long that may take.
    pub(crate) timer: Arc<ConnectionTimer>,
    /// How long its client may take none of an answer.
    pub(crate) write_timeout: Duration,
    /// Cancelled when no further request is to be read.
    pub(crate) closing: CancellationToken,
}
