//! The way to APIs: pooled connections that are driven by whoever waits for their answer.
//!
//! A client usually runs each connection in a task of its own, and a request then crosses from the
//! caller's task to that one and back. Here HTTP/1.1 is spoken by the request that uses the
//! connection: request and answer are written and read in the task that reads from the caller, and
//! nobody else is woken. HTTP/2 connections serve many requests at once, and keep their own task.

mod body;
mod library;
mod pool;
mod preconnect;
mod written;

use std::{future::poll_fn, task::Poll, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokenward_http1::{
    outgoing::{Outgoing, OutgoingError},
    response::ResponseHead,
};
use tokio::time::Instant;
use tower::BoxError;

use self::pool::Pool;
pub(super) use self::{
    body::{Lease, UpstreamBody},
    preconnect::Preconnect,
    written::{Answered, Written},
};
use super::{
    body::{BodyError, OutBody},
    rules,
    target::Target,
};
use crate::egress::{ConnectError, Connector, Destination, Protocols, Stream};

type Wire = tokenward_http1::wire::Wire<Stream>;

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
    /// The caller did not send all of its body.
    #[error("{0}")]
    Caller(#[source] BoxError),
    /// The caller's time was up first.
    #[error("no answer in time")]
    TimedOut,
}

impl UpstreamError {
    /// What went wrong after something was sent.
    fn after(error: BoxError) -> Self {
        let mut cause: Option<&dyn std::error::Error> = Some(&*error);
        while let Some(present) = cause {
            if let Some(BodyError::Caller(_)) = present.downcast_ref() {
                return Self::Caller(error);
            }
            cause = present.source();
        }
        Self::Exchange(error)
    }
}

/// A client with a pool of its own: each worker has one, so that cores share nothing.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    connector: Connector,
    pool: Pool,
    /// HTTP/1.1 is left to an HTTP library.
    library: bool,
}

#[derive(Debug)]
enum Connection {
    Http1(Box<Wire>),
    Library(http1::SendRequest<OutBody>),
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
    pub(super) fn new(connector: Connector, library: bool) -> Self {
        Self {
            connector,
            pool: Pool::default(),
            library,
        }
    }

    /// The same way, with a pool of its own.
    pub(super) fn another(&self) -> Self {
        Self::new(self.connector.clone(), self.library)
    }

