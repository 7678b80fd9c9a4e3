//! `tokenward demo`: the refresh race happens, and then does not.
//!
//! The same batch of requests meets a token that is about to expire, three times: *uncoordinated*
//! (each request refreshes by itself), *validate first* (the guide's remedy), and *Tokenward* (a
//! real gateway on loopback). The provider is the sandbox; what it counts is what is told.

mod gateways;
mod load;
mod naive;
mod page;
mod report;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokenward_sandbox::{
    IssuedTokens, Rotation, Sandbox, SandboxConfig, TimelineEvent, postgres::PostgresCluster,
};

use self::{
    gateways::Gateways,
    load::{Client, Span},
    naive::Naive,
};
use crate::config::place::StoreOptions;

/// Options of `tokenward demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// How many requests at once
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    requests: u32,
    /// How many gateway processes share the vault
    #[arg(long, default_value_t = 1, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write a page with the picture of the requests
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// How long the sandbox takes to answer a refresh.
const PROVIDER_LATENCY: Duration = Duration::from_millis(300);
/// A token's lifetime, and how much of it is left when the batch begins: less than the margin.
const LIFETIME: Duration = Duration::from_secs(1800);
const LEFT: Duration = Duration::from_secs(15);

/// What one way of doing it came to, by the provider's books.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    /// Requests of the batch.
    pub(crate) requests: u64,
    /// Those that the API did not accept.
    pub(crate) failed: u64,
    /// Refresh requests that the provider saw.
    pub(crate) refreshes: u64,
    /// Those that it granted.
    pub(crate) refreshes_granted: u64,
    /// Those that it refused with `invalid_grant`.
    pub(crate) invalid_grant: u64,
    /// Grants that it revoked because a refresh token was used twice.
    pub(crate) revoked_grants: u64,
    /// The batch's duration (and the validation's before it).
    pub(crate) elapsed_ms: u64,
}

/// One way of doing it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) account: Account,
    /// What the callers saw, in milliseconds since the run's start.
    pub(crate) spans: Vec<Span>,
    /// What the provider saw, likewise.
    pub(crate) timeline: Vec<TimelineEvent>,
}

/// Runs the demo.
///
/// # Errors
///
/// When a part of it cannot start, with the reason.
pub async fn run(options: &DemoOptions, store: &StoreOptions) -> anyhow::Result<ExitCode> {
    let cluster = cluster(store)?;
    crate::cli::serve::raise_descriptor_limit();
    let progress = |what: &str| {
        if !options.json {
            eprintln!("{what} ...");
        }
    };
    progress(&format!(
        "{} requests at once, each refreshing by itself",
        options.requests
    ));
    let uncoordinated = uncoordinated(options.requests, false).await?;
    progress("the same after one validation");
    let validate_first = uncoordinated_after_validation(options.requests).await?;
    progress(&format!(
        "the same through {} Tokenward process(es)",
        options.processes
    ));
    let tokenward = through_tokenward(options, cluster.as_ref()).await?;
    let runs = [uncoordinated, validate_first, tokenward];

    if let Some(file) = &options.html {
        std::fs::write(file, page::page(&runs))
            .with_context(|| format!("the page {}", file.display()))?;
    }
    if options.json {
        println!("{}", report::json(&runs));
    } else {
        println!("{}", report::text(&runs));
        if let Some(file) = &options.html {
            println!("\nThe picture is in {}.", file.display());
        }
    }
    // What the product promises is the demo's own exit code.
    let ours = &runs[2].account;
    ensure!(
        ours.refreshes == 1 && ours.failed == 0,
        "Tokenward broke its promise: {} refreshes, {} failed requests",
        ours.refreshes,
        ours.failed
    );
    Ok(ExitCode::SUCCESS)
}

async fn uncoordinated_after_validation(requests: u32) -> anyhow::Result<Run> {
    uncoordinated(requests, true).await
}

