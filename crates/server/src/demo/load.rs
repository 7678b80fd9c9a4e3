//! A batch of requests, all at once, and what became of each.

use std::{collections::VecDeque, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::Barrier, time::Instant};
use tokio_util::task::TaskTracker;

/// A plain HTTP client.
#[derive(Clone, Debug)]
pub(super) struct Client(legacy::Client<HttpConnector, Full<Bytes>>);

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(legacy::Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends a request; `None`: the connection failed.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)> {
        let response = self.0.request(request).await.ok()?;
        let status = response.status();
        Some((
            status,
            response.into_body().collect().await.ok()?.to_bytes(),
        ))
    }
}

/// One request of the batch, in milliseconds since the run's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from_ms: u64,
    /// When its own refresh ended, if it made one.
    pub(crate) refreshed_ms: Option<u64>,
    pub(crate) to_ms: u64,
    pub(crate) ok: bool,
}

/// What one request reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) ok: bool,
    /// When its own refresh ended.
    pub(super) refreshed: Option<Instant>,
}

/// Runs `request` `count` times at once.
#[expect(clippy::disallowed_methods, reason = "the demo shows real durations")]
pub(super) async fn all_at_once<F, R>(count: u32, began: Instant, request: F) -> Vec<Span>
where
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = Report> + Send,
{
    let barrier = std::sync::Arc::new(Barrier::new(count as usize));
    let tasks = TaskTracker::new();
    let handles: VecDeque<_> = (0..count as usize)
        .map(|number| {
            let (request, barrier) = (request.clone(), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                let from = Instant::now();
                let report = request(number).await;
                Span {
                    from_ms: millis(from.duration_since(began)),
                    refreshed_ms: report.refreshed.map(|at| millis(at.duration_since(began))),
                    to_ms: millis(began.elapsed()),
                    ok: report.ok,
                }
            })
        })
        .collect();
    let mut spans = Vec::new();
    for handle in handles {
        spans.extend(handle.await);
    }
    spans
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
