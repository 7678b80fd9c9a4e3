//! The accept loop and its workers: HTTP/1.1 and HTTP/2 on one port, in TLS or not, with the timers that keep a
//! slow or silent client from holding a connection for ever.
//!
//! Each worker is a thread with a runtime of its own, and a connection stays with the worker that
//! it was given to: its requests never cross between cores.

pub mod tls;

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::BoxError;

use self::tls::Tls;

use crate::{
    front::{
        lane::{Lane, Left},
        router::Server,
    },
    gateway::{CallerBody, GatewayBody},
};

/// For the head of a first or next request to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads that serve connections. They run until this is dropped, also after the last connection
/// has ended: what requests began (a refresh) may still be under way on them.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    /// Ends the serving when it is dropped.
    connections: Option<mpsc::UnboundedSender<std::net::TcpStream>>,
    open: Arc<AtomicUsize>,
    /// Tells whether all connections have ended in order.
    ended: Option<oneshot::Receiver<bool>>,
    /// Ends the thread when it is dropped.
    release: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers. `make` is called on each of them, in its runtime, and makes the server
    /// that answers its requests. After the listening has ended, requests that are under way may finish
    /// within `patience`.
    ///
    /// # Errors
    ///
    /// When a thread or its runtime cannot start.
    pub(crate) fn start(
        count: usize,
        patience: Duration,
        tls: Option<&Tls>,
        make: impl Fn() -> Arc<Server> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let worker = |number| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (connections, given) = mpsc::unbounded_channel();
            let (say_ended, ended) = oneshot::channel();
            let (release, released) = oneshot::channel::<()>();
            let open = Arc::new(AtomicUsize::new(0));
            let (make, count) = (make.clone(), open.clone());
            let tls = tls.map(Tls::acceptor);
            let body = move || {
                runtime.block_on(async move {
                    // Nobody may want to know any more.
                    let _ = say_ended.send(serve(given, make(), tls, count, patience).await);
                    let _ = released.await;
                });
            };
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(body)?;
            Ok(Worker {
                connections: Some(connections),
                open,
                ended: Some(ended),
                release: Some(release),
                thread: Some(thread),
            })
        };
        let workers = (0..count.max(1)).map(worker).collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    /// Accepts connections until `stop`, then lets requests that are under way finish.
    /// `false`: some did not.
    pub(crate) async fn listen(&mut self, listener: TcpListener, stop: CancellationToken) -> bool {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            // Registered anew with the worker's runtime.
            match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => self.give(stream),
                Err(error) => {
                    // Out of descriptors, most likely: others must end before more can begin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        for worker in &mut self.workers {
            worker.connections = None;
        }
        let mut all = true;
        for worker in &mut self.workers {
            if let Some(ended) = worker.ended.take() {
                all &= ended.await.unwrap_or(false);
            }
        }
        all
    }

    /// To the one with the fewest.
    fn give(&self, stream: std::net::TcpStream) {
        let least = self
            .workers
            .iter()
            .min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        if let Some(worker) = least
            && let Some(connections) = &worker.connections
        {
            worker.open.fetch_add(1, Ordering::Relaxed);
            if connections.send(stream).is_err() {
                tracing::error!("a worker has ended; a connection is dropped");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.connections = None;
            worker.release = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker has panicked");
            }
        }
    }
}

/// One worker's connections.
async fn serve(
    mut given: mpsc::UnboundedReceiver<std::net::TcpStream>,
    server: Arc<Server>,
    tls: Option<TlsAcceptor>,
    open: Arc<AtomicUsize>,
    patience: Duration,
) -> bool {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // Hyper's own timeout would make a timer anew for each request; see `Quiet`.
    http.http1().header_read_timeout(None);
    // Without a timer, hyper's timeouts do nothing.
    http.http2()
        .timer(TokioTimer::new())
        // The protocol's own 64 KiB would be all of an upload that is under way at a time.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    let graceful = GracefulShutdown::new();
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    while let Some(stream) = given.recv().await {
        let leaving = Leaving(open.clone());
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be served");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let quiet = Arc::new(Quiet::new());
        let way = Way {
            server: server.clone(),
            quiet: quiet.clone(),
            closing: closing.clone(),
            http: http.clone(),
            // The shutdown waits for whoever holds a watcher.
            watcher: graceful.watcher(),
        };
        let tls = tls.clone();
        let serving = async move {
            match tls {
                None => way.serve(stream).await,
                Some(tls) => Box::pin(way.serve_tls(stream, &tls)).await,
            }
        };
        connections.spawn(async move {
            tokio::select! {
                biased;
                () = serving => {}
                () = quiet.too_long() => {}
            }
            drop(leaving);
        });
    }
    closing.cancel();
    tokio::time::timeout(patience, graceful.shutdown())
        .await
        .is_ok()
}