async fn uncoordinated(requests: u32, validate_first: bool) -> anyhow::Result<Run> {
    let (sandbox, tokens) = provider().await?;
    let naive = Arc::new(Naive::new(&sandbox, &tokens, Client::new()));
    let start = Start::of(&sandbox);
    let began = start.now();
    if validate_first {
        naive.validate().await?;
    }
    let spans = load::all_at_once(requests, began, {
        let naive = naive.clone();
        move |_| {
            let naive = naive.clone();
            async move { naive.request().await }
        }
    })
    .await;
    let (title, about) = if validate_first {
        (
            "validate first",
            "one forced refresh, awaited, then the batch: every caller must know and do it",
        )
    } else {
        (
            "uncoordinated",
            "every request sees the expiry and refreshes by itself",
        )
    };
    Ok(start.run(title, about, requests, spans, sandbox).await)
}

/// The PostgreSQL that `--store postgres` asks for, in a temporary folder.
fn cluster(store: &StoreOptions) -> anyhow::Result<Option<PostgresCluster>> {
    if store.wants_cluster() {
        let cluster = PostgresCluster::start().context("a private PostgreSQL for the demo")?;
        return Ok(Some(cluster));
    }
    // Never a database that somebody needs: the demo fills it with its own.
    ensure!(
        store.is_embedded(),
        "the demo runs on `--store sqlite` or on `--store postgres`, which starts a private PostgreSQL"
    );
    Ok(None)
}

async fn through_tokenward(
    options: &DemoOptions,
    cluster: Option<&PostgresCluster>,
) -> anyhow::Result<Run> {
    let (sandbox, tokens) = provider().await?;
    let gateways = Arc::new(
        Gateways::start(
            &sandbox,
            &tokens,
            LIFETIME,
            LEFT,
            options.processes,
            cluster.map(PostgresCluster::url),
        )
        .await?,
    );
    let client = Client::new();
    let start = Start::of(&sandbox);
    let spans = load::all_at_once(options.requests, start.now(), {
        let gateways = gateways.clone();
        move |number| {
            let (gateways, client) = (gateways.clone(), client.clone());
            async move { gateways.request(&client, number).await }
        }
    })
    .await;
    let run = start
        .run(
            "Tokenward",
            "just the batch: one request's flight refreshes, the others wait for it",
            options.requests,
            spans,
            sandbox,
        )
        .await;
    gateways.stop().await;
    Ok(run)
}

/// A provider that rotates refresh tokens and revokes the grant on reuse, as Salesforce does, and
/// a grant of it whose access token is about to expire.
async fn provider() -> anyhow::Result<(Sandbox, IssuedTokens)> {
    let sandbox = Sandbox::start(SandboxConfig {
        rotation: Rotation::Revokes,
        access_ttl: LIFETIME,
        token_latency: PROVIDER_LATENCY,
        ..SandboxConfig::default()
    })
    .await
    .context("the sandbox provider cannot start")?;
    let client = SandboxConfig::default().client_id;
    let tokens = sandbox.issue_expiring(&client, LEFT);
    Ok((sandbox, tokens))
}

/// The beginning of a run.
struct Start {
    /// Where the sandbox's timeline stood.
    events: usize,
    /// On the sandbox's clock.
    at_ms: u64,
    at: tokio::time::Instant,
}

impl Start {
    #[expect(clippy::disallowed_methods, reason = "the demo shows real durations")]
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            events: sandbox.timeline().len(),
            at_ms: sandbox.now_ms(),
            at: tokio::time::Instant::now(),
        }
    }

    fn now(&self) -> tokio::time::Instant {
        self.at
    }

    async fn run(
        self,
        title: &'static str,
        about: &'static str,
        requests: u32,
        spans: Vec<Span>,
        sandbox: Sandbox,
    ) -> Run {
        let elapsed = self.at.elapsed();
        let books = sandbox.books().total;
        let mut timeline = sandbox.timeline().split_off(self.events);
        for event in &mut timeline {
            event.at_ms = event.at_ms.saturating_sub(self.at_ms);
        }
        sandbox.shutdown().await;
        let account = Account {
            requests: requests.into(),
            failed: u64::from(requests).saturating_sub(books.api_accepted),
            refreshes: books.refresh_requests,
            refreshes_granted: books.refreshes_granted,
            invalid_grant: books.refreshes_refused,
            revoked_grants: books.family_revocations,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        Run {
            title,
            about,
            account,
            spans,
            timeline,
        }
    }
}
