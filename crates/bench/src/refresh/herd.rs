//! Many callers on one grant that has expired: what the wait adds beyond the provider's own time.

use std::{
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use clap::Args;
use serde_json::{Value, json};
use tokenward::{
    Secret, Vault, VaultConfig,
    oauth::TokenRequest,
    observe::Blind,
    seal::{Key, Keyring},
    time::{Clock, Moment},
    transport::{Answer, Patience, Transport, TransportError},
    vault::Import,
};
use tokenward_server::egress::HttpTransport;
use tokenward_store_sqlite::SqliteStore;
use tokenward_testkit::sandbox::{Sandbox, SandboxConfig};
use tokio::{sync::Barrier, task::JoinSet};

use crate::parts::{Provider, clock, connector, http, key, open, quantile, runtime, set_client};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Callers at a time
    #[arg(long, default_value_t = 1000)]
    callers: usize,
    /// How often they come
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// How long the provider takes for a refresh, in milliseconds
    #[arg(long, default_value_t = 100)]
    latency_ms: u64,
}

/// The server's way to the provider, with a stopwatch.
#[derive(Debug)]
struct Timed {
    way: HttpTransport,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<(Moment, Moment)>>,
}

#[async_trait]
impl Transport for Timed {
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        let from = self.clock.now();
        let answer = self.way.exchange(request, patience).await;
        *self.last.lock().expect("no panic while locked") = Some((from, self.clock.now()));
        answer
    }
}

pub(crate) fn run(folder: &Path, options: &Options) -> anyhow::Result<Value> {
    let latency = Duration::from_millis(options.latency_ms);
    let provider = Provider::start(SandboxConfig {
        token_latency: latency,
        // Whole seconds are what a reply can say.
        access_ttl: Duration::from_secs(1),
        ..SandboxConfig::default()
    })?;
    let folder = tempfile::tempdir_in(folder)?;
    runtime()?.block_on(rounds(folder.path(), &provider.sandbox, latency, options))
}

async fn rounds(
    folder: &Path,
    sandbox: &Sandbox,
    latency: Duration,
    options: &Options,
) -> anyhow::Result<Value> {
    let clock = clock();
    let timed = Arc::new(Timed {
        way: http()?,
        clock: clock.clone(),
        last: Mutex::default(),
    });
    let vault = vault(folder, sandbox, timed.clone()).await?;
    vault.token(&key(0)).await?;
    let (mut added, mut beyond, mut slowest) = (Vec::new(), Vec::new(), Vec::new());
    let mut took = Duration::ZERO;
    for _ in 0..options.rounds {
        // Until the token has died.
        clock.sleep(Duration::from_millis(1100)).await;
        let before = sandbox.books().total.refresh_requests;
        let waits = herd(&vault, &clock, options.callers).await?;
        let refreshes = sandbox.books().total.refresh_requests - before;
        ensure!(refreshes == 1, "{refreshes} refreshes for one expiry");
        let last = *timed.last.lock().expect("no panic while locked");
        let (from, to) = last.context("nothing was sent")?;
        let theirs = sandbox.took();
        ensure!(theirs >= latency, "the provider took {theirs:?} only");
        took += theirs;
        beyond.push(from.until(to).saturating_sub(theirs));
        let mut of_round: Vec<_> = waits
            .into_iter()
            .map(|(came, went)| {
                // Who came after the request was sent waited for less of the provider's time.
                let theirs = theirs.saturating_sub(from.until(came));
                came.until(went).saturating_sub(theirs)
            })
            .collect();
        of_round.sort();
        slowest.push(of_round[(of_round.len() - 1) * 99 / 100]);
        added.append(&mut of_round);
    }
    slowest.sort();
    let flushes = flushes(folder, &clock)?;
    vault.drain(Duration::from_secs(5)).await;
    added.sort();
    beyond.sort();
    Ok(json!({
        "callers": options.callers,
        "rounds": options.rounds,
        "provider_ms": took.as_secs_f64() * 1e3 / f64::from(options.rounds),
        "added_p50_ms": quantile(&added, 0.5),
        "added_p99_ms": quantile(&slowest, 0.5),
        "added_p99_of_all_ms": quantile(&added, 0.99),
        "added_max_ms": quantile(&added, 1.0),
        "exchange_p50_ms": quantile(&beyond, 0.5),
        "exchange_max_ms": quantile(&beyond, 1.0),
        "flush_p50_ms": quantile(&flushes, 0.5),
        "flush_p99_ms": quantile(&flushes, 0.99),
    }))
}

/// What it takes to make two pages durable, in order: a refresh does that twice.
fn flushes(folder: &Path, clock: &Arc<dyn Clock>) -> anyhow::Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut found = Vec::new();
    for _ in 0..200 {
        let from = clock.now();
        file.write_all(&[1; 8192])?;
        file.sync_data()?;
        found.push(from.until(clock.now()));
    }
    found.sort();
    Ok(found)
}

async fn vault(folder: &Path, sandbox: &Sandbox, timed: Arc<Timed>) -> anyhow::Result<Vault> {
    let store = Arc::new(SqliteStore::open(&folder.join("vault.db"))?);
    let config = VaultConfig {
        // It would keep callers from ever waiting.
        refresh_ahead: false,
        ..VaultConfig::default()
    };
    let connector = connector(&sandbox.token_url(), 1000.0, 1000);
    let keyring = Keyring::new(vec![Key::generate()])?;
    let observer = Arc::new(Blind);
    let vault = open(folder, store, keyring, timed, observer, &connector, config).await?;
    set_client(&vault).await?;
    let issued = sandbox.issue(&SandboxConfig::default().client_id);
    let import = Import {
        access_token: Some(Secret::new(issued.access_token)),
        refresh_token: Some(Secret::new(issued.refresh_token)),
        ..Import::default()
    };
    vault.import(&key(0), import).await?;
    vault.start_upkeep();
    Ok(vault)
}

/// When each caller came, and when it had its token.
async fn herd(
    vault: &Vault,
    clock: &Arc<dyn Clock>,
    callers: usize,
) -> anyhow::Result<Vec<(Moment, Moment)>> {
    let gate = Arc::new(Barrier::new(callers));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (vault, clock, gate) = (vault.clone(), clock.clone(), gate.clone());
        tasks.spawn(async move {
            let key = key(0);
            gate.wait().await;
            let came = clock.now();
            let token = vault.token(&key).await;
            (token.map(|token| token.version()), came, clock.now())
        });
    }
    let (mut waits, mut versions) = (Vec::new(), Vec::new());
    for (version, came, went) in tasks.join_all().await {
        versions.push(version?);
        waits.push((came, went));
    }
    versions.dedup();
    ensure!(versions.len() == 1, "callers got different tokens");
    Ok(waits)
}
