//! Many grants that expire within one minute, and a provider that takes only so many requests a
//! second: all are refreshed ahead of their expiry, and nobody waits.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use clap::Args;
use serde_json::{Value, json};
use tokenward::{
    Secret, Vault, VaultConfig,
    observe::{FlightOutcome, Observer, Served, Signal},
    seal::{Key, Keyring},
    time::{Chance as _, Clock as _, SeededChance, TokioClock},
    vault::Import,
};
use tokenward_store_sqlite::SqliteStore;
use tokenward_testkit::sandbox::{EventKind, Sandbox, SandboxConfig};
use tokio::task::JoinSet;

use crate::parts::{Provider, connector, http, key, open, processor, runtime, seconds, set_client};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many grants
    #[arg(long, default_value_t = 10_000)]
    grants: u64,
    /// What the provider's endpoint takes in a second. Fewer than expire in a second of the
    /// minute, so that some must be refreshed before others
    #[arg(long, default_value_t = 125.0)]
    per_second: f64,
    /// And at once, after a rest
    #[arg(long, default_value_t = 25)]
    burst: u32,
}

/// By then all have died for long.
const PATIENCE: Duration = Duration::from_secs(300);

/// How callers were served, and how flights ended.
#[derive(Debug, Default)]
struct Counted {
    fresh: AtomicU64,
    waited: AtomicU64,
    stale: AtomicU64,
    failed: AtomicU64,
    refreshed: AtomicU64,
    flights_failed: AtomicU64,
}

impl Observer for Counted {
    fn observe(&self, signal: &Signal<'_>) {
        let count = match signal {
            Signal::Served(Served::Fresh) => &self.fresh,
            Signal::Served(Served::Joined) => &self.waited,
            Signal::Served(Served::Stale) => &self.stale,
            Signal::Served(Served::Failed) => &self.failed,
            Signal::FlightEnded {
                outcome: FlightOutcome::Refreshed,
                ..
            } => &self.refreshed,
            Signal::FlightEnded { .. } => &self.flights_failed,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn run(folder: &Path, options: &Options) -> anyhow::Result<Value> {
    let provider = Provider::start(SandboxConfig {
        token_latency: Duration::from_millis(50),
        access_ttl: Duration::from_secs(3600),
        timeline_limit: usize::MAX,
        ..SandboxConfig::default()
    })?;
    let folder = tempfile::tempdir_in(folder)?;
    runtime()?.block_on(minute(folder.path(), &provider.sandbox, options))
}

async fn minute(folder: &Path, sandbox: &Sandbox, options: &Options) -> anyhow::Result<Value> {
    let counted = Arc::new(Counted::default());
    let vault = vault(folder, sandbox, counted.clone(), options).await?;
    fill(&vault, sandbox, options.grants).await?;
    let clock = TokioClock::default();
    let (began, used) = (clock.now(), processor()?);
    vault.start_upkeep();
    let callers = tokio::time::timeout(PATIENCE, call(&vault, &counted, options.grants));
    callers.await??;
    let (took, used) = (seconds(&clock, began), processor()? - used);
    let mut worst = 0;
    for number in 0..options.grants {
        worst = worst.max(vault.token(&key(number)).await?.version().abs_diff(2));
    }
    ensure!(worst == 0, "a grant was not refreshed exactly once");
    vault.drain(Duration::from_secs(5)).await;
    let total = sandbox.books().total;
    Ok(json!({
        "grants": options.grants,
        "per_second": options.per_second,
        "burst": options.burst,
        "refreshes": total.refreshes_granted,
        "refused": total.refresh_requests - total.refreshes_granted,
        "flights_failed": counted.flights_failed.load(Ordering::Relaxed),
        "served_fresh": counted.fresh.load(Ordering::Relaxed),
        "served_after_waiting": counted.waited.load(Ordering::Relaxed),
        "served_stale": counted.stale.load(Ordering::Relaxed),
        "not_served": counted.failed.load(Ordering::Relaxed),
        "most_in_a_second": most_in_a_second(sandbox),
        "seconds": took,
        "processor_seconds": used,
    }))
}

async fn vault(
    folder: &Path,
    sandbox: &Sandbox,
    observer: Arc<Counted>,
    options: &Options,
) -> anyhow::Result<Vault> {
    let store = Arc::new(SqliteStore::open(&folder.join("vault.db"))?);
    let keyring = Keyring::new(vec![Key::generate()])?;
    let connector = connector(&sandbox.token_url(), options.per_second, options.burst);
    let (transport, config) = (Arc::new(http()?), VaultConfig::default());
    let vault = open(
        folder, store, keyring, transport, observer, &connector, config,
    )
    .await?;
    set_client(&vault).await?;
    Ok(vault)
}

/// Tokens of an hour, of which between 75 and 135 seconds are left: within the minute after the
/// next 75 seconds they would all be gone.
async fn fill(vault: &Vault, sandbox: &Sandbox, grants: u64) -> anyhow::Result<()> {
    const TASKS: u64 = 64;
    let client = SandboxConfig::default().client_id;
    let hour = Duration::from_secs(3600);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let chance = SeededChance::new(task);
        let of_task: Vec<_> = (task..grants)
            .step_by(TASKS as usize)
            .map(|number| (number, sandbox.issue(&client), chance.fraction()))
            .collect();
        let vault = vault.clone();
        tasks.spawn(async move {
            for (number, issued, chance) in of_task {
                let left = Duration::from_secs(75) + Duration::from_secs(60).mul_f64(chance);
                let import = Import {
                    access_token: Some(Secret::new(issued.access_token)),
                    refresh_token: Some(Secret::new(issued.refresh_token)),
                    issued_at_ms: Some(ago(hour.saturating_sub(left))),
                    expires_in: Some(hour),
                    ..Import::default()
                };
                vault.import(&key(number), import).await?;
                vault.token(&key(number)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A time that has passed, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "imports tell calendar times")]
fn ago(time: Duration) -> i64 {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_1970.saturating_sub(time).as_millis()).unwrap_or(i64::MAX)
}

/// Calls random connections until all grants are refreshed. Every call must get a token.
async fn call(vault: &Vault, counted: &Counted, grants: u64) -> anyhow::Result<()> {
    let chance = SeededChance::new(7);
    while counted.refreshed.load(Ordering::Relaxed) < grants {
        for _ in 0..100 {
            let number = (chance.fraction() * grants as f64) as u64;
            vault.token(&key(number)).await?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The most requests that the provider has seen within any second.
fn most_in_a_second(sandbox: &Sandbox) -> usize {
    let seen: Vec<u64> = sandbox
        .timeline()
        .iter()
        .filter(|event| event.kind == EventKind::Seen)
        .map(|event| event.at_ms)
        .collect();
    let mut first = 0;
    let windows = seen.iter().enumerate().map(|(last, at)| {
        while seen[first] + 1000 <= *at {
            first += 1;
        }
        last - first + 1
    });
    windows.max().unwrap_or(0)
}
