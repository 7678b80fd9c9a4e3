//! The edge: routes, and an accept loop of our own, so that a handler can close the connection
//! that it answers.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    response::Response,
    routing::{get, post},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    api, authorize, clock::Clock, config::SandboxConfig, control, inspect, state::State, token,
};

/// What every handler shares.
pub(super) struct Shared {
    pub(super) config: SandboxConfig,
    pub(super) address: SocketAddr,
    pub(super) clock: Clock,
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: watch::Sender<()>,
    /// Told when hung requests may go on.
    pub(super) released: watch::Sender<()>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// Listens, and serves until `stop`.
    pub(super) async fn start(config: SandboxConfig) -> io::Result<Arc<Self>> {
        // A herd's worth of connections may wait, as at a provider.
        let socket = match config.listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(config.listen)?;
        let listener = socket.listen(4096)?;
        let shared = Arc::new(Self {
            address: listener.local_addr()?,
            clock: Clock::start(),
            state: Mutex::new(State::new(&config)),
            changed: watch::Sender::new(()),
            released: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
        });
        let accepting = accept(listener, Arc::clone(&shared));
        shared.tasks.spawn(accepting);
        Ok(shared)
    }

    /// Reads the state, at a time.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State, Duration) -> T) -> T {
        let state = self.lock();
        look(&state, self.clock.now())
    }

    /// Changes the state, at a time, and tells those who wait for a change. The time is taken
    /// under the lock, so that the timeline is in order.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state, self.clock.now());
        drop(state);
        self.changed.send_replace(());
        result
    }

    /// Waits until the state is as wanted.
    pub(super) async fn when(&self, mut wanted: impl FnMut(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !self.read(|state, _| wanted(state)) {
            // The sender lives in `self`, so this cannot fail.
            let _ = changed.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The TCP connection of a request, an extension of it.
#[derive(Clone, Debug)]
pub(super) struct Connection(CancellationToken);

impl Connection {
    /// Closes the connection without an answer.
    pub(super) async fn close(&self) -> Response {
        self.0.cancel();
        std::future::pending().await
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/authorize", get(authorize::authorize))
        .route("/token", post(token::token))
        .route("/revoke", post(inspect::revoke))
        .route("/introspect", post(inspect::introspect))
        .nest("/sandbox", control::routes())
        .merge(api::routes(shared))
        .with_state(Arc::clone(shared))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let router = router(&shared);
    loop {
        let stream = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                let closed = shared.stop.child_token();
                shared.tasks.spawn(serve(stream, router.clone(), closed));
            }
            // Out of file descriptors, most likely: some may come free.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, router: Router, closed: CancellationToken) {
    // A refused option costs latency only.
    let _ = stream.set_nodelay(true);
    let connection = Connection(closed.clone());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let answer = router.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A connection that fails is the client's business.
    let _ = closed.run_until_cancelled(serving).await;
}
