//! The way to APIs: pooled connections that are driven by whoever waits for their answer.
//!
//! A client usually runs each connection in a task of its own, and a request then crosses from the
//! caller's task to that one and back. Here HTTP/1.1 is spoken by the request that uses the
//! connection: request and answer are written and read in the task that reads from the caller, and
//! nobody else is woken. HTTP/2 connections serve many requests at once, and keep their own task.

mod body;
mod decode;
mod express;
mod pool;
mod upload;
mod wire;

use std::{future::poll_fn, task::Poll, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header::HOST};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tower::BoxError;

pub(super) use self::body::UpstreamBody;
pub(super) use self::express::{Answered, Written};
use self::{
    body::Lease,
    pool::Pool,
    upload::{Broken, Upload},
    wire::Wire,
};
pub(crate) use self::{
    decode::decimal,
    express::Relay,
    upload::{expects_body, put_header},
};
use super::{body::OutBody, target::Target};
use crate::egress::{ConnectError, Connector, Destination, Protocols, Stream};

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
    Exchange(#[source] BoxError),
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
    Http1(Box<Wire>),
    Http2(http2::SendRequest<OutBody>),
}

/// Why an exchange failed.
enum Failure {
    TimedOut,
    /// Not one byte was written; the request is given back.
    Unsent(Box<Request<OutBody>>, BoxError),
    Failed(BoxError),
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
                Connection::Http1(wire) => self.exchange(target, wire, request, deadline).await,
                Connection::Http2(sender) => {
                    Box::pin(exchange_shared(target, sender, request, deadline)).await
                }
            };
            match result {
                Ok(response) => return Ok(response),
                Err(Failure::TimedOut) => return Err(UpstreamError::TimedOut),
                Err(Failure::Failed(error)) => return Err(UpstreamError::Exchange(error)),
                // Closed by the other side while nobody used it.
                Err(Failure::Unsent(unsent, _)) if kept => request = *unsent,
                Err(Failure::Unsent(_, error)) => return Err(UpstreamError::Connect(error)),
            }
        }
    }

    async fn connect(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<Connection, UpstreamError> {
        let unmade = |why: ConnectError| UpstreamError::Connect(why.into());
        let to = Destination::of_uri(&target.uri()).ok_or_else(|| unmade(ConnectError::NoHost))?;
        let protocols = Protocols::Http2OrHttp1;
        let connecting = self.connector.connect(&to, protocols, CONNECT_TIMEOUT);
        let io = tokio::time::timeout_at(deadline, connecting)
            .await
            .map_err(|_| UpstreamError::TimedOut)?
            .map_err(unmade)?;
        let failed = |error: hyper::Error| UpstreamError::Connect(error.into());
        if !io.is_http2() {
            return Ok(Connection::Http1(Box::new(Wire::new(io))));
        }
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            .adaptive_window(true)
            .handshake(TokioIo::new(io))
            .await
            .map_err(failed)?;
        run_apart(driver);
        self.pool.keep_shared(&target.origin, &sender);
        Ok(Connection::Http2(sender))
    }

    async fn exchange(
        &self,
        target: &Target,
        mut wire: Box<Wire>,
        request: Request<OutBody>,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let (parts, body) = request.into_parts();
        let to_head = parts.method == Method::HEAD;
        let mut upload = Upload::new(target, &parts, body);
        let mut sending = Sending::Going;
        wire.set_timer(deadline);
        let answer = poll_fn(|context| {
            if let Sending::Going = sending {
                match upload.poll(&mut wire, context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => sending = Sending::Done,
                    // An API that closes early may have said why before.
                    Poll::Ready(Err(Broken::Wire(error))) if upload.has_begun() => {
                        sending = Sending::Broken(Some(error.into()));
                    }
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(Some(broken.into()))),
                }
            }
            let head = wire.poll_head(context, to_head, |head, nature| (response(head), nature));
            match head {
                Poll::Ready(Ok((Ok(response), nature))) => Poll::Ready(Ok((response, nature))),
                Poll::Ready(Ok((Err(error), _)) | Err(error)) => {
                    Poll::Ready(Err(Some(sending.why().unwrap_or(error))))
                }
                Poll::Pending => wire.poll_timer(context).map(|()| Err(None)),
            }
        });
        match answer.await {
            Ok((response, mut nature)) => {
                nature.keep &= !matches!(sending, Sending::Broken(_));
                let rest = matches!(sending, Sending::Going).then_some(upload);
                let (pool, origin) = (self.pool.clone(), target.origin.clone());
                let lease = Lease::new(wire, nature, rest, pool, origin);
                Ok(response.map(|()| UpstreamBody::Leased(lease)))
            }
            Err(None) => Err(Failure::TimedOut),
            Err(Some(error)) if upload.has_begun() => Err(Failure::Failed(error)),
            Err(Some(error)) => {
                let request = Request::from_parts(parts, upload.into_body());
                Err(Failure::Unsent(Box::new(request), error))
            }
        }
    }
}

/// How far a request has come.
enum Sending {
    Going,
    Done,
    Broken(Option<BoxError>),
}

impl Sending {
    fn why(&mut self) -> Option<BoxError> {
        match self {
            Self::Broken(error) => error.take(),
            Self::Going | Self::Done => None,
        }
    }
}

/// An answer's head.
fn response(head: &httparse::Response<'_, '_>) -> Result<Response<()>, BoxError> {
    let mut response = Response::new(());
    *response.status_mut() = head.code.unwrap_or_default().try_into()?;
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 3);
    for header in &*head.headers {
        headers.append(
            HeaderName::from_bytes(header.name.as_bytes())?,
            HeaderValue::from_bytes(header.value)?,
        );
    }
    *response.headers_mut() = headers;
    Ok(response)
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
    let result = tokio::time::timeout_at(deadline, sender.try_send_request(request))
        .await
        .map_err(|_| Failure::TimedOut)?;
    match result {
        Ok(response) => Ok(response.map(UpstreamBody::Shared)),
        Err(mut failed) => Err(match failed.take_message() {
            Some(unsent) => Failure::Unsent(Box::new(unsent), failed.into_error().into()),
            None => Failure::Failed(failed.into_error().into()),
        }),
    }
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
