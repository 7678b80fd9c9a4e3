//! The database goes away, and comes back.

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
    owners::{judge, refresh_until},
    refreshed,
};
use tokenward::store::{Change, prelude::*};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::Proxy;
use tokio::{task::JoinSet, time::timeout};

/// How long something that is sure to happen may take on a slow machine.
const LONG: Duration = Duration::from_secs(60);

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
        replicas.spawn(refresh_until(
            store,
            "g".to_owned(),
            format!("p{number}"),
            stop.clone(),
        ));
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
    judge(&open(&url).await, "g", told).await;
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
        replicas.spawn(refresh_until(
            store,
            "g".to_owned(),
            format!("p{number}"),
            stop.clone(),
        ));
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
    judge(&open(&cluster.url()).await, "g", told).await;
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

/// While nobody can listen, the poll tells; and announcements are heard again when the wire is
/// mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_listener_is_polled_for_and_comes_back() {
    let cluster = cluster(&[]);
    let proxy = Proxy::start(&cluster.socket()).await.unwrap();
    let options = PostgresOptions::parse(&cluster.url())
        .unwrap()
        .listening_at(&cluster.url_at(proxy.address()))
        .unwrap();
    let listener = PostgresStore::open(options).await.unwrap();
    let other = open(&cluster.url()).await;
    granted(&other, "g").await;
    let mut since = listener.changes(None).await.unwrap().next;
    proxy.close();
    let mut version = refreshed(&other, "g", 1).await;
    let mut told = listener.changes(Some(since)).await.unwrap();
    assert_eq!(told.changes, [Change::Grant("g".into(), version)]);
    proxy.mend();
    timeout(LONG, async {
        // What it heard before it was cut off, and that it listens again.
        for _ in 0..3 {
            loop {
                version = refreshed(&other, "g", version).await;
                if timeout(Duration::from_secs(1), listener.news())
                    .await
                    .is_ok()
                {
                    break;
                }
            }
        }
    })
    .await
    .expect("it listens again");
    since = told.next;
    told = listener.changes(Some(since)).await.unwrap();
    assert!(told.gap.is_none() && told.changes.len() as u64 == version - 2);
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
