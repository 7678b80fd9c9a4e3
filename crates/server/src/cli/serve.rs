//! `tokenward serve`: a server's life: open, listen, drain.

use std::{io, net::SocketAddr, num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokenward::VaultConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ApiState, router},
    config::{
        keys,
        open::{Opened, VaultOptions},
    },
    front::{caller::Keys, router::Server},
    gateway::{Gateway, GatewayConfig},
    listen::{Workers, timers::ConnectionLimits, tls::TlsOptions},
    observe::{Metrics, requests::RequestLog},
};

/// Connections that may wait to be accepted. The system allows `net.core.somaxconn` at most (4,096).
const BACKLOG: u32 = 4096;

/// Options of `tokenward serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeOptions {
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
    /// An HTTP library, at about half the rate
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
        }
    }
}

/// Runs a server until `stop` is cancelled.
///
/// # Errors
///
/// When it cannot start: the vault does not open, the address is taken.
pub(crate) async fn serve(
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
    let Opened {
        vault, connector, ..
    } = opened;
    connector.prepare();
    vault.start_upkeep();

    let api_keys = Keys::new(vault.store().clone(), vault.clock().clone());
    let rules = connector.rules().clone();
    let gateway_config = GatewayConfig {
        replay_limit: options.replay_limit * 1024,
        retries: options.retries,
        timeout: Duration::from_secs(options.request_timeout),
        library: options.http == Http::Library,
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
        }),
        vault: vault.clone(),
        metrics,
        stopping: stop.clone(),
        ids: Arc::default(),
        library: options.http == Http::Library,
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
    let mut workers = Workers::start(count, patience, options.limits(), tls.as_ref(), make)
        .context("the workers cannot start")?;
    let renewed = async {
        match tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    let all_done = tokio::select! {
        all_done = workers.listen(listener, stop) => all_done,
        never = renewed => match never {},
        never = keys::follow(vault.clone(), vault_options.clone()) => match never {},
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

/// A gateway holds two sockets for each request; the usual soft limit is 1,024.
pub(crate) fn raise_descriptor_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
