//! A cluster for each test, copied from one that is made once, and short forms of the verbs.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test file uses its part; helpers of tests are tests"
)]

pub(crate) mod owners;

use std::{path::Path, time::Duration};

use tokenward::{
    id::ConnectionKey,
    refresh::{
        ledger::{
            ClaimReply, ClaimRequest, CommitReply, CommitRequest, FreshGrant, GrantRow, Need,
        },
        replay::ReplayPolicy,
    },
    store::{Authorize, Authorized, ConnectionPatch, Store},
    time::StoreTime,
};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn cluster(settings: &[&str]) -> PostgresCluster {
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres-template");
    // The machine does not fail in a test: no need to wait for its disk.
    let settings = [&["fsync=off"], settings].concat();
    PostgresCluster::start_with(&settings, Some(&template)).expect("a PostgreSQL cluster")
}

pub(crate) async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(PostgresOptions::parse(url).unwrap())
        .await
        .unwrap()
}

pub(crate) fn key(consumer: &str) -> ConnectionKey {
    ConnectionKey::new("acme", consumer, "accounting", "books")
}

pub(crate) async fn granted(store: &dyn Store, grant: &str) -> GrantRow {
    let request = Authorize {
        connection: key(grant),
        grant: grant.into(),
        expected: 0,
        fresh: FreshGrant {
            counted_from: None,
            sealed: b"v1".to_vec(),
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
    match store.authorize(request).await.unwrap().value {
        Authorized::Done(_, row) => *row,
        Authorized::Conflict(why) => panic!("the authorization conflicts: {why:?}"),
    }
}

pub(crate) fn claiming(grant: &str, seen: u64, owner: &str) -> ClaimRequest {
    ClaimRequest {
        grant: grant.into(),
        seen,
        owner: owner.into(),
        ttl: HOUR,
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
        pardoned: None,
    }
}

pub(crate) fn committing(row: &GrantRow) -> CommitRequest {
    CommitRequest {
        grant: row.id.clone(),
        base: row.version,
        epoch: row.epoch,
        sent_at: StoreTime(1_800_000_000_000),
        sealed: format!("v{}", row.version + 1).into_bytes(),
        lifetime: Some(HOUR),
        keep_alive: Some(HOUR * 24),
        fingerprint: None,
    }
}

/// One refresh as a process would do it. Gives the new version.
pub(crate) async fn refreshed(store: &dyn Store, grant: &str, seen: u64) -> u64 {
    let claimed = store.claim(claiming(grant, seen, "p")).await.unwrap().value;
    let ClaimReply::Claimed(row) = claimed else {
        panic!("unexpected: {claimed:?}");
    };
    let committed = store.commit(committing(&row)).await.unwrap().value;
    let CommitReply::Committed { row, .. } = committed else {
        panic!("unexpected: {committed:?}");
    };
    row.version
}
