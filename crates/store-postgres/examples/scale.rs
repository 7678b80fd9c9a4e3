//! What a refresh and a cold read cost, and that it does not grow with the vault.
//!
//! ```text
//! cargo run --release -p tokenward-store-postgres --example scale -- 10000 100000 1000000
//! ```
//!
//! For each number of grants: a private cluster is filled, then one replica and three replicas
//! refresh (claim and commit, a provider that answers at once) and read (a connection and its
//! grant) random grants, from 32 tasks each. `TOKENWARD_PG_FOLDER` names a folder on the disk to
//! be measured; without it the cluster is in memory and no flush costs anything.

use std::{sync::Arc, time::Duration};

use tokenward::{
    id::{ConnectionKey, GrantId},
    refresh::{
        ledger::{ClaimReply, ClaimRequest, CommitReply, CommitRequest, Need},
        replay::ReplayPolicy,
    },
    store::Store,
    time::{Chance as _, Clock as _, SeededChance, StoreTime, TokioClock},
};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TASKS: usize = 32;
const LONG: Duration = Duration::from_secs(5);

fn fill(grants: u64) -> String {
    format!(
        "INSERT INTO tokenward.grants (id, application, connector, version, authorized_version,
            sealed, expires_at, keep_alive_at, keep_alive_day, fingerprint, epoch, committed_epoch,
            revision)
         SELECT 'g' || n, 'acme', 'books', 1, 1, decode(repeat(md5(n::text), 40), 'hex'), n,
            (today + n % 60) * 86400000, today + n % 60,
            decode(md5(n::text) || md5('t' || n), 'hex'), 0, 0, 1
         FROM generate_series(0, {grants} - 1) AS n,
            (SELECT floor(extract(epoch from now()) / 86400)::bigint AS today) AS clock;
         INSERT INTO tokenward.connections
         SELECT 'acme', 'c' || n, 'accounting', 'books', 'g' || n, true, '{{}}', '{{}}', 0, 0
         FROM generate_series(0, {grants} - 1) AS n"
    )
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let sizes: Vec<u64> = std::env::args()
        .skip(1)
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    println!("   GRANTS  REPLICAS  REFRESHES/S  COLD READS/S");
    for grants in sizes {
        let cluster =
            PostgresCluster::start_with(&["shared_buffers=1GB", "max_wal_size=4GB"], None)?;
        drop(open(&cluster).await?);
        cluster.sql("vault", &fill(grants))?;
        cluster.sql("vault", "VACUUM ANALYZE")?;
        cluster.sql("vault", "CHECKPOINT")?;
        for replicas in [1, 3] {
            let mut stores = Vec::new();
            for _ in 0..replicas {
                stores.push(Arc::new(open(&cluster).await?));
            }
            let refreshes = measure(&stores, grants, true).await?;
            let reads = measure(&stores, grants, false).await?;
            println!("{grants:>9}  {replicas:>8}  {refreshes:>11.0}  {reads:>12.0}");
        }
    }
    Ok(())
}

async fn open(cluster: &PostgresCluster) -> Result<PostgresStore, Failure> {
    Ok(PostgresStore::open(PostgresOptions::parse(&cluster.url())?).await?)
}

/// How often in a second.
async fn measure(stores: &[Arc<PostgresStore>], grants: u64, write: bool) -> Result<f64, Failure> {
    let mut tasks = JoinSet::new();
    for (number, store) in stores.iter().enumerate() {
        for task in 0..TASKS {
            let chance = SeededChance::new((number * TASKS + task) as u64);
            tasks.spawn(work(store.clone(), grants, write, chance));
        }
    }
    let mut done = 0;
    while let Some(count) = tasks.join_next().await {
        done += count??;
    }
    Ok(done as f64 / LONG.as_secs_f64())
}

async fn work(
    store: Arc<PostgresStore>,
    grants: u64,
    write: bool,
    chance: SeededChance,
) -> Result<u64, Failure> {
    let clock = TokioClock::default();
    let end = clock.now() + LONG;
    let mut done = 0;
    while clock.now() < end {
        let number = (chance.fraction() * grants as f64) as u64;
        if write {
            done += u64::from(refresh(&store, &format!("g{number}")).await?);
        } else {
            let key = ConnectionKey::new("acme", format!("c{number}"), "accounting", "books");
            if let Some(grant) = store.connection(&key).await?.and_then(|one| one.grant) {
                done += u64::from(store.grant(&grant).await?.value.is_some());
            }
        }
    }
    Ok(done)
}

/// `false`: another task was at it.
async fn refresh(store: &PostgresStore, grant: &str) -> Result<bool, Failure> {
    let grant = GrantId::from(grant);
    let request = ClaimRequest {
        grant: grant.clone(),
        seen: u64::MAX,
        owner: owner().into(),
        ttl: Duration::from_secs(20),
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
    };
    let claimed = store.claim(request).await?;
    let ClaimReply::Claimed(row) = claimed.value else {
        return Ok(false);
    };
    let mut fingerprint = [0; 32];
    fingerprint[..16]
        .copy_from_slice(&(u128::from(row.version) << 64 | u128::from(row.epoch)).to_le_bytes());
    let sealed = row.sealed;
    fingerprint[16..].copy_from_slice(&sealed[..16]);
    let request = CommitRequest {
        grant,
        base: row.version,
        epoch: row.epoch,
        sent_at: StoreTime(claimed.at.0),
        sealed,
        lifetime: Some(Duration::from_secs(3600)),
        keep_alive: Some(Duration::from_secs(30 * 86_400)),
        fingerprint: Some(fingerprint),
    };
    let committed = store.commit(request).await?.value;
    Ok(matches!(committed, CommitReply::Committed { .. }))
}

/// Flights have names of their own.
fn owner() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}/{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