    /// Closes what has been idle for some [`sweep`](Self::sweep)s.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
    }

    /// Sends a request to its target (its own URI is made from that), and waits for the head of
    /// the answer, at most until `deadline`; an upload that moves puts that off by `patience`. `preconnect`: where
    /// the pool has no connection, one that is being made.
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
        patience: Option<Duration>,
        preconnect: Option<Preconnect>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let mut ahead = preconnect.and_then(|begun| begun.to(&target.origin));
        loop {
            let (connection, kept) = match (self.pool.take(&target.origin), ahead.take()) {
                (Some(connection), _) => (connection, true),
                (None, Some(connecting)) => (connecting.await?, false),
                // Boxed, so that requests on a kept connection carry no room for it.
                (None, None) => (Box::pin(self.connect(target, deadline)).await?, false),
            };
            let until = Until { deadline, patience };
            let result = match connection {
                Connection::Http1(wire) => self.exchange(target, wire, request, until).await,
                Connection::Library(sender) => {
                    Box::pin(self.exchange_by_library(target, sender, request, until)).await
                }
                Connection::Http2(sender) => {
                    Box::pin(library::exchange_shared(target, sender, request, until)).await
                }
            };
            match result {
                Ok(response) => return Ok(response),
                Err(Failure::TimedOut) => return Err(UpstreamError::TimedOut),
                Err(Failure::Failed(error)) => return Err(UpstreamError::after(error)),
                // Closed by the other side while nobody used it.
                Err(Failure::Unsent(unsent, _)) if kept => request = *unsent,
                Err(Failure::Unsent(_, error)) => {
                    return Err(match UpstreamError::after(error) {
                        UpstreamError::Exchange(error) => UpstreamError::Connect(error),
                        other => other,
                    });
                }
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
            if self.library {
                return library::connection(io).await.map_err(failed);
            }
            return Ok(Connection::Http1(Box::new(Wire::new(io))));
        }
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(60))
            .adaptive_window(true)
            .handshake(TokioIo::new(io))
            .await
            .map_err(failed)?;
        library::run_apart(driver);
        self.pool.keep_shared(&target.origin, &sender);
        Ok(Connection::Http2(sender))
    }

    async fn exchange(
        &self,
        target: &Target,
        mut wire: Box<Wire>,
        request: Request<OutBody>,
        until: Until,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let (parts, body) = request.into_parts();
        let to_head = parts.method == Method::HEAD;
        let (path, host) = (target.path.as_str(), target.origin.host.as_bytes());
        let mut upload = Outgoing::new(&parts.method, path, host, &parts.headers, body);
        let mut sending = Sending::Going;
        wire.begin(until.deadline);
        let answer = poll_fn(|context| {
            if let Sending::Going = sending {
                let before = upload.written();
                let polled = upload.poll(&mut wire, context);
                if upload.written() > before
                    && let Some(later) = until.later()
                {
                    wire.put_off(later);
                }
                match polled {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => sending = Sending::Done,
                    // An API that closes early may have said why before.
                    Poll::Ready(Err(OutgoingError::Wire(error))) if upload.written() > 0 => {
                        sending = Sending::Broken(Some(error.into()));
                    }
                    Poll::Ready(Err(OutgoingError::Wire(error))) => {
                        return Poll::Ready(Err(Some(error.into())));
                    }
                    Poll::Ready(Err(OutgoingError::Body(error))) => {
                        return Poll::Ready(Err(Some(error.into())));
                    }
                }
            }
            let head = wire.poll_head(context, to_head, |head| (response(&head), head.nature));
            match head {
                Poll::Ready(Ok((Ok(response), nature))) => Poll::Ready(Ok((response, nature))),
                Poll::Ready(Ok((Err(error), _))) => {
                    Poll::Ready(Err(Some(sending.why().unwrap_or(error))))
                }
                Poll::Ready(Err(error)) => {
                    Poll::Ready(Err(Some(sending.why().unwrap_or_else(|| error.into()))))
                }
                Poll::Pending => wire.poll_timer(context).map(|()| Err(None)),
            }
        });
        match answer.await {
            Ok((response, mut nature)) => {
                nature.keep &= !matches!(sending, Sending::Broken(_));
                nature.keep &= !is_private(&parts.headers, &response);
                let rest = matches!(sending, Sending::Going).then_some(upload);
                let (pool, origin) = (self.pool.clone(), target.origin.clone());
                let lease = Lease::new(wire, nature, rest, pool, origin);
                Ok(response.map(|()| UpstreamBody::Leased(lease)))
            }
            Err(None) => Err(Failure::TimedOut),
            Err(Some(error)) if upload.written() > 0 => Err(Failure::Failed(error)),
            Err(Some(error)) => {
                let request = Request::from_parts(parts, upload.into_body());
                Err(Failure::Unsent(Box::new(request), error))
            }
        }
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy)]
struct Until {
    deadline: Instant,
    /// From each piece of an upload.
    patience: Option<Duration>,
}

impl Until {
    /// The deadline after a piece was written just now.
    #[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
    fn later(&self) -> Option<Instant> {
        let later = Instant::now() + self.patience?;
        (later > self.deadline).then_some(later)
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

/// Whether a connection has become somebody's own: what it was authenticated with counts for the next
/// request, too.
fn is_private(sent: &HeaderMap, response: &Response<()>) -> bool {
    let offers = |name: HeaderName| {
        let offers = response.headers().get_all(name);
        let mut offers = offers.iter().map(HeaderValue::as_bytes);
        offers.any(rules::authenticates_connection)
    };
    let own = sent.get(http::header::AUTHORIZATION);
    own.is_some_and(|own| rules::authenticates_connection(own.as_bytes()))
        || matches!(response.status().as_u16(), 401 | 407)
            && (offers(http::header::WWW_AUTHENTICATE) || offers(http::header::PROXY_AUTHENTICATE))
}

/// An answer's head.
fn response(head: &ResponseHead<'_>) -> Result<Response<()>, BoxError> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 3);
    for header in head.headers {
        headers.append(
            HeaderName::from_bytes(header.name.as_bytes())?,
            HeaderValue::from_bytes(header.value)?,
        );
    }
    *response.headers_mut() = headers;
    Ok(response)
}
