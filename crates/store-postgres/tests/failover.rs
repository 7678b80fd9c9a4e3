//! The primary dies, its synchronous standby takes over: nothing that was told is lost.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use scene::{
    cluster, granted, open,
    owners::{Told, judge, refresh_until},
    refreshed,
};
use tokenward::{
    store::Store,
    time::{Clock, TokioClock},
};
use tokenward_testkit::{Signal, postgres::PostgresCluster, signal};
use tokio::task::JoinSet;

const GRANTS: usize = 8;
const REPLICAS: usize = 3;

/// A primary that confirms a commit when its standby has it, too.
fn pair() -> (PostgresCluster, PostgresCluster) {
    let primary = cluster(&[]);
    let standby = primary.standby(&["fsync=off"]).unwrap();
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ] {
        primary.sql("postgres", sql).unwrap();
    }
    let state = "SELECT sync_state FROM pg_stat_replication";
    while primary.sql("postgres", state).unwrap() != "sync" {
        std::thread::sleep(Duration::from_millis(20));
    }
    (primary, standby)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_no_token() {
    let (mut primary, standby) = tokio::task::spawn_blocking(pair).await.unwrap();
    let url = primary.url_with(&standby);
    let store = open(&url).await;
    for grant in 0..GRANTS {
        granted(&store, &format!("g{grant}")).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut replicas: Vec<JoinSet<Told>> = (0..GRANTS).map(|_| JoinSet::new()).collect();
    for number in 0..REPLICAS {
        let store = Arc::new(open(&url).await);
        for (grant, owners) in replicas.iter_mut().enumerate() {
            let (grant, owner) = (format!("g{grant}"), format!("p{number}"));
            owners.spawn(refresh_until(store.clone(), grant, owner, stop.clone()));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let clock = TokioClock::default();
    let standby = tokio::task::spawn_blocking(move || {
        primary.kill().unwrap();
        standby.promote().unwrap();
        standby
    })
    .await
    .unwrap();
    let died = clock.now();
    // A grant is refreshed again: the replicas have found the new primary.
    let before = version(&store).await;
    while version(&store).await == before {}
    println!(
        "refreshing again {:?} after the promotion",
        died.until(clock.now())
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for (grant, owners) in replicas.into_iter().enumerate() {
        let told = owners.join_all().await;
        let commits: usize = told.iter().map(|told| told.committed.len()).sum();
        assert!(commits > 0);
        println!("g{grant}: {commits} commits told, all there");
        judge(&store, &format!("g{grant}"), told).await;
    }
    drop(standby);
}

/// Why the standby must be synchronous: what an asynchronous one has not received when the primary
/// dies is gone, although it was confirmed. Its provider has rotated the tokens.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_standby_forgets_confirmed_tokens() {
    let mut primary = cluster(&[]);
    let standby = primary.standby(&["fsync=off"]).unwrap();
    let url = primary.url_with(&standby);
    let store = open(&url).await;
    granted(&store, "g0").await;
    let received =
        "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()";
    while primary.sql("postgres", received).unwrap() != "1" {}
    let sender = primary
        .sql("postgres", "SELECT pid FROM pg_stat_replication")
        .unwrap();
    let sender: u32 = sender.parse().unwrap();
    // A network that is slow for a moment.
    signal(sender, Signal::STOP).unwrap();
    let mut confirmed = 1;
    for _ in 0..5 {
        confirmed = refreshed(&store, "g0", confirmed).await;
    }
    primary.kill().unwrap();
    signal(sender, Signal::KILL).unwrap();
    standby.promote().unwrap();
    assert_eq!((confirmed, version(&store).await), (6, 1));
}

async fn version(store: &dyn Store) -> u64 {
    let row = store.grant(&"g0".into()).await.unwrap().value;
    row.unwrap().version
}
