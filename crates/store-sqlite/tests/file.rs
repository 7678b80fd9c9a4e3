//! One file and its threads: isolation inside a group, callers that leave, rows that make no
//! sense, the end of the feed.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{path::PathBuf, time::Duration};

use futures_util::{FutureExt, future::join_all};
use rusqlite::Connection;
use tempfile::TempDir;
use tokenward::{
    id::ConnectionKey,
    refresh::{
        ledger::{ClaimReply, ClaimRequest, FreshGrant, Need},
        replay::ReplayPolicy,
    },
    store::{Authorize, Authorized, Change, ConnectionPatch, Gap, prelude::*},
};
use tokenward_store_sqlite::SqliteStore;

const HOUR: Duration = Duration::from_secs(3600);

struct File {
    _folder: TempDir,
    path: PathBuf,
    store: SqliteStore,
}

fn file() -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let store = SqliteStore::open(&path).unwrap();
    File {
        _folder: folder,
        path,
        store,
    }
}

impl File {
    /// Another connection, as `sqlite3` would have it.
    fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    fn again(&self) -> SqliteStore {
        SqliteStore::open(&self.path).unwrap()
    }
}

fn key(application: &str, consumer: &str) -> ConnectionKey {
    ConnectionKey::new(application, consumer, "accounting", "books")
}

async fn save(store: &SqliteStore, key: ConnectionKey) -> bool {
    store
        .save_connection(&key, ConnectionPatch::default())
        .await
        .is_ok()
}

