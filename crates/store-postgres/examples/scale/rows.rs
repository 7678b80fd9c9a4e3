//! The store alone: claims and commits, and reads of a connection and its grant.

use std::{sync::Arc, time::Duration};

use tokenward::{
    id::{ConnectionKey, GrantId},
    refresh::{
        ledger::{ClaimReply, ClaimRequest, CommitReply, CommitRequest, Need},
        replay::ReplayPolicy,
    },
    store::prelude::*,
    time::{Chance as _, Clock as _, SeededChance, StoreTime, TokioClock},
};
use tokenward_store_postgres::PostgresStore;
use tokio::task::JoinSet;

use crate::{
    Failure, TASKS,
    world::{APP, CONNECTOR, Size, World, consumer, grant},
};

/// Refreshes and reads a second, by so many replicas. What is sealed in the rows does not open
/// afterwards.
pub(crate) async fn measure(world: &World, replicas: usize) -> Result<(f64, f64), Failure> {
    let mut stores = Vec::new();
    for _ in 0..replicas {
        stores.push(Arc::new(world.store().await?));
    }
    let refreshes = run(world, &stores, true).await?;
    let reads = run(world, &stores, false).await?;
    Ok((refreshes, reads))
}

async fn run(world: &World, stores: &[Arc<PostgresStore>], write: bool) -> Result<f64, Failure> {
    let mut tasks = JoinSet::new();
    for (number, store) in stores.iter().enumerate() {
        for task in 0..TASKS {
            let chance = SeededChance::new((number * TASKS + task) as u64);
            tasks.spawn(work(store.clone(), *world.size(), write, chance));
        }
    }
    let mut done = 0;
    while let Some(count) = tasks.join_next().await {
        done += count??;
    }
    Ok(done as f64 / world.size().seconds.as_secs_f64())
}

async fn work(
    store: Arc<PostgresStore>,
    size: Size,
    write: bool,
    chance: SeededChance,
) -> Result<u64, Failure> {
    let clock = TokioClock::default();
    let end = clock.now() + size.seconds;
    let mut done = 0;
    while clock.now() < end {
        let number = (chance.fraction() * size.grants as f64) as u64;
        if write {
            done += u64::from(refresh(&store, grant(number)).await?);
        } else {
            let key = ConnectionKey::new(APP, consumer(number), "accounting", CONNECTOR);
            if let Some(grant) = store.connection(&key).await?.and_then(|one| one.grant) {
                done += u64::from(store.grant(&grant).await?.value.is_some());
            }
        }
    }
    Ok(done)
}

/// `false`: another task was at it.
async fn refresh(store: &PostgresStore, grant: GrantId) -> Result<bool, Failure> {
    let request = ClaimRequest {
        grant: grant.clone(),
        seen: u64::MAX,
        owner: owner().into(),
        ttl: Duration::from_secs(20),
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
        pardoned: None,
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