/// What one connection is served with.
struct Way {
    server: Arc<Server>,
    quiet: Arc<Quiet>,
    /// Cancelled when no further request is to be read.
    closing: CancellationToken,
    http: auto::Builder<TokioExecutor>,
    watcher: Watcher,
}

impl Way {
    async fn serve_tls(self, stream: TcpStream, tls: &TlsAcceptor) {
        match tls.accept(stream).await {
            Ok(stream) => self.serve(stream).await,
            Err(error) => tracing::debug!(%error, "no TLS handshake"),
        }
    }

    /// In the lane as long as it can be, then by the library.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self {
            server,
            quiet,
            closing,
            http,
            watcher,
        } = self;
        let mut lane = Lane {
            stream,
            server,
            quiet,
            closing,
        };
        let Left::ToLibrary(read) = lane.run().await else {
            // Who waits for more in TLS is told that there is none (RFC 8446 section 6.1).
            let _ = lane.stream.shutdown().await;
            return;
        };
        let Lane {
            stream,
            server,
            quiet,
            ..
        } = lane;
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = quiet.begin(request.version());
            let response = server
                .clone()
                .answer(request.map(CallerBody::Incoming), None);
            async move { Ok::<_, Infallible>(response.await.map(|body| Answer { body, _busy: busy })) }
        });
        let io = TokioIo::new(Continued { read, stream });
        let serving = http
            .serve_connection_with_upgrades(io, service)
            .into_owned();
        // Clients that hang up are no news.
        let _ = Box::pin(watcher.watch(serving)).await;
    }
}

/// A connection of which something was read already.
#[derive(Debug)]
struct Continued<S> {
    read: BytesMut,
    stream: S,
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Continued<S> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Whether a connection has nothing to do, and since when: one on which no request comes is
/// closed. What a request does for it is to count; the one timer of a connection is looked at only
/// when it fires.
#[derive(Debug)]
pub(crate) struct Quiet {
    /// Requests that are not answered to the end.
    requests: AtomicUsize,
    /// When the last of them was, in milliseconds since `start`.
    since: AtomicU64,
    /// HTTP/2 has pings of its own, and many requests at once.
    pings: AtomicBool,
    start: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "for the connection's own timer, on the runtime's clock"
)]
impl Quiet {
    fn new() -> Self {
        Self {
            requests: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            pings: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    pub(crate) fn begin(self: &Arc<Self>, version: Version) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.pings.store(true, Ordering::Relaxed);
        }
        Busy(self.clone())
    }

    fn end(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Relaxed);
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends when the connection has been quiet for [`HEADER_TIMEOUT`].
    async fn too_long(&self) {
        let mut until = self.start + HEADER_TIMEOUT;
        loop {
            tokio::time::sleep_until(until).await;
            let busy = self.requests.load(Ordering::Relaxed) > 0;
            let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
            until = if busy || self.pings.load(Ordering::Relaxed) {
                Instant::now() + HEADER_TIMEOUT
            } else {
                self.start + since + HEADER_TIMEOUT
            };
            if until <= Instant::now() {
                return;
            }
        }
    }
}

/// A request that is not answered to the end.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Quiet>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A response's body, whose end is the request's.
#[derive(Debug)]
struct Answer {
    body: GatewayBody,
    _busy: Busy,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One connection less, however it ends.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds pass until a connection is closed on which `requests` are made.
    async fn closed_after<F: Future<Output = ()>>(requests: impl FnOnce(Arc<Quiet>) -> F) -> u64 {
        let quiet = Arc::new(Quiet::new());
        let start = quiet.start;
        let ((), ()) = tokio::join!(requests(quiet.clone()), quiet.too_long());
        start.elapsed().as_secs()
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed() {
        assert_eq!(closed_after(|_| async {}).await, 30);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_put_it_off_and_one_under_way_keeps_it_open() {
        let closed = closed_after(|quiet| async move {
            pass(20).await;
            drop(quiet.begin(Version::HTTP_11));
            pass(20).await;
            let long = quiet.begin(Version::HTTP_11);
            pass(300).await;
            drop(long);
        });
        let closed = closed.await;
        assert!((370..400).contains(&closed), "{closed}");
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_has_pings_instead() {
        let quiet = Arc::new(Quiet::new());
        drop(quiet.begin(Version::HTTP_2));
        let waiting = tokio::time::timeout(Duration::from_secs(3600), quiet.too_long());
        assert!(waiting.await.is_err());
    }
}
