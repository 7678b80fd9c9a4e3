//! The accept loop and its workers: HTTP/1.1 and HTTP/2 on one port, with the timers that keep a
//! slow or silent client from holding a connection for ever.
//!
//! Each worker is a thread with a runtime of its own, and a connection stays with the worker that
//! it was given to: its requests never cross between cores.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// For a request's headers to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads that serve connections. They run until this is dropped, also after the last connection
/// has ended: what requests began (a refresh) may still be under way on them.
#[derive(Debug)]
pub struct Workers {
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
    /// Starts `count` workers. `make` is called on each of them, in its runtime, and makes what
    /// answers its requests. After the listening has ended, requests that are under way may finish
    /// within `patience`.
    ///
    /// # Errors
    ///
    /// When a thread or its runtime cannot start.
    pub fn start<M, H, F, B>(count: usize, patience: Duration, make: M) -> io::Result<Self>
    where
        M: Fn() -> H + Clone + Send + 'static,
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let worker = |number| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (connections, given) = mpsc::unbounded_channel();
            let (say_ended, ended) = oneshot::channel();
            let (release, released) = oneshot::channel::<()>();
            let open = Arc::new(AtomicUsize::new(0));
            let (make, count) = (make.clone(), open.clone());
            let body = move || {
                runtime.block_on(async move {
                    // Nobody may want to know any more.
                    let _ = say_ended.send(serve(given, make(), count, patience).await);
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
    pub async fn listen(&mut self, listener: TcpListener, stop: CancellationToken) -> bool {
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
async fn serve<H, F, B>(
    mut given: mpsc::UnboundedReceiver<std::net::TcpStream>,
    handler: H,
    open: Arc<AtomicUsize>,
    patience: Duration,
) -> bool
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut http = auto::Builder::new(TokioExecutor::new());
    // Without a timer, hyper's timeouts do nothing.
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    let graceful = GracefulShutdown::new();
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
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let connection = http
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // Clients that hang up are no news.
            let _ = watched.await;
            drop(leaving);
        });
    }
    tokio::time::timeout(patience, graceful.shutdown())
        .await
        .is_ok()
}

/// One connection less, however it ends.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
