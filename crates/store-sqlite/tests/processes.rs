//! Real processes on one file. Each is this test binary again, with one ignored test as `main`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokenward::{
    id::ConnectionKey,
    refresh::{
        ledger::{ClaimReply, ClaimRequest, CommitReply, CommitRequest, FreshGrant, Need},
        replay::ReplayPolicy,
    },
    store::{Authorize, Authorized, ConnectionPatch, prelude::*},
    time::StoreTime,
};
use tokenward_store_sqlite::SqliteStore;

const HOUR: Duration = Duration::from_secs(3600);

fn spawn(vault: &Path, last: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "refresher", "--nocapture"])
        .env("TOKENWARD_TEST_VAULT", vault)
        .env("TOKENWARD_TEST_LAST", last.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The versions that the process was told to be committed.
fn versions(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("committed ")?.parse().ok())
}

#[tokio::test]
#[ignore = "a process of the other tests"]
async fn refresher() {
    let (Ok(vault), Ok(last)) = (
        env::var("TOKENWARD_TEST_VAULT"),
        env::var("TOKENWARD_TEST_LAST"),
    ) else {
        return;
    };
    let last: u64 = last.parse().unwrap();
    let store = SqliteStore::open(Path::new(&vault)).unwrap();
    let mut seen = 1;
    while seen < last {
        let request = ClaimRequest {
            grant: "g".into(),
            seen,
            owner: std::process::id().to_string().into(),
            ttl: HOUR,
            need: Need::Stale,
            policy: ReplayPolicy::Harmless,
            pardoned: None,
        };
        match store.claim(request).await.unwrap().value {
            ClaimReply::Claimed(row) => {
                let request = CommitRequest {
                    grant: "g".into(),
                    base: row.version,
                    epoch: row.epoch,
                    sent_at: StoreTime(0),
                    sealed: format!("v{}", row.version + 1).into_bytes(),
                    lifetime: None,
                    keep_alive: None,
                    fingerprint: None,
                };
                let CommitReply::Committed { row, .. } = store.commit(request).await.unwrap().value
                else {
                    panic!("nobody else may commit under our claim");
                };
                // One write each, so that a kill does not cut a line in two.
                std::io::stdout()
                    .write_all(format!("\ncommitted {}\n", row.version).as_bytes())
                    .unwrap();
                seen = row.version;
            }
            ClaimReply::Newer(row) => seen = row.version,
            ClaimReply::Held(_) => tokio::task::yield_now().await,
            other => panic!("unexpected: {other:?}"),
        }
    }
}

async fn vault(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path).unwrap();
    let request = Authorize {
        connection: ConnectionKey::new("acme", "c", "accounting", "books"),
        grant: "g".into(),
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
    assert!(matches!(
        store.authorize(request).await.unwrap().value,
        Authorized::Done(..)
    ));
    store
}

#[tokio::test]
async fn three_processes_commit_each_version_once() {
    const LAST: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let store = vault(&path).await;
    let mut children: Vec<_> = (0..3).map(|_| spawn(&path, LAST)).collect();
    let mut committed = BTreeSet::new();
    for child in &mut children {
        for version in versions(child) {
            assert!(
                committed.insert(version),
                "version {version} was committed twice"
            );
        }
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(committed, (2..=LAST).collect());
    let row = store.grant(&"g".into()).await.unwrap().value.unwrap();
    assert_eq!((row.version, row.epoch), (LAST, LAST - 1));
}

#[tokio::test]
async fn what_a_killed_process_was_told_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    drop(vault(&path).await);
    let mut child = spawn(&path, u64::MAX);
    let mut told = versions(&mut child);
    let mut last = 0;
    while last < 40 {
        last = told.next().expect("the child goes on until it is killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    last = told.last().unwrap_or(last);

    let store = SqliteStore::open(&path).unwrap();
    let row = store.grant(&"g".into()).await.unwrap().value.unwrap();
    assert!(
        last <= row.version && row.version <= last + 1,
        "told {last}, there is {}",
        row.version
    );
    assert_eq!(row.sealed, format!("v{}", row.version).into_bytes());
}
