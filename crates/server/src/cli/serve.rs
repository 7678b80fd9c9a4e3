//! `tokenward serve`: a server's life: open, listen, drain.

use std::{net::SocketAddr, num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokenward::{Vault, VaultConfig, vault::DerivedKey};
use tokio::net::TcpListener;

use super::{reload::Reload, signals::ServerSignals};
use crate::{
    api::{ApiState, router},
    config::{
        open::{Opened, VaultOptions},
        public_url::PublicUrl,
    },
    connect::session::Sessions,
    front::{
        caller::Keys,
        ops::{self, Ops, OpsListen},
        router::Server,
    },
    gateway::{Gateway, GatewayConfig},
    listen::{self, Workers, timers::ConnectionLimits, tls::TlsOptions},
    observe::{Metrics, requests::RequestLog, sink::Writer},
};

/// What is left of the time to shut down for refreshes that outlast the requests that began them.
const FOR_REFRESHES: Duration = Duration::from_secs(5);

/// Options of `tokenward serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeOptions {
    /// Where to listen; `:8700` is all interfaces
    #[arg(
        long,
        env = "TOKENWARD_LISTEN",
        default_value = "127.0.0.1:8700",
        value_name = "ADDRESS",
        value_parser = listen::address
    )]
    pub listen: SocketAddr,
    /// Where operators find /metrics, /healthz and /readyz, which need no key; `off` for nowhere
    #[arg(
        long,
        env = "TOKENWARD_OPS_LISTEN",
        default_value = "127.0.0.1:8701",
        value_name = "ADDRESS"
    )]
    pub ops_listen: OpsListen,
    /// Where browsers and applications reach this server; URLs that are handed out are made from it
    /// [default: the address that is listened on]
    #[arg(long, env = "TOKENWARD_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<PublicUrl>,
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
    /// How long requests and refreshes under way may take to finish at shutdown, in seconds
    #[arg(long, default_value_t = 25, value_name = "SECONDS")]
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
    /// How long a request may take until the API's answer begins, in seconds, where the caller does not say;
    /// an upload that moves is given as long again
    #[arg(long, default_value_t = 28, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub request_timeout: u64,
    /// How long a client's connection may rest between requests, in seconds; load balancers in front should
    /// give up before
    #[arg(long, default_value_t = 75, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: u32,
    /// How long the head of a request may take to arrive, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub head_timeout: u32,
    /// How long a client may take none of an answer, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub write_timeout: u32,
    /// Clients' connections at once [default: a third of the process's file descriptors]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZero<usize>>,
    /// Requests at once, shared out evenly between the workers; more are refused with 503 [default: a third of
    /// the process's file descriptors]
    #[arg(long, value_name = "N")]
    pub max_requests: Option<NonZero<usize>>,
    /// Who reads and writes HTTP/1.1
    #[arg(
        long,
        env = "TOKENWARD_HTTP",
        value_enum,
        default_value_t,
        hide_possible_values = false
    )]
    pub http: Http,
    /// A process that dies while it refreshes is taken over after this many milliseconds (for tests; at least 1000)
    #[arg(long, hide = true, default_value_t = 20_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1000..))]
    pub claim_ttl_ms: u64,
    /// Print "listening on ..." as JSON
    #[arg(long)]
    pub json: bool,
}

/// Who reads and writes HTTP/1.1; HTTP/2 is the library's in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Http {
    /// Tokenward itself
    #[default]
    Own,
    /// An HTTP library
    Library,
}

impl ServeOptions {
    fn limits(&self) -> ConnectionLimits {
        let descriptors = rlimit::getrlimit(rlimit::Resource::NOFILE);
        let descriptors = descriptors.map_or(1024, |(soft, _)| soft);
        // A request takes two, and the store, the logs and idle connections to APIs some.
        let third = usize::try_from(descriptors / 3).unwrap_or(usize::MAX);
        let room = tokio::sync::Semaphore::MAX_PERMITS;
        ConnectionLimits {
            idle: self.idle_timeout,
            head: self.head_timeout,
            write: self.write_timeout,
            most: self
                .max_connections
                .map_or(third, NonZero::get)
                .clamp(1, room),
            requests: self.max_requests.map_or(third, NonZero::get),
        }
    }
}

