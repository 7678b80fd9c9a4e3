//! A server's life: open, listen, drain.

use std::{io, net::SocketAddr, num::NonZero, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::body::Body;
use clap::Args;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tokenward::{Vault, VaultConfig};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    api::{ApiState, Keys, router},
    egress::{connector, tls_config},
    gateway::{CallerBody, Gateway, GatewayBody, GatewayConfig, Passed},
    listen::Workers,
    observe::{
        Metrics,
        requests::{FLUSH_EVERY, RequestLog},
    },
    open::{Opened, VaultOptions},
    request_id::RequestIds,
    tls::TlsOptions,
};

/// How often connections that have been idle for too long are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// Connections that may wait to be accepted. The system allows `net.core.somaxconn` at most (4,096).
const BACKLOG: u32 = 4096;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-apideck-request-id");

/// Options of `tokenward serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// Where to listen
    #[arg(
        long,
        env = "TOKENWARD_LISTEN",
        default_value = "127.0.0.1:8700",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Write a line of JSON for each request to /proxy to this file, or `-` for standard output
    #[arg(long, env = "TOKENWARD_REQUEST_LOG", value_name = "FILE")]
    pub request_log: Option<PathBuf>,
    /// A token with less than this many seconds left is refreshed first (at most a quarter of its lifetime)
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub margin: u64,
    /// Refresh only when a request needs it, not ahead of time
    #[arg(long)]
    pub no_refresh_ahead: bool,
    /// How long requests under way may take to finish at shutdown, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub shutdown_wait: u64,
    /// Threads that serve requests [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZero<usize>>,
    /// How much of a request's body is kept for a second try after the API rejected the token, in KiB
    #[arg(long, default_value_t = 256, value_name = "KIB")]
    pub replay_limit: usize,
    /// How often a failed idempotent request is sent again
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub retries: u32,
    /// A process that dies while it refreshes is taken over after this many milliseconds (for tests; at least 1000)
    #[arg(long, hide = true, default_value_t = 20_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1000..))]
    pub claim_ttl_ms: u64,
    /// Print "listening on ..." as JSON
    #[arg(long)]
    pub json: bool,
}

/// What answers requests.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    gateway: Gateway,
    api: axum::Router,
    vault: Vault,
    metrics: Metrics,
    stopping: CancellationToken,
    ids: Arc<RequestIds>,
}

/// Runs a server until `stop` is cancelled.
///
/// # Errors
///
/// When it cannot start: the vault does not open, the address is taken.
pub async fn serve(
    options: &ServeOptions,
    vault_options: &VaultOptions,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let metrics = Metrics::default();
    let config = VaultConfig {
        margin: Duration::from_secs(options.margin),
        refresh_ahead: !options.no_refresh_ahead,
        claim_ttl: Duration::from_millis(options.claim_ttl_ms),
        ..VaultConfig::default()
    };
    let opened = vault_options
        .open(config, Arc::new(metrics.clone()))
        .await?;
    let tls = options.tls.open()?;
    // The writer is waited for when all else has ended.
    let (log, _writer) = match &options.request_log {
        None => (RequestLog::default(), None),
        Some(file) => {
            let cannot = || format!("cannot write the request log {}", file.display());
            let (log, writer) = RequestLog::open(file).with_context(cannot)?;
            (log, Some(writer))
        }
    };
    let listener = bind(options.listen).with_context(|| {
        format!(
            "cannot listen on {}; choose another address with --listen",
            options.listen
        )
    })?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    greet(options, &opened, &url).await?;
    let Opened { vault, rules, .. } = opened;
    vault.start_upkeep();

    let keys = Keys::new(vault.store().clone(), vault.clock().clone());
    let connector = connector(&rules, tls_config());
    let gateway_config = GatewayConfig {
        replay_limit: options.replay_limit * 1024,
        retries: options.retries,
        ..GatewayConfig::default()
    };
    let server = Server {
        gateway: Gateway::new(
            vault.clone(),
            keys.clone(),
            connector,
            rules,
            metrics.clone(),
            log,
            gateway_config,
        ),
        api: router(ApiState {
            vault: vault.clone(),
            keys,
        }),
        vault: vault.clone(),
        metrics,
        stopping: stop.clone(),
        ids: Arc::default(),
    };
    let make = move || {
        let server = Arc::new(server.for_worker());
        server.clone().start_upkeep();
        server
    };
    let patience = Duration::from_secs(options.shutdown_wait);
    let count = options.workers.map_or_else(
        || std::thread::available_parallelism().map_or(1, NonZero::get),
        NonZero::get,
    );
    let mut workers =
        Workers::start(count, patience, tls.as_ref(), make).context("the workers cannot start")?;
    let renewed = async {
        match tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    let all_done = tokio::select! {
        all_done = workers.listen(listener, stop) => all_done,
        never = renewed => match never {},
    };
    if !all_done {
        tracing::warn!("some requests were cut off at shutdown");
    }
    // Requests may have ended before the refreshes that they began.
    let longest_call = vault.config().answer_timeout + Duration::from_secs(5);
    if vault.drain(longest_call).await {
        tracing::info!("stopped; no refresh was under way");
    } else {
        tracing::warn!("stopped while a refresh was under way; the next start takes it over");
    }
    Ok(())
}

/// Listens, with room for a herd: the standard library's would turn away all but 128 of those who come
/// at once, to try again a second later.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As the standard library does: a restart need not wait for the connections of before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn greet(options: &ServeOptions, opened: &Opened, url: &str) -> anyhow::Result<()> {
    if let Some(key) = &opened.new_key {
        tracing::warn!(file = %key.display(), "a new key was made; without it the vault cannot be read: keep a copy of it elsewhere");
    }
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "listening": url, "data_dir": opened.data_dir, "store": opened.store })
        );
    } else {
        println!("listening on {url}, vault in {}", opened.store);
        if opened.vault.store().applications().await?.is_empty() {
            println!("no application yet; make one with: tokenward applications create NAME");
        }
    }
    Ok(())
}

