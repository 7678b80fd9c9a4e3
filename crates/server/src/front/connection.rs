//! What is said on a connection: in the lane as long as it can be, then by an HTTP library.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tower::BoxError;

use super::{
    error::ApiError,
    lane::{Lane, Left},
    linger::Linger,
    router::Server,
    streams::{self, Streams},
};
use crate::{
    gateway::{CallerBody, GatewayBody},
    listen::{Connection, Serve, timers::RequestGuard},
};

/// How long the other side may take to hear that a connection ends (HTTP/2's GOAWAY).
const FAREWELL: Duration = Duration::from_secs(2);
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 100;
/// Of a head in HTTP/2, all of it.
const LONGEST_HEAD: u32 = 64 * 1024;

impl Serve for Server {
    async fn serve<S>(self: Arc<Self>, mut stream: S, connection: Connection)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut read = BytesMut::new();
        if !self.library {
            let lane = Lane {
                stream: &mut stream,
                server: &self,
                connection: &connection,
            };
            let left = tokio::select! {
                biased;
                left = lane.run() => left,
                () = connection.timer.expired() => Left::Closed,
            };
            match left {
                Left::ToLibrary(arrived) => read = arrived,
                Left::Closed => {
                    // Who waits for more in TLS is told that there is none (RFC 8446 section 6.1).
                    let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
                    return;
                }
            }
        }
        Box::pin(by_library(self, stream, read, connection)).await;
    }
}

async fn by_library<S>(server: Arc<Server>, stream: S, read: BytesMut, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timer = connection.timer.clone();
    let uploading = Arc::new(AtomicBool::new(false));
    let stream = Continued {
        read,
        stream,
        uploading: uploading.clone(),
        linger: None,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let admitted = timer.request();
        if request.version() == Version::HTTP_2 {
            timer.multiplexed();
        } else {
            uploading.store(!request.body().is_end_stream(), Ordering::Relaxed);
        }
        let refused =
            tokenward_http1::request::check(request.version(), request.method(), request.headers());
        let refused = refused.and_then(|()| check_authority(request.uri()));
        let server = server.clone();
        let to_head = request.method() == Method::HEAD;
        async move {
            let (response, mut guard) = match (refused, admitted) {
                (Ok(()), Ok(guard)) => {
                    let request = request.map(CallerBody::Incoming);
                    (server.answer(request, None).await, guard)
                }
                (Ok(()), Err(guard)) => (server.refuse(ApiError::too_many_requests()), guard),
                (Err(refusal), Ok(guard) | Err(guard)) => {
                    let mut response = server.refuse(ApiError::refused_by(refusal));
                    let close = http::HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                    (response, guard)
                }
            };
            if response.body().is_whole() {
                guard.answered();
            }
            let counted = |body| Answer {
                body,
                to_head,
                rest: Bytes::new(),
                broken: None,
                _guard: guard,
            };
            Ok::<Response<Answer>, Infallible>(response.map(counted))
        }
    });
    let http = library(connection.write_timeout);
    let io = TokioIo::new(stream);
    let mut serving = pin!(http.serve_connection(io, service));
    // A client that hangs up is not worth a line in a log.
    let expired = tokio::select! {
        biased;
        _ = serving.as_mut() => return,
        () = connection.closing.cancelled() => false,
        () = connection.timer.expired() => true,
    };
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = serving => {}
        () = tokio::time::sleep(FAREWELL), if expired => {}
        () = connection.timer.expired() => {}
    }
}

/// Of a target in absolute form the authority is what `Host` would be, and nobody in it.
fn check_authority(target: &http::Uri) -> Result<(), tokenward_http1::request::Refusal> {
    match target.authority() {
        Some(host) if !tokenward_http1::request::is_host(host.as_str().as_bytes()) => {
            Err(tokenward_http1::request::Refusal::Host)
        }
        _ => Ok(()),
    }
}

fn library(write_timeout: Duration) -> auto::Builder<Streams> {
    let mut http = auto::Builder::new(Streams {
        patience: write_timeout,
    });
    // The connection's own timer does that.
    http.http1().header_read_timeout(None);
    // Without a timer, hyper's timeouts do nothing.
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(LONGEST_HEAD)
        // The protocol's own 64 KiB would be all of an upload that is under way at a time.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    http
}

/// A connection of which something was read already.
#[derive(Debug)]
struct Continued<S> {
    read: BytesMut,
    stream: S,
    /// The last request has a body, of which some may still be coming.
    uploading: Arc<AtomicBool>,
    /// The server's side is closed.
    linger: Option<Linger>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Continued<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = self.read.len().min(into.remaining());
        into.put_slice(&self.read.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Continued<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.uploading.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(Linger::new);
        linger.poll(&mut this.stream, context).map(Ok)
    }
}

/// A response's body, whose end is the request's.
#[derive(Debug)]
struct Answer {
    body: GatewayBody,
    /// What is there of it, and was not handed over yet.
    rest: Bytes,
    /// In HTTP/2 the library would send a body to a `HEAD`, too.
    to_head: bool,
    /// Why it broke off, until what came before is written.
    broken: Option<BoxError>,
    _guard: RequestGuard,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.to_head {
            return Poll::Ready(None);
        }
        streams::asked();
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(streams::hand(&mut self.rest)))));
        }
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Frame::data(streams::hand(&mut self.rest))
                }
                Err(other) => other,
            }))),
            // The library throws away what it has not written yet, the head too, when it hears of this.
            Poll::Ready(Some(Err(broken))) => {
                self.broken = Some(broken);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.to_head || self.rest.is_empty() && self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
