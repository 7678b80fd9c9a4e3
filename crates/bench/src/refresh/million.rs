//! A vault with many grants, on SQLite: start, memory, schedule, cold reads, refreshes.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokenward::{
    GrantId, Secret, Vault, VaultConfig,
    oauth::TokenSet,
    observe::Blind,
    refresh::ledger::{GrantRow, Standing},
    seal::{Key, Keyring, Purpose, random_bytes},
    store::{Connection, Record, prelude::*},
    time::{Clock as _, StoreTime, TokioClock},
};
use tokenward_store_sqlite::SqliteStore;
use tokio::task::JoinSet;

use crate::parts::{
    AtOnce, connector, key, open, processor, resident, runtime, seconds, set_client, token,
};

#[derive(Debug, Args)]
pub(crate) struct Size {
    /// How many grants the vault has
    #[arg(long, default_value_t = 1_000_000)]
    grants: u64,
    /// How many of them have expired
    #[arg(long, default_value_t = 100_000)]
    expired: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Callers at a time, and so refreshes under way
    #[arg(long, default_value_t = 1000)]
    callers: u64,
    /// For how long grants are refreshed, at most, in seconds
    #[arg(long, default_value_t = 15)]
    refresh_s: u64,
}

const DAY_MS: i64 = 86_400_000;
/// Rows in one statement of the store's.
const BATCH: u64 = 10_000;

/// Makes a vault whose grants are written as a move from another store writes them.
pub(crate) fn fill(folder: &Path, size: &Size) -> anyhow::Result<Value> {
    std::fs::write(folder.join("key"), Key::generate().to_text().expose())?;
    std::fs::write(
        folder.join("size"),
        format!("{} {}", size.grants, size.expired),
    )?;
    let clock = TokioClock::default();
    let began = clock.now();
    runtime()?.block_on(async {
        let store = Arc::new(SqliteStore::open(&folder.join("vault.db"))?);
        let keyring = keyring(folder)?;
        let vault = vault(folder, store.clone(), Arc::default()).await?;
        set_client(&vault).await?;
        let no_grant = GrantId::new("none");
        let now = store.grant(&no_grant).await?.at;
        for first in (0..size.grants).step_by(BATCH as usize) {
            let numbers = first..(first + BATCH).min(size.grants);
            let rows = numbers.flat_map(|number| rows(&keyring, number, size.expired, now));
            store.restore(rows.collect()).await?;
        }
        anyhow::Ok(())
    })?;
    let took = seconds(&clock, began);
    let bytes = std::fs::metadata(folder.join("vault.db"))?.len();
    Ok(json!({"grants": size.grants, "seconds": took, "file_bytes": bytes}))
}

/// How many grants were filled in, and how many of them have expired.
fn size(folder: &Path) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(folder.join("size"))?;
    let (grants, expired) = text.split_once(' ').context("the file `size`")?;
    Ok((grants.parse()?, expired.parse()?))
}

fn keyring(folder: &Path) -> anyhow::Result<Keyring> {
    let text = Secret::new(std::fs::read_to_string(folder.join("key"))?);
    Ok(Keyring::parse(&text)?)
}

async fn vault(
    folder: &Path,
    store: Arc<SqliteStore>,
    provider: Arc<AtOnce>,
) -> anyhow::Result<Vault> {
    // No limit: the store's own is looked for.
    let connector = connector("http://127.0.0.1/token", 1e9, 1_000_000);
    let (observer, config) = (Arc::new(Blind), VaultConfig::default());
    let keyring = keyring(folder)?;
    open(
        folder, store, keyring, provider, observer, &connector, config,
    )
    .await
}

/// A grant and its connection. The first ones' tokens have expired a minute ago, the others' last
/// for a day.
fn rows(keyring: &Keyring, number: u64, expired: u64, now: StoreTime) -> [Record; 2] {
    let connection = key(number);
    let id = grant_id(number);
    let tokens = TokenSet {
        access_token: Some(Secret::new(token("at", 0, number))),
        refresh_token: Some(Secret::new(token("rt", 0, number))),
        scope: Vec::new(),
        metadata: Default::default(),
        client_credentials: false,
    };
    let purpose = Purpose::TokenSet {
        grant: &id,
        version: 1,
    };
    let grant = GrantRow {
        sealed: keyring.seal(purpose, &tokens.to_plain()),
        id: id.clone(),
        application: connection.application.clone(),
        connector: connection.service.clone(),
        version: 1,
        authorized_version: 1,
        expires_at: Some(if number < expired {
            now - Duration::from_secs(60)
        } else {
            now + Duration::from_secs(86_400)
        }),
        lifetime: Some(Duration::from_secs(86_400)),
        refreshed_at: None,
        keep_alive_at: Some(StoreTime(now.0 + DAY_MS * (30 + (number % 30) as i64))),
        // Of nobody's token: only its place in the index matters here.
        fingerprint: Some(random_bytes()),
        standing: Standing::Live,
        epoch: 0,
        committed_epoch: 0,
        claim: None,
        attempt: None,
        trouble: None,
        consent: None,
    };
    let mut connection = Connection::new(connection, now);
    connection.grant = Some(id);
    [
        Record::Grant(Box::new(grant)),
        Record::Connection(Box::new(connection)),
    ]
}

