//! The way to APIs: pooled connections that are driven by whoever waits for their answer.
//!
//! A client usually runs each connection in a task of its own, and a request then crosses from the
//! caller's task to that one and back. Here an HTTP/1.1 connection is polled by the request that
//! uses it: request and answer are written and read in the task that reads from the caller, and
//! nobody else is woken. HTTP/2 connections serve many requests at once, and keep their own task.

mod body;
mod pool;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, Version, header::HOST, uri::PathAndQuery};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::{
    client::legacy::connect::Connection as _,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokenward::time::Clock;
use tokio::net::TcpStream;
use tower::{BoxError, ServiceExt as _};

pub(super) use self::body::UpstreamBody;
use self::{
    body::Lease,
    pool::{Origin, Pool},
};
use super::body::OutBody;
use crate::egress::Connector;

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;
type Driver = http1::Connection<Io, OutBody>;

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
}

/// A client with a pool of its own: each worker has one, so that cores share nothing.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    connector: Connector,
    pool: Pool,
}

/// An HTTP/1.1 connection with its driver, which makes progress only while it is polled.
#[derive(Debug)]
struct Link {
    sender: http1::SendRequest<OutBody>,
    /// `None` once the connection has ended. Boxed: it is large, and moves with each request.
    driver: Option<Box<Driver>>,
}

#[derive(Debug)]
enum Connection {
    Http1(Link),
    Http2(http2::SendRequest<OutBody>),
}

impl Upstream {
    pub(super) fn new(connector: Connector, clock: Arc<dyn Clock>) -> Self {
        Self {
            connector,
            pool: Pool::new(clock),
        }
    }

    /// The same way, with a pool of its own.
    pub(super) fn another(&self) -> Self {
        Self {
            connector: self.connector.clone(),
            pool: self.pool.another(),
        }
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
    }

    /// Sends a request to an absolute URI.
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
        mut request: Request<OutBody>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let uri = request.uri().clone();
        let origin = Origin::of(&uri)
            .ok_or_else(|| UpstreamError::Connect("the URL has no host".into()))?;
        loop {
            let (connection, kept) = match self.pool.take(&origin) {
                Some(connection) => (connection, true),
                None => (self.connect(&origin, &uri).await?, false),
            };
            let result = match connection {
                Connection::Http1(link) => self.exchange(&origin, link, request).await,
                Connection::Http2(sender) => exchange_shared(sender, request).await,
            };
            match result {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    // Closed by the other side while nobody used it.
                    Some(unsent) if kept => {
                        request = unsent;
                        *request.uri_mut() = uri.clone();
                    }
                    Some(_) => return Err(UpstreamError::Connect(failed.into_error().into())),
                    None => return Err(UpstreamError::Exchange(failed.into_error())),
                },
            }
        }
    }

    async fn connect(&self, origin: &Origin, uri: &Uri) -> Result<Connection, UpstreamError> {
        let connecting = self.connector.clone().oneshot(uri.clone());
        let io = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| UpstreamError::Connect("no connection was made in time".into()))?
            .map_err(UpstreamError::Connect)?;
        let failed = |error: hyper::Error| UpstreamError::Connect(error.into());
        if !io.connected().is_negotiated_h2() {
            let (sender, driver) = http1::handshake(io).await.map_err(failed)?;
            let driver = Some(Box::new(driver));
            return Ok(Connection::Http1(Link { sender, driver }));
        }
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            .adaptive_window(true)
            .handshake(io)
            .await
            .map_err(failed)?;
        run_apart(driver);
        self.pool.keep_shared(origin, &sender);
        Ok(Connection::Http2(sender))
    }

    async fn exchange(
        &self,
        origin: &Origin,
        mut link: Link,
        mut request: Request<OutBody>,
    ) -> Result<Response<UpstreamBody>, TrySendError<Request<OutBody>>> {
        to_origin_form(&mut request, origin);
        let upload = request.body().progress();
        let driver = &mut link.driver;
        // Unconstrained, because only a real waker is woken when a task's budget is used up.
        let answer = tokio::task::coop::unconstrained(link.sender.try_send_request(request));
        let mut answer = pin!(answer);
        let response = poll_fn(|context| {
            drive(driver, context);
            // Only the driver brings an answer, and it has just been polled.
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await?;
        if upload.is_some_and(|upload| !upload.has_ended()) {
            // The API answers before it has heard all: both directions must go on by themselves.
            if let Some(driver) = link.driver {
                run_apart(*driver);
            }
            return Ok(response.map(UpstreamBody::shared));
        }
        let lease = Lease::new(link, self.pool.clone(), origin.clone());
        Ok(response.map(|incoming| UpstreamBody::leased(incoming, lease)))
    }
}

async fn exchange_shared(
    mut sender: http2::SendRequest<OutBody>,
    mut request: Request<OutBody>,
) -> Result<Response<UpstreamBody>, TrySendError<Request<OutBody>>> {
    *request.version_mut() = Version::HTTP_2;
    let response = sender.try_send_request(request).await?;
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

/// Polls a driver that has not ended. What is wrong with its connection, the exchange is told.
fn drive(driver: &mut Option<Box<Driver>>, context: &mut Context<'_>) {
    if let Some(running) = driver
        && let Poll::Ready(_) = Pin::new(running).poll(context)
    {
        *driver = None;
    }
}

/// HTTP/1.1 has the host in a header, and only the path in the request line (RFC 9112 section 3.2).
fn to_origin_form(request: &mut Request<OutBody>, origin: &Origin) {
    let host = origin.host().clone();
    request.headers_mut().entry(HOST).or_insert(host);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
}

/// The `Host` header's value: the authority without a user, and without the scheme's own port
/// (RFC 9110 section 7.2).
fn host_header(uri: &Uri) -> Option<HeaderValue> {
    let host = uri.host()?;
    let own = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    match uri.port_u16().filter(|port| *port != own) {
        None => HeaderValue::from_str(host).ok(),
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
    }
}
