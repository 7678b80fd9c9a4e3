//! The way to APIs: pooled connections that are driven by whoever waits for their answer.
//!
//! A client usually runs each connection in a task of its own, and a request then crosses from the
//! caller's task to that one and back. Here an HTTP/1.1 connection is polled by the request that
//! uses it: request and answer are written and read in the task that reads from the caller, and
//! nobody else is woken. HTTP/2 connections serve many requests at once, and keep their own task.

mod body;
mod link;
mod pool;

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use http::{Request, Response, Uri, Version, header::HOST};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::{
    client::legacy::connect::Connection as _,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, time::Instant};
use tower::{BoxError, ServiceExt as _};

pub(super) use self::body::UpstreamBody;
use self::{body::Lease, link::Link, pool::Pool};
use super::{body::OutBody, target::Target};
use crate::egress::Connector;

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// For DNS, connect and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// Not one byte of it was sent.
    #[error("{0}")]
    Connect(#[source] BoxError),
    /// Some of it may have been.
    #[error("{0}")]
    Exchange(#[source] hyper::Error),
    /// The caller's time was up first.
    #[error("no answer in time")]
    TimedOut,
}

/// A client with a pool of its own: each worker has one, so that cores share nothing.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    connector: Connector,
    pool: Pool,
}

#[derive(Debug)]
enum Connection {
    Http1(Box<Link>),
    Http2(http2::SendRequest<OutBody>),
}

/// How an exchange failed; the request, if nothing of it was written.
enum Failure {
    TimedOut,
    Failed(Box<TrySendError<Request<OutBody>>>),
}

impl Upstream {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            connector,
            pool: Pool::default(),
        }
    }

    /// The same way, with a pool of its own.
    pub(super) fn another(&self) -> Self {
        Self::new(self.connector.clone())
    }

    /// Closes what has been idle for some [`sweep`](Self::sweep)s.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
    }

    /// Sends a request to its target (its own URI is made from that), and waits for the head of
    /// the answer, at most until `deadline`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]. A kept connection that turns out to be closed before anything was
    /// written is replaced by another one.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes an HTTP/1.1 connection, and resets an HTTP/2 stream.
    pub(super) async fn request(
        &self,
        target: &Target,
        mut request: Request<OutBody>,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        loop {
            let (connection, kept) = match self.pool.take(&target.origin) {
                Some(connection) => (connection, true),
                // Boxed, so that requests on a kept connection carry no room for it.
                None => (Box::pin(self.connect(target, deadline)).await?, false),
            };
            let result = match connection {
                Connection::Http1(link) => self.exchange(target, link, request, deadline).await,
                Connection::Http2(sender) => {
                    Box::pin(exchange_shared(target, sender, request, deadline)).await
                }
            };
            let mut failed = match result {
                Ok(response) => return Ok(response),
                Err(Failure::TimedOut) => return Err(UpstreamError::TimedOut),
                Err(Failure::Failed(failed)) => failed,
            };
            match failed.take_message() {
                // Closed by the other side while nobody used it.
                Some(unsent) if kept => request = unsent,
                Some(_) => return Err(UpstreamError::Connect(failed.into_error().into())),
                None => return Err(UpstreamError::Exchange(failed.into_error())),
            }
        }
    }

    async fn connect(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<Connection, UpstreamError> {
        let connecting = self.connector.clone().oneshot(target.uri());
        let limited = tokio::time::timeout(CONNECT_TIMEOUT, connecting);
        let io = tokio::time::timeout_at(deadline, limited)
            .await
            .map_err(|_| UpstreamError::TimedOut)?
            .map_err(|_| UpstreamError::Connect("no connection was made in time".into()))?
            .map_err(UpstreamError::Connect)?;
        let failed = |error: hyper::Error| UpstreamError::Connect(error.into());
        if !io.connected().is_negotiated_h2() {
            let (sender, driver) = http1::handshake(io).await.map_err(failed)?;
            return Ok(Connection::Http1(Box::new(Link::new(sender, driver))));
        }
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            .adaptive_window(true)
            .handshake(io)
            .await
            .map_err(failed)?;
        run_apart(driver);
        self.pool.keep_shared(&target.origin, &sender);
        Ok(Connection::Http2(sender))
    }

    async fn exchange(
        &self,
        target: &Target,
        mut link: Box<Link>,
        mut request: Request<OutBody>,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, Failure> {
        // The host is in a header, and only the path in the request line (RFC 9112 section 3.2).
        let host = target.origin.host.clone();
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = Uri::from(target.path.clone());
        *request.version_mut() = Version::HTTP_11;
        let upload = request.body().progress();
        link.set_timer(deadline);
        let mut answer = pin!(link.sender.try_send_request(request));
        let response = poll_fn(|context| {
            link.poll_until(context, |link, context| {
                if let Poll::Ready(result) = answer.as_mut().poll(context) {
                    return Poll::Ready(result.map_err(|e| Failure::Failed(Box::new(e))));
                }
                link.poll_timer(context).map(|()| Err(Failure::TimedOut))
            })
        })
        .await?;
        if upload.is_some_and(|upload| !upload.has_ended()) {
            // The API answers before it has heard all: both directions must go on by themselves.
            if let Some(driver) = link.into_driver() {
                run_apart(driver);
            }
            return Ok(response.map(UpstreamBody::shared));
        }
        let lease = Lease::new(link, self.pool.clone(), target.origin.clone());
        Ok(response.map(|incoming| UpstreamBody::leased(incoming, lease)))
    }
}

async fn exchange_shared(
    target: &Target,
    mut sender: http2::SendRequest<OutBody>,
    mut request: Request<OutBody>,
    deadline: Instant,
) -> Result<Response<UpstreamBody>, Failure> {
    request.headers_mut().remove(HOST);
    *request.uri_mut() = target.uri();
    *request.version_mut() = Version::HTTP_2;
    let response = tokio::time::timeout_at(deadline, sender.try_send_request(request))
        .await
        .map_err(|_| Failure::TimedOut)?
        .map_err(|error| Failure::Failed(Box::new(error)))?;
    Ok(response.map(UpstreamBody::shared))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection's driver ends by itself when nobody uses the connection any more"
)]
fn run_apart<D>(driver: D)
where
    D: Future<Output = hyper::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        // Who uses the connection is told what went wrong.
        let _ = driver.await;
    });
}