/// As long as the ids that vaults make.
fn grant_id(number: u64) -> GrantId {
    format!("00000000-0000-7000-8000-{number:012}").into()
}

pub(crate) fn run(folder: &Path, options: &Options) -> anyhow::Result<Value> {
    let runtime = runtime()?;
    runtime.block_on(measure(folder, options))
}

async fn measure(folder: &Path, options: &Options) -> anyhow::Result<Value> {
    let (grants, expired) = size(folder)?;
    let clock = TokioClock::default();
    let began = clock.now();
    let store = Arc::new(SqliteStore::open(&folder.join("vault.db"))?);
    let provider = Arc::new(AtOnce::default());
    let vault = vault(folder, store.clone(), provider.clone()).await?;
    vault.start_upkeep();
    let start = seconds(&clock, began);
    vault.token(&key(expired)).await?;
    let first_token = seconds(&clock, began);

    let empty = resident()?;
    let began = clock.now();
    let reads = each(&vault, expired..grants, options.callers, u64::MAX).await?;
    let reading = seconds(&clock, began);
    let cached = resident()?.saturating_sub(empty);

    // All of them are in the schedule now, and none is due.
    let (began, used) = (clock.now(), processor()?);
    clock.sleep(Duration::from_secs(5)).await;
    let idle = (processor()? - used) / seconds(&clock, began);

    // Found in memory before, so that refreshes are all that is measured.
    for number in 0..expired {
        vault.resolve(&key(number)).await?;
    }
    let began = clock.now();
    let refreshes = each(&vault, 0..expired, options.callers, options.refresh_s).await?;
    let refreshing = seconds(&clock, began);
    let answered = provider.answered();
    ensure!(
        answered == refreshes,
        "{answered} refreshes for {refreshes} expired grants"
    );
    saved(&store, expired, refreshes).await?;
    vault.drain(Duration::from_secs(5)).await;
    Ok(json!({
        "grants": grants,
        "start_s": start,
        "first_token_s": first_token,
        "cached": reads,
        "bytes_per_cached_grant": cached as f64 / reads as f64,
        "cold_reads_per_s": reads as f64 / reading,
        "idle_cores": idle,
        "refreshes": refreshes,
        "refreshes_per_s": refreshes as f64 / refreshing,
    }))
}

/// Asks for the tokens of all, in an order that is not the file's, until the time is up. Answers
/// with how many it has asked for.
async fn each(
    vault: &Vault,
    numbers: std::ops::Range<u64>,
    callers: u64,
    most_s: u64,
) -> anyhow::Result<u64> {
    /// A prime, so that every number has its turn.
    const STEP: u64 = 7_368_787;
    let clock = Arc::new(TokioClock::default());
    let until = clock.now() + Duration::from_secs(most_s);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (vault, clock, next, numbers) =
            (vault.clone(), clock.clone(), next.clone(), numbers.clone());
        tasks.spawn(async move {
            let many = numbers.end - numbers.start;
            let mut asked = 0;
            while clock.now() < until {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= many {
                    break;
                }
                let number = numbers.start + turn * STEP % many;
                vault.token(&key(number)).await?;
                asked += 1;
            }
            anyhow::Ok(asked)
        });
    }
    let mut asked = 0;
    while let Some(done) = tasks.join_next().await {
        asked += done??;
    }
    Ok(asked)
}

/// As many rows as were refreshed have a new version.
async fn saved(store: &SqliteStore, expired: u64, refreshes: u64) -> anyhow::Result<()> {
    let (mut newer, mut last) = (0, GrantId::new(""));
    loop {
        let rows = store.grants_after(Some(&last), BATCH as usize).await?;
        let of_these = rows.iter().filter(|row| row.id < grant_id(expired));
        newer += of_these.filter(|row| row.version == 2).count() as u64;
        match rows.last() {
            Some(row) if row.id < grant_id(expired) => last = row.id.clone(),
            _ => break,
        }
    }
    ensure!(
        newer == refreshes,
        "{newer} of {refreshes} refreshes were saved"
    );
    Ok(())
}
