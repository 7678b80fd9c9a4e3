//! The database goes away, and comes back.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use scene::{claiming, cluster, committing, granted, open, refreshed};
use tokenward::{
    refresh::ledger::{ClaimReply, CommitReply},
    store::Store,
};
use tokenward_store_postgres::PostgresStore;
use tokenward_testkit::postgres::Proxy;
use tokio::task::JoinSet;

/// What an owner was told.
#[derive(Debug, Default)]
struct Told {
    /// Versions that it has committed.
    committed: Vec<u64>,
    /// Versions that it committed without an answer, if nobody else did: when it asked again,
    /// others had gone on.
    unsure: Vec<u64>,
}

/// Refreshes without end, whatever the store says, as a fleet of replicas would.
async fn refresh_until(store: Arc<PostgresStore>, owner: String, stop: Arc<AtomicBool>) -> Told {
    let (mut seen, mut told) = (1, Told::default());
    while !stop.load(Ordering::Relaxed) {
        let Ok(claimed) = store.claim(claiming("g", seen, &owner)).await else {
            continue;
        };
        match claimed.value {
            ClaimReply::Claimed(row) => {
                // What was granted is committed, however often it takes.
                let reply = loop {
                    match store.commit(committing(&row)).await {
                        Ok(reply) => break reply.value,
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                };
                seen = match reply {
                    CommitReply::Committed { row: done, .. } => {
                        told.committed.push(row.version + 1);
                        done.version
                    }
                    CommitReply::Superseded(newer) => {
                        told.unsure.push(row.version + 1);
                        newer.version
                    }
                    other => panic!("unexpected: {other:?}"),
                };
            }
            ClaimReply::Newer(row) => seen = row.version,
            ClaimReply::Held(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            other => panic!("unexpected: {other:?}"),
        }
    }
    told
}

/// Every version was committed by one owner, and all that was told is there.
async fn judge(store: &PostgresStore, told: Vec<Told>) {
    let row = store.grant(&"g".into()).await.unwrap().value.unwrap();
    let mut owners = BTreeMap::<u64, (usize, usize)>::new();
    for owner in &told {
        for version in &owner.committed {
            owners.entry(*version).or_default().0 += 1;
        }
        for version in &owner.unsure {
            owners.entry(*version).or_default().1 += 1;
        }
    }
    for version in 2..=row.version {
        let (sure, unsure) = owners.remove(&version).unwrap_or_default();
        assert_eq!(sure + unsure, 1, "version {version}: {told:?}");
    }
    assert!(owners.is_empty(), "told, and not there: {owners:?}");
    assert_eq!(row.sealed, format!("v{}", row.version).into_bytes());
    // One claim for each version: nobody sent in vain.
    assert_eq!((row.epoch, row.claim), (row.version - 1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_is_committed_once_while_connections_are_cut() {
    let cluster = cluster(&[]);
    let proxy = Proxy::start(&cluster.socket()).await.unwrap();
    let url = cluster.url_at(proxy.address());
    granted(&open(&url).await, "g").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut replicas = JoinSet::new();
    for number in 0..3 {
        let store = Arc::new(open(&url).await);
        replicas.spawn(refresh_until(store, format!("p{number}"), stop.clone()));
    }
    for round in 0..40 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if round % 5 == 4 {
            proxy.close();
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.mend();
        } else {
            proxy.cut();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let told = replicas.join_all().await;
    judge(&open(&url).await, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_is_committed_once_while_the_database_is_killed() {
    let mut cluster = cluster(&[]);
    let url = cluster.url();
    granted(&open(&url).await, "g").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut replicas = JoinSet::new();
    for number in 0..3 {
        let store = Arc::new(open(&url).await);
        replicas.spawn(refresh_until(store, format!("p{number}"), stop.clone()));
    }
    let cluster = tokio::task::spawn_blocking(move || {
        for round in 0..4 {
            std::thread::sleep(Duration::from_millis(300));
            if round % 2 == 0 {
                cluster.kill().unwrap();
            } else {
                cluster.stop().unwrap();
            }
            cluster.resume().unwrap();
        }
        cluster
    })
    .await
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    let told = replicas.join_all().await;
    judge(&open(&cluster.url()).await, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_is_an_error_and_then_forgotten() {
    let cluster = cluster(&[]);
    let proxy = Proxy::start(&cluster.socket()).await.unwrap();
    let store = open(&cluster.url_at(proxy.address())).await;
    granted(&store, "g").await;
    proxy.swallow();
    let error = store.grant(&"g".into()).await.expect_err("nobody answers");
    assert!(error.to_string().contains("PostgreSQL"), "{error}");
    proxy.mend();
    assert_eq!(refreshed(&store, "g", 1).await, 2);
}

/// A database that is not there at the start is waited for, but not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_waited_for() {
    let mut cluster = cluster(&[]);
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    cluster.stop().unwrap();
    let resumed = tokio::task::spawn_blocking(move || {
        cluster.resume().unwrap();
        cluster
    });
    assert_eq!(refreshed(&store, "g", 1).await, 2);
    drop(resumed.await.unwrap());
}