/// Runs a server until a signal stops it.
///
/// # Errors
///
/// When it cannot start: the vault does not open, the address is taken.
pub(crate) async fn serve(
    options: &ServeOptions,
    vault_options: &VaultOptions,
    signals: ServerSignals,
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
    let (log, log_writer) = request_log(options, &metrics)?;
    let listeners = Listeners::bind(options)?;
    greet(options, &opened, &listeners, tls.is_some()).await?;
    let Opened {
        vault, connector, ..
    } = opened;
    connector.prepare();
    vault.start_upkeep();

    let public = match &options.public_url {
        Some(url) => url.clone(),
        None => PublicUrl::of_listener(tls.is_some(), listeners.public.local_addr()?),
    };
    let sessions = Sessions::new(&vault.derived_key(DerivedKey::Sessions));
    let api_keys = Keys::new(vault.clone());
    let rules = connector.rules().clone();
    let gateway_config = GatewayConfig {
        replay_limit: options.replay_limit * 1024,
        retries: options.retries,
        timeout: Duration::from_secs(options.request_timeout),
        library: options.http == Http::Library,
        https: tls.is_some(),
    };
    let server = Server {
        gateway: Gateway::new(
            vault.clone(),
            api_keys.clone(),
            connector,
            rules,
            metrics.clone(),
            log,
            gateway_config,
        ),
        api: router(ApiState {
            vault: vault.clone(),
            keys: api_keys,
            sessions,
            links: None,
            public,
        }),
        vault: vault.clone(),
        ids: Arc::default(),
        library: options.http == Http::Library,
    };
    let make = move || {
        let server = Arc::new(server.for_worker());
        server.clone().start_upkeep();
        server
    };
    let ServerSignals {
        stop,
        reload: asked,
    } = signals;
    let patience = Duration::from_secs(options.shutdown_wait);
    let for_requests = patience.saturating_sub(FOR_REFRESHES).max(patience / 2);
    let count = options.workers.map_or_else(
        || std::thread::available_parallelism().map_or(1, NonZero::get),
        NonZero::get,
    );
    let mut workers = Workers::start(
        count,
        for_requests,
        options.limits(),
        tls.as_ref(),
        &metrics.loads,
        make,
    )
    .context("the workers cannot start")?;
    let clock = vault.clock();
    let life = async {
        let stopped = async {
            stop.cancelled().await;
            clock.now()
        };
        let (all_done, stopped) =
            tokio::join!(workers.listen(listeners.public, stop.clone()), stopped);
        if !all_done {
            tracing::warn!("some requests were cut off at shutdown");
        }
        drain(&vault, clock.now().until(stopped + patience)).await;
    };
    let ops = Ops::new(vault.clone(), metrics, stop.clone());
    let reload = Reload {
        vault: &vault,
        options: vault_options,
        tls: tls.as_ref(),
        log: log_writer.as_ref(),
    };
    let beside = async {
        tokio::join!(
            answer_operators(ops, listeners.ops),
            reload.follow_certificate(),
            reload.follow(asked),
        )
    };
    tokio::select! {
        () = life => {}
        _ = beside => {}
    }
    Ok(())
}

/// Where a server is asked.
struct Listeners {
    public: TcpListener,
    ops: Option<TcpListener>,
}

impl Listeners {
    fn bind(options: &ServeOptions) -> anyhow::Result<Self> {
        let public = listen::bind(options.listen).with_context(|| {
            format!(
                "cannot listen on {}; choose another address with --listen",
                options.listen
            )
        })?;
        let ops = match options.ops_listen {
            OpsListen::Off => None,
            OpsListen::At(address) => Some(ops::bind(address)?),
        };
        Ok(Self { public, ops })
    }
}

/// The request log, and its writer, which is to be dropped last.
fn request_log(
    options: &ServeOptions,
    metrics: &Metrics,
) -> anyhow::Result<(RequestLog, Option<Writer>)> {
    let Some(file) = &options.request_log else {
        return Ok((RequestLog::default(), None));
    };
    let lost = metrics.request_lines_lost.clone();
    let (log, writer) = RequestLog::open(file, lost)
        .with_context(|| format!("cannot write the request log {}", file.display()))?;
    Ok((log, Some(writer)))
}

async fn answer_operators(ops: Ops, listener: Option<TcpListener>) {
    match listener {
        Some(listener) => ops.serve(listener).await,
        None => std::future::pending().await,
    }
}

/// Requests may have ended before the refreshes that they began.
async fn drain(vault: &Vault, patience: Duration) {
    if vault.drain(patience).await {
        tracing::info!("stopped; no refresh was under way");
    } else {
        tracing::warn!("stopped while a refresh was under way; the next start takes it over");
    }
}

async fn greet(
    options: &ServeOptions,
    opened: &Opened,
    listeners: &Listeners,
    tls: bool,
) -> anyhow::Result<()> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}", listeners.public.local_addr()?);
    let ops = match &listeners.ops {
        Some(listener) => Some(format!("http://{}", listener.local_addr()?)),
        None => None,
    };
    let vault = &opened.vault;
    let keys: Vec<_> = vault.keyring().ids().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listening = url,
        ops = ops.as_deref().unwrap_or("off"),
        store = opened.store,
        keys = keys.join(" "),
        connectors = vault.catalogue().iter().count(),
        "started"
    );
    if let Some(key) = &opened.new_key {
        tracing::warn!(file = %key.display(), "a new key was made; without it the vault cannot be read: keep a copy of it elsewhere");
    }
    if options.json {
        println!(
            "{}",
            serde_json::json!({
                "listening": url,
                "ops": ops,
                "data_dir": opened.data_dir,
                "store": opened.store,
            })
        );
    } else {
        println!("listening on {url}, vault in {}", opened.store);
        if let Some(ops) = &ops {
            println!("metrics, health and readiness on {ops}");
        }
        if vault.store().applications().await?.is_empty() {
            println!("no application yet; make one with: tokenward applications create NAME");
        }
    }
    Ok(())
}

/// A gateway holds two sockets for each request; the usual soft limit is 1,024.
pub(crate) fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
