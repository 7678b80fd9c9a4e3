//! The operators' listener: `/metrics`, `/healthz`, `/readyz`. None of them is on the public one.

use std::{io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokenward::{Vault, time::Moment};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::observe::Metrics;

/// Connections at a time; more are closed at once.
const MOST: usize = 64;
/// For the head of a first or next request to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// No connection lasts longer, whether it asks, reads or neither.
const LONGEST: Duration = Duration::from_secs(60);
/// For the last answer on it.
const LAST: Duration = Duration::from_secs(10);
/// How old what `/readyz` says may be.
const YOUNG: Duration = Duration::from_millis(200);
/// A store that has not answered for this long is away.
const PROMPT: Duration = Duration::from_secs(2);

/// Where operators ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpsListen {
    Off,
    At(SocketAddr),
}

impl FromStr for OpsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        crate::listen::address(text).map(Self::At)
    }
}

/// What operators are told.
#[derive(Clone, Debug)]
pub(crate) struct Ops {
    pub(crate) vault: Vault,
    pub(crate) metrics: Metrics,
    pub(crate) stopping: CancellationToken,
    ready: Arc<Mutex<Option<(Moment, Readiness)>>>,
}

/// Whether requests should be sent here; if not, why.
type Readiness = Result<(), Arc<str>>;

impl Ops {
    pub(crate) fn new(vault: Vault, metrics: Metrics, stopping: CancellationToken) -> Self {
        Self {
            vault,
            metrics,
            stopping,
            ready: Arc::default(),
        }
    }

    /// Answers operators, until it is dropped.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        let room = Arc::new(Semaphore::new(MOST));
        let connections = TaskTracker::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely.
                    tracing::warn!(%error, "an operator's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Ok(place) = room.clone().try_acquire_owned() {
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, router).await;
                    drop(place);
                });
            }
        }
    }

    /// From a look at the store that is [`YOUNG`], whoever asks how often.
    async fn readiness(&self) -> Readiness {
        if self.stopping.is_cancelled() {
            return Err("stopping".into());
        }
        let mut last = self.ready.lock().await;
        let now = self.vault.clock().now();
        if let Some((at, readiness)) = &*last
            && now < *at + YOUNG
        {
            return readiness.clone();
        }
        let readiness = self.look().await;
        *last = Some((self.vault.clock().now(), readiness.clone()));
        readiness
    }

    async fn look(&self) -> Readiness {
        let causes = self.vault.readiness(PROMPT).await;
        if causes.is_empty() {
            return Ok(());
        }
        let causes: Vec<_> = causes.iter().map(ToString::to_string).collect();
        let causes = causes.join("\n");
        tracing::warn!(causes, "not ready");
        Err(causes.into())
    }
}

/// Serves one connection, which ends in bounded time whatever its client does.
async fn answer(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let service = TowerToHyperService::new(router);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // Clients that hang up are no news.
    if tokio::time::timeout(LONGEST, serving.as_mut())
        .await
        .is_err()
    {
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST, serving).await;
    }
}

async fn readyz(State(ops): State<Ops>) -> (StatusCode, String) {
    match ops.readiness().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(ops): State<Ops>, headers: HeaderMap) -> (HeaderMap, String) {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    let open = accepted.any(|accept| {
        let accept = accept.as_bytes();
        accept
            .windows(OPEN_METRICS.len())
            .any(|part| part.eq_ignore_ascii_case(OPEN_METRICS.as_bytes()))
    });
    let (kind, text) = if open {
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ops.metrics.open_metrics(),
        )
    } else {
        (
            "text/plain; version=0.0.4; charset=utf-8",
            ops.metrics.plain_text(),
        )
    };
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    (HeaderMap::from_iter([kind]), text)
}

const OPEN_METRICS: &str = "application/openmetrics-text";

/// Listens for operators.
///
/// # Errors
///
/// When the address is taken, most likely by another server on this machine.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener: io::Result<TcpListener> = crate::listen::bind(address);
    listener.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on {address} for metrics and health: {error}. Another server may have it: choose another \
             address with --ops-listen, or `--ops-listen off`"
        )
    })
}