impl Server {
    /// The same server with connections of its own.
    fn for_worker(&self) -> Self {
        Self {
            gateway: self.gateway.another(),
            ids: Arc::default(),
            ..self.clone()
        }
    }

    /// Looks after a worker's connections to APIs, until its runtime ends.
    fn start_upkeep(self: Arc<Self>) {
        let tasks = TaskTracker::new();
        let server = self.clone();
        tasks.spawn(async move {
            loop {
                server.vault.clock().sleep(SWEEP_EVERY).await;
                server.gateway.sweep();
            }
        });
        tasks.spawn(async move {
            loop {
                self.vault.clock().sleep(FLUSH_EVERY).await;
                self.gateway.log().flush();
            }
        });
    }

    /// Boxed: what waits for an answer is moved about before it is polled, and is large.
    /// `passed`: it is a request to `/proxy` that was sent already.
    pub(crate) fn answer(
        self: Arc<Self>,
        request: Request<CallerBody>,
        passed: Option<Passed>,
    ) -> Pin<Box<dyn Future<Output = Response<GatewayBody>> + Send>> {
        let id = self.ids.next_id();
        if request.uri().path() == "/proxy" {
            return Box::pin(async move {
                let response = self.gateway.handle(request, passed, id.clone()).await;
                named(response, id)
            });
        }
        Box::pin(async move { named(self.answer_otherwise(request).await, id) })
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// A name for a request.
    pub(crate) fn next_id(&self) -> HeaderValue {
        self.ids.next_id()
    }

    async fn answer_otherwise(&self, request: Request<CallerBody>) -> Response<GatewayBody> {
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready().await,
            "/metrics" => {
                let mut response = text(StatusCode::OK, &self.metrics.render());
                let kind = HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                );
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            _ => {
                let never = self.api.clone().oneshot(request.map(Body::new)).await;
                never
                    .unwrap_or_else(|never| match never {})
                    .map(GatewayBody::from)
            }
        }
    }

    /// Whether requests should be sent here: not while stopping, nor while the store is down.
    async fn ready(&self) -> Response<GatewayBody> {
        if self.stopping.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        }
        match self.vault.store().changes(None).await {
            Ok(_) => text(StatusCode::OK, "ready\n"),
            Err(error) => {
                tracing::warn!(%error, "not ready: the store does not answer");
                text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store does not answer\n",
                )
            }
        }
    }
}

/// With a name for people who ask about it.
fn named(mut response: Response<GatewayBody>, id: HeaderValue) -> Response<GatewayBody> {
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn text(status: StatusCode, text: &str) -> Response<GatewayBody> {
    let mut response = Response::new(GatewayBody::from(bytes::Bytes::copy_from_slice(
        text.as_bytes(),
    )));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A gateway holds two sockets for each request; the usual soft limit is 1,024.
pub(crate) fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