async fn grant(store: &SqliteStore, id: &str) {
    let request = Authorize {
        connection: key("acme", id),
        grant: id.into(),
        expected: 0,
        fresh: FreshGrant {
            counted_from: None,
            sealed: b"v1".to_vec(),
            expires_in: Some(HOUR),
            lifetime: Some(HOUR),
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
}

async fn claim(store: &SqliteStore, id: &str, owner: &str) -> ClaimReply {
    let request = ClaimRequest {
        grant: id.into(),
        seen: 1,
        owner: owner.into(),
        ttl: HOUR,
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
        pardoned: None,
    };
    store.claim(request).await.unwrap().value
}

#[tokio::test]
async fn two_handles_are_two_processes() {
    let file = file();
    let (one, two) = (&file.store, &file.again());
    let position = two.changes(None).await.unwrap().next;
    grant(one, "g").await;
    assert!(matches!(claim(one, "g", "p").await, ClaimReply::Claimed(_)));
    assert!(matches!(claim(two, "g", "q").await, ClaimReply::Held(_)));
    assert_eq!(
        one.grant(&"g".into()).await.unwrap().value,
        two.grant(&"g".into()).await.unwrap().value
    );
    let changes = two.changes(Some(position)).await.unwrap();
    assert_eq!(
        changes.changes,
        [
            Change::Grant("g".into(), 1),
            Change::Connection(key("acme", "g"))
        ]
    );

    // Each reads what the other has just written, every time.
    for number in 0..50_u8 {
        let (writer, reader) = if number % 2 == 0 {
            (one, two)
        } else {
            (two, one)
        };
        let settings = serde_json::json!({ "n": number }).as_object().cloned();
        let patch = ConnectionPatch {
            settings,
            ..ConnectionPatch::default()
        };
        let saved = writer
            .save_connection(&key("acme", "g"), patch)
            .await
            .unwrap();
        assert_eq!(
            reader.connection(&key("acme", "g")).await.unwrap(),
            Some(saved)
        );
    }
}

/// Holds the write lock until these have queued up behind a first one, so that they end up in
/// one group: the writer has taken the first one, and waits for the lock with it.
async fn in_one_group(file: &File, applications: &[&str]) -> Vec<bool> {
    const PAUSE: Duration = Duration::from_millis(100);
    let raw = file.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let group = async {
        tokio::time::sleep(PAUSE).await;
        join_all(
            applications
                .iter()
                .map(|application| save(&file.store, key(application, "c"))),
        )
        .await
    };
    let release = async {
        tokio::time::sleep(PAUSE * 2).await;
        raw.execute_batch("COMMIT").unwrap();
    };
    let (first, group, ()) = tokio::join!(save(&file.store, key("first", "c")), group, release);
    assert!(first);
    group
}

#[tokio::test]
async fn a_verb_that_fails_does_not_spoil_its_group() {
    let file = file();
    // It fails at its second statement: the first one must be taken back.
    file.raw()
        .execute_batch(
            "CREATE TRIGGER boom BEFORE INSERT ON changes WHEN new.a = 'bad'
             BEGIN SELECT RAISE(ABORT, 'boom'); END",
        )
        .unwrap();
    let done = in_one_group(&file, &["one", "bad", "two", "bad", "three"]).await;
    assert_eq!(done, [true, false, true, false, true]);
    for (application, connections) in [("one", 1), ("bad", 0), ("two", 1), ("three", 1)] {
        let found = file
            .store
            .connections(&application.into(), None)
            .await
            .unwrap();
        assert_eq!(found.len(), connections, "{application}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_lost_is_lost_for_all_and_everybody_is_told() {
    let file = file();
    file.raw()
        .execute_batch(
            "CREATE TRIGGER boom BEFORE INSERT ON changes WHEN new.a = 'bad'
             BEGIN SELECT RAISE(ROLLBACK, 'boom'); END",
        )
        .unwrap();
    let done = in_one_group(&file, &["one", "bad", "two"]).await;
    assert_eq!(done, [false, false, false]);
    assert_eq!(file.store.connection(&key("one", "c")).await.unwrap(), None);
    assert!(
        save(&file.store, key("one", "c")).await,
        "the writer goes on"
    );
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_its_verb_and_readers_do_not_wait() {
    let file = file();
    let raw = file.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let left = save(&file.store, key("acme", "c")).now_or_never();
    assert_eq!(left, None);
    assert_eq!(
        file.store.connection(&key("acme", "c")).await.unwrap(),
        None
    );
    raw.execute_batch("COMMIT").unwrap();
    // Verbs are done in the order in which they were asked for.
    assert!(save(&file.store, key("acme", "d")).await);
    assert!(
        file.store
            .connection(&key("acme", "c"))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn what_is_queued_is_written_when_the_store_is_dropped() {
    let file = file();
    let other = file.again();
    let raw = file.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(save(&other, key("acme", "c")).now_or_never(), None);
    drop(other);
    raw.execute_batch("COMMIT").unwrap();
    while file
        .store
        .connection(&key("acme", "c"))
        .await
        .unwrap()
        .is_none()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named() {
    let file = file();
    let store = &file.store;
    grant(store, "g").await;
    store
        .put_client(tokenward::store::OAuthClient {
            application: "acme".into(),
            connector: "books".into(),
            client_id: "id".to_owned(),
            sealed_secret: None,
            settings: Default::default(),
            scopes: Vec::new(),
        })
        .await
        .unwrap();
    let raw = file.raw();
    let spoil = |sql: &str| {
        raw.execute_batch("PRAGMA ignore_check_constraints = ON")
            .unwrap();
        raw.execute_batch(sql).unwrap();
    };
    let wrong = [
        ("UPDATE grants SET version = -1", "grants.version of row g"),
        (
            "UPDATE grants SET version = 1, attempt = '{\"x\": \"secret\"}'",
            "grants.attempt of row g",
        ),
        (
            "UPDATE grants SET attempt = '{\"sends\":0,\"first_at\":1,\"last_at\":1,\"in_flight\":true,\"lost\":null}'",
            "grants.attempt of row g",
        ),
        (
            "UPDATE grants SET attempt = NULL, trouble = '{'",
            "grants.trouble of row g",
        ),
        (
            "UPDATE grants SET trouble = NULL, fingerprint = x'00'",
            "grants.fingerprint of row g",
        ),
        (
            "UPDATE grants SET fingerprint = NULL, dead_at = 1",
            "grants.dead_reason of row g",
        ),
        (
            "UPDATE grants SET dead_at = NULL, claim_epoch = 1",
            "grants.claim_until of row g",
        ),
    ];
    for (sql, name) in wrong {
        spoil(sql);
        let error = store.grant(&"g".into()).await.expect_err(sql).to_string();
        assert!(
            error.contains(name) && !error.contains("secret"),
            "{sql}: {error}"
        );
        let request = ClaimRequest {
            grant: "g".into(),
            seen: 1,
            owner: "p".into(),
            ttl: HOUR,
            need: Need::Stale,
            policy: ReplayPolicy::Harmless,
            pardoned: None,
        };
        store.claim(request).await.expect_err(sql);
    }
    spoil("UPDATE connections SET settings = '[]'");
    let error = store
        .connections(&"acme".into(), None)
        .await
        .expect_err("settings")
        .to_string();
    assert!(
        error.contains("connections.settings of row acme/g/accounting/books"),
        "{error}"
    );
    spoil("UPDATE clients SET scopes = '{}'");
    let error = store
        .clients(&"acme".into())
        .await
        .expect_err("scopes")
        .to_string();
    assert!(
        error.contains("clients.scopes of row acme/books"),
        "{error}"
    );

    // The file itself refuses such rows from anybody who does not insist.
    raw.execute_batch("PRAGMA ignore_check_constraints = OFF")
        .unwrap();
    raw.execute_batch("UPDATE grants SET version = -1")
        .expect_err("a check");
}

#[expect(clippy::unnecessary_wraps, reason = "as it is compared")]
fn gap(from: u64, to: u64) -> Option<Gap> {
    Some(Gap { from, to })
}

#[tokio::test]
async fn the_feed_pages_and_names_its_gaps() {
    let file = file();
    save(&file.store, key("acme", "c")).await;
    file.raw()
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
             INSERT INTO changes (kind, a, b) SELECT 'grant', i, '1' FROM n",
        )
        .unwrap();
    let mut next = 1;
    let mut read = 0;
    loop {
        let page = file.store.changes(Some(next)).await.unwrap();
        assert!(page.gap.is_none() && page.changes.len() <= 1000);
        if page.changes.is_empty() {
            break;
        }
        read += page.changes.len() as u64;
        next = page.next;
    }
    assert_eq!((next, read), (12_000, 11_999));

    // A new handle's first write prunes.
    let store = file.again();
    save(&store, key("acme", "c")).await;
    let kept: i64 = file
        .raw()
        .query_row("SELECT count(*) FROM changes", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 10_001);
    let old = store.changes(Some(5)).await.unwrap();
    assert_eq!(
        (old.gap, old.next, old.changes.len()),
        (gap(6, 12_001), 12_001, 0)
    );
    let edge = store.changes(Some(2_000)).await.unwrap();
    assert_eq!((edge.gap, edge.changes.len()), (None, 1000));
    let gone = store.changes(Some(1_999)).await.unwrap();
    assert_eq!(gone.gap, gap(2_000, 12_001));
    // A position that this file has never had: it was put back from a backup.
    let future = store.changes(Some(50_000)).await.unwrap();
    assert_eq!((future.gap, future.next), (gap(0, 12_001), 12_001));
    // One row that makes no sense is one row.
    file.raw()
        .execute_batch("UPDATE changes SET b = 'x' WHERE seq = 12000")
        .unwrap();
    let damaged = store.changes(Some(11_998)).await.unwrap();
    assert_eq!((damaged.gap, damaged.next), (gap(12_000, 12_000), 12_001));
    assert_eq!(damaged.changes.len(), 2);
}
