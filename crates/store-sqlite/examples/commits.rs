//! Durable refreshes (claim and commit) a second, for callers one by one and together.
//!
//! `cargo run --release -p tokenward-store-sqlite --example commits [folder]`

use std::{
    env,
    error::Error,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokenward::{
    id::ConnectionKey,
    refresh::{
        ledger::{ClaimReply, ClaimRequest, CommitRequest, FreshGrant, Need},
        replay::ReplayPolicy,
    },
    store::{Authorize, ConnectionPatch, prelude::*},
    time::StoreTime,
};
use tokenward_store_sqlite::SqliteStore;
use tokio::task::JoinSet;

const SEALED: usize = 2048;
const TIME: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .map_or_else(env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;
    let store = Arc::new(SqliteStore::open(&folder.path().join("vault.db"))?);
    for callers in [1_usize, 64] {
        let (writes, elapsed) = run(&store, callers).await;
        println!(
            "{callers:>3} callers: {:>7.0} durable verbs/s (claim, commit)",
            writes as f64 / elapsed
        );
    }
    let (reads, elapsed) = read(&store).await;
    println!("  1 reader:  {:>7.0} grants/s", reads as f64 / elapsed);
    Ok(())
}

async fn run(store: &Arc<SqliteStore>, callers: usize) -> (u64, f64) {
    let clock = clock();
    let mut tasks = JoinSet::new();
    for number in 0..callers {
        let store = store.clone();
        let grant = format!("grant {number} of {callers}");
        tasks.spawn(async move {
            authorize(&store, &grant).await;
            let (mut version, mut writes) = (1, 1);
            while clock() < TIME.as_secs_f64() {
                refresh(&store, &grant, version).await;
                version += 1;
                writes += 2;
            }
            writes
        });
    }
    (tasks.join_all().await.into_iter().sum(), clock())
}

async fn read(store: &SqliteStore) -> (u64, f64) {
    let (clock, id) = (clock(), "grant 0 of 1".into());
    let mut reads = 0;
    while clock() < TIME.as_secs_f64() {
        store.grant(&id).await.expect("read");
        reads += 1;
    }
    (reads, clock())
}

async fn authorize(store: &SqliteStore, grant: &str) {
    let request = Authorize {
        connection: ConnectionKey::new("acme", grant, "accounting", "books"),
        grant: grant.into(),
        expected: 0,
        fresh: FreshGrant {
            counted_from: None,
            sealed: vec![1; SEALED],
            expires_in: None,
            lifetime: None,
            keep_alive: None,
            fingerprint: None,
            consent: None,
        },
        patch: ConnectionPatch::default(),
        held: None,
        account: tokenward::authorize::Account::Any,
        attempt: None,
    };
    store.authorize(request).await.expect("authorize");
}

async fn refresh(store: &SqliteStore, grant: &str, version: u64) {
    let request = ClaimRequest {
        grant: grant.into(),
        seen: version,
        owner: grant.into(),
        ttl: Duration::from_secs(20),
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
        pardoned: None,
    };
    let claim = store.claim(request).await.expect("claim").value;
    let ClaimReply::Claimed(row) = claim else {
        panic!("nobody else claims {grant}: {claim:?}")
    };
    let request = CommitRequest {
        grant: row.id,
        base: version,
        epoch: row.epoch,
        sent_at: StoreTime(0),
        sealed: vec![2; SEALED],
        lifetime: None,
        keep_alive: None,
        fingerprint: Some([3; 32]),
    };
    store.commit(request).await.expect("commit");
}

/// Seconds since the call.
#[expect(
    clippy::disallowed_methods,
    reason = "a stopwatch for people, outside the library"
)]
fn clock() -> impl Fn() -> f64 + Copy {
    let start = SystemTime::now();
    move || start.elapsed().unwrap_or_default().as_secs_f64()
}
