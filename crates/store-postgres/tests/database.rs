//! Opening, migrating, what a row may be, and what is left behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::{sync::Arc, time::Duration};

use scene::{HOUR, claiming, cluster, granted, key, open, refreshed};
use tokenward::{
    id::GrantId,
    store::{
        ApplicationSettings, Change, ConnectionPatch, Consumer, Gap, UnreadAnswer, prelude::*,
    },
    time::StoreTime,
};
use tokenward_store_postgres::{OpenError, PostgresOptions, PostgresStore};
use tokenward_testkit::postgres::PostgresCluster;
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

/// How long something that is sure to happen may take on a slow machine.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn many_replicas_may_start_on_a_new_database_at_once() {
    const MANY: usize = 12;
    let cluster = cluster(&[]);
    let start = Arc::new(Barrier::new(MANY));
    let mut replicas = JoinSet::new();
    for number in 0..MANY {
        let (url, start) = (cluster.url(), start.clone());
        replicas.spawn(async move {
            start.wait().await;
            let store = open(&url).await;
            let value = vec![u8::try_from(number).unwrap()];
            store.value_or_insert("key", value).await.unwrap()
        });
    }
    let values = replicas.join_all().await;
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    let versions = cluster.sql("vault", "SELECT version FROM tokenward.schema_version");
    assert_eq!(versions.unwrap(), "3");
}

/// A vault of the first schema is brought to the present one, with all that it holds.
#[tokio::test]
async fn an_older_vault_is_migrated() {
    let cluster = cluster(&[]);
    let first = format!(
        "CREATE SCHEMA tokenward;
         CREATE TABLE tokenward.schema_version (version bigint NOT NULL);
         INSERT INTO tokenward.schema_version (version) VALUES (1);
         {}
         INSERT INTO tokenward.grants (id, application, connector, version, authorized_version,
             sealed, epoch, committed_epoch, revision)
         VALUES ('g', 'acme', 'books', 3, 1, '\\x07', 2, 2, 1);
         INSERT INTO tokenward.applications (id, name, created_at) VALUES ('acme', 'Acme', 5);
         INSERT INTO tokenward.connections VALUES
            ('acme', 'ada', 'crm', 'books', 'g', true, '{{}}', '{{}}', 7, 9),
            ('acme', 'ada', 'hris', 'books', 'g', true, '{{}}', '{{}}', 6, 6),
            ('acme', 'bob', 'crm', 'books', NULL, true, '{{}}', '{{}}', 8, 8);
         INSERT INTO tokenward.api_keys (application, id, digest, hint, created_at)
         VALUES ('acme', 'k', decode(repeat('00', 32), 'hex'), 'tw_', 5)",
        include_str!("../migrations/0001_vault.sql")
    );
    cluster.sql("vault", &first).unwrap();
    for _ in 0..2 {
        let store = open(&cluster.url()).await;
        let row = store.grant(&"g".into()).await.unwrap().value.unwrap();
        assert_eq!((row.version, row.sealed), (3, vec![7]));
        let consumers = store.consumers_after(None, 9).await.unwrap();
        let consumer = |id: &str, at| Consumer::new("acme".into(), id.into(), StoreTime(at));
        assert_eq!(consumers, [consumer("ada", 6), consumer("bob", 8)]);
        let application = store.application(&"acme".into()).await.unwrap().unwrap();
        assert_eq!(application.settings, ApplicationSettings::default());
        let answer = UnreadAnswer {
            grant: "g".into(),
            epoch: 2,
            base: 3,
            at: StoreTime(1),
            sealed: vec![9],
        };
        assert_eq!(store.keep_unread(answer.clone()).await, Ok(true));
        assert_eq!(store.unread(&"g".into()).await, Ok(vec![answer]));
        let key = store.keys(&"acme".into()).await.unwrap().remove(0);
        assert_eq!(key.scopes.to_string(), "proxy vault");
        assert_eq!((key.expires_at, key.last_used_at), (None, None));
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let cluster = cluster(&[]);
    drop(open(&cluster.url()).await);
    let newer = "UPDATE tokenward.schema_version SET version = 99";
    cluster.sql("vault", newer).unwrap();
    let options = PostgresOptions::parse(&cluster.url()).unwrap();
    let error = PostgresStore::open(options).await.expect_err("it is newer");
    assert!(
        matches!(error, OpenError::Newer { schema: 99, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("a newer tokenward (schema 99)"),
        "{error}"
    );
}

#[tokio::test]
async fn an_error_names_the_cause_and_no_secret() {
    let cluster = cluster(&[]);
    let refused = cluster
        .url_of("nowhere")
        .replace("postgres://", "postgres://ann:hunter2@");
    let refused = refused.replacen("@tokenward@", "@", 1);
    for url in [refused.as_str(), "postgres://ann:hunter2@127.0.0.1:1/vault"] {
        let options = PostgresOptions::parse(url).unwrap();
        let error = PostgresStore::open(options).await.expect_err(url);
        let said = format!("{error} {error:?}");
        assert!(said.contains("ann") || said.contains("refused"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// What a caller leaves behind when it goes away in the middle: nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_future_leaves_no_transaction_and_no_lock() {
    let cluster = cluster(&[]);
    let store = Arc::new(open(&cluster.url()).await);
    granted(&*store, "g").await;
    for round in 0..150_u64 {
        let patience = Duration::from_micros(round * 37 % 3_000);
        let verb = async {
            match round % 4 {
                0 => drop(store.claim(claiming("g", 1, "p")).await),
                1 => drop(
                    store
                        .save_connection(&key("d"), ConnectionPatch::default())
                        .await,
                ),
                2 => drop(
                    store
                        .link(&key("e"), &"g".into(), ConnectionPatch::default())
                        .await,
                ),
                _ => drop(store.delete_connection(&key("e")).await),
            }
        };
        let _ = timeout(patience, verb).await;
    }
    // Every row can be locked, and nobody holds a transaction once the last ones have ended.
    let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = 'vault' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
    timeout(LONG, async {
        while cluster.sql("vault", open).unwrap() != "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("transactions end");
    let lock = "SELECT count(*) FROM (SELECT 1 FROM tokenward.grants FOR UPDATE NOWAIT) AS rows";
    assert_eq!(cluster.sql("vault", lock).unwrap(), "1");
    assert!(store.connection(&key("g")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named_and_not_quoted() {
    let cluster = cluster(&[]);
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    for (column, value) in [
        ("attempt", "'{\"x\": \"secret\"}'"),
        (
            "attempt",
            "'{\"sends\":0,\"first_at\":1,\"last_at\":1,\"in_flight\":true,\"lost\":null}'",
        ),
        ("trouble", "'{'"),
        ("dead", "'secret'"),
    ] {
        let spoil = format!("UPDATE tokenward.grants SET {column} = {value}");
        cluster.sql("vault", &spoil).unwrap();
        let error = store.grant(&"g".into()).await.expect_err(value).to_string();
        assert!(
            error.contains(&format!("grants.{column} of row g")),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        store.claim(claiming("g", 1, "p")).await.expect_err(value);
        let mend = format!("UPDATE tokenward.grants SET {column} = NULL");
        cluster.sql("vault", &mend).unwrap();
    }
    cluster
        .sql("vault", "UPDATE tokenward.grants SET version = -1")
        .expect_err("a check of the table");
}

async fn grants_told(store: &PostgresStore, since: &mut u64) -> (Vec<GrantId>, bool) {
    let read = store.changes(Some(*since)).await.unwrap();
    *since = read.next;
    let grants = read.changes.into_iter().filter_map(|change| match change {
        Change::Grant(id, _) => Some(id),
        _ => None,
    });
    (grants.collect(), read.gap.is_some())
}

/// Numbers of the feed are given out before the commit: one that comes late must not be missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_committed_late_is_told() {
    let cluster = Arc::new(cluster(&[]));
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    let mut since = store.changes(None).await.unwrap().next;
    let slow = tokio::task::spawn_blocking({
        let cluster = cluster.clone();
        move || {
            let slow =
                "BEGIN; INSERT INTO tokenward.changes (kind, a, b) VALUES ('grant', 'slow', '1');
                        SELECT pg_sleep(1); COMMIT";
            cluster.sql("vault", slow).unwrap();
        }
    });
    let taken = "SELECT last_value FROM tokenward.changes_seq";
    let before = since.to_string();
    while cluster.sql("vault", taken).unwrap() == before {}
    refreshed(&store, "g", 1).await;
    let new_reader = store.changes(None).await.unwrap().next;
    let (first, _) = grants_told(&store, &mut since).await;
    assert!(first.contains(&"g".into()));
    slow.await.unwrap();
    let (late, gap) = grants_told(&store, &mut since).await;
    assert!(late.contains(&"slow".into()) && !gap, "{late:?}");
    // One that began to read meanwhile has not missed it either.
    let (late, gap) = grants_told(&store, &mut new_reader.clone()).await;
    assert!(late.contains(&"slow".into()) && !gap, "{late:?}");
    // And all is told once.
    assert_eq!(grants_told(&store, &mut since).await, (Vec::new(), false));
}

/// A statement that failed after it had taken a number, or the numbers that a crash skips: nothing
/// has changed, and nobody reads anything anew.
#[tokio::test]
async fn a_number_that_never_comes_is_passed_over() {
    let cluster = cluster(&[]);
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    let mut since = store.changes(None).await.unwrap().next;
    let failed = "BEGIN; UPDATE tokenward.grants SET version = 7;
        INSERT INTO tokenward.changes (kind, a, b) VALUES ('grant', 'g', '7'); ROLLBACK;
        SELECT setval('tokenward.changes_seq', nextval('tokenward.changes_seq') + 32)";
    cluster.sql("vault", failed).unwrap();
    refreshed(&store, "g", 1).await;
    let before = since;
    let (told, gap) = grants_told(&store, &mut since).await;
    assert_eq!((told, gap), (vec!["g".into()], false));
    assert!(since > before + 33);
    assert_eq!(grants_told(&store, &mut since).await, (Vec::new(), false));
    // A position from the future is one of another database; one from long ago is gone.
    let restored = store.changes(Some(since + 1)).await.unwrap();
    assert_eq!(restored.gap, Some(Gap { from: 0, to: since }));
    let prune =
        "DELETE FROM tokenward.changes WHERE seq < (SELECT max(seq) FROM tokenward.changes)";
    cluster.sql("vault", prune).unwrap();
    let gone = store.changes(Some(0)).await.unwrap();
    assert_eq!(gone.gap, Some(Gap { from: 1, to: since }));
    assert_eq!(store.changes(Some(since)).await.unwrap().gap, None);
}

/// Whether a number comes is not known while a transaction goes on that may hold it. In the end the
/// reader says which ones it leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_may_yet_come_is_a_narrow_gap() {
    let cluster = cluster(&[]);
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    let since = store.changes(None).await.unwrap().next;
    let mut session = JoinSet::new();
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    session.spawn(connection);
    let begun = "BEGIN; UPDATE tokenward.vault_values SET value = value;
        INSERT INTO tokenward.changes (kind, a, b) VALUES ('grant', 'late', '1')";
    client.batch_execute(begun).await.unwrap();
    refreshed(&store, "g", 1).await;
    for _ in 0..3 {
        let waits = store.changes(Some(since)).await.unwrap();
        assert_eq!(
            (waits.next, waits.gap, waits.changes.len()),
            (since, None, 1)
        );
    }
    let age = "UPDATE tokenward.changes SET at = at - 60000";
    cluster.sql("vault", age).unwrap();
    let gap = Gap {
        from: since + 1,
        to: since + 1,
    };
    let passed = store.changes(Some(since)).await.unwrap();
    assert_eq!((passed.next, passed.gap), (since + 2, Some(gap)));
    client.batch_execute("COMMIT").await.unwrap();
    let all = store.changes(Some(since)).await.unwrap();
    assert_eq!((all.next, all.gap, all.changes.len()), (since + 2, None, 2));
}

/// Whoever floods the look-ups of API keys holds up no refresh, and nobody who is known.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_up_neither_refreshes_nor_look_ups() {
    let cluster = cluster(&[]);
    let options = PostgresOptions::parse(&cluster.url()).unwrap();
    let store = PostgresStore::open(options.connections(4)).await.unwrap();
    let store = Arc::new(store);
    granted(&*store, "g").await;
    let mut session = JoinSet::new();
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    session.spawn(connection);
    let hold = "BEGIN; LOCK TABLE tokenward.api_keys IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(hold).await.unwrap();
    let mut strangers = JoinSet::new();
    for number in 0..400_u16 {
        let store = store.clone();
        strangers.spawn(async move {
            let mut digest = [0; 32];
            digest[..2].copy_from_slice(&number.to_be_bytes());
            store.key_by_digest(&digest).await
        });
    }
    // Those who do not fit in line are told so at once. The others wait, whatever becomes of them.
    let refused = strangers.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(refused.is_slow(), "{refused}");
    let mut version = 1;
    for _ in 0..20 {
        version = refreshed(&*store, "g", version).await;
        let key = scene::key("g");
        assert!(store.whole(&key).await.unwrap().is_some());
        assert!(store.changes(Some(0)).await.is_ok());
    }
    let line = store.lines()[2];
    assert!(line.refused > 0, "{line:?}");
    client.batch_execute("COMMIT").await.unwrap();
    strangers.shutdown().await;
    // Who comes now is served.
    assert_eq!(store.key_by_digest(&[9; 32]).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_hears_of_another_ones_commit() {
    let cluster = cluster(&[]);
    let (one, other) = (open(&cluster.url()).await, open(&cluster.url()).await);
    granted(&one, "g").await;
    let mut since = other.changes(None).await.unwrap().next;
    let mut version = 1;
    // The listener may not listen yet; then an announcement is lost, as it may be.
    timeout(LONG, async {
        loop {
            version = refreshed(&one, "g", version).await;
            if timeout(Duration::from_secs(1), other.news()).await.is_ok() {
                break;
            }
        }
    })
    .await
    .expect("an announcement");
    let mut told = Vec::new();
    while told.is_empty() {
        told = grants_told(&other, &mut since).await.0;
    }
}

/// Without `LISTEN` and `NOTIFY` the poll tells everything, and nothing is announced.
#[tokio::test(flavor = "multi_thread")]
async fn polling_alone_is_enough() {
    let cluster = cluster(&["log_statement=all"]);
    let options = || {
        PostgresOptions::parse(&cluster.url())
            .unwrap()
            .polling_only()
    };
    let one = PostgresStore::open(options()).await.unwrap();
    let other = PostgresStore::open(options()).await.unwrap();
    granted(&one, "g").await;
    let mut since = other.changes(None).await.unwrap().next;
    refreshed(&one, "g", 1).await;
    assert_eq!(grants_told(&other, &mut since).await.0, vec!["g".into()]);
    let log = cluster.log();
    assert!(log.contains("UPDATE tokenward.grants"), "{log}");
    assert!(!log.contains("LISTEN") && !log.contains("NOTIFY"), "{log}");
}

/// What a refresh writes is in no index, unless the provider rotates: then in one.
#[tokio::test]
async fn a_refresh_touches_no_index() {
    const MANY: u64 = 200;
    let cluster = cluster(&[]);
    let store = open(&cluster.url()).await;
    granted(&store, "g").await;
    // The first commit sets the day of the next keep-alive, which is indexed.
    let mut version = refreshed(&store, "g", 1).await;
    let counts = |what: &str| -> u64 {
        let sql = format!("SELECT {what} FROM pg_stat_user_tables WHERE relname = 'grants'");
        cluster.sql("vault", &sql).unwrap().parse().unwrap()
    };
    for _ in 0..MANY {
        version = refreshed(&store, "g", version).await;
    }
    // The counters are told by idle sessions, a while later.
    drop(store);
    timeout(LONG, async {
        while counts("n_tup_upd") < 2 * MANY {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the counters come");
    let (all, hot) = (counts("n_tup_upd"), counts("n_tup_hot_upd"));
    assert!(all - hot <= 2, "{hot} of {all} updates were heap-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_stay_within_the_pool_while_many_wait() {
    const POOL: usize = 3;
    let cluster = cluster(&[]);
    let options = PostgresOptions::parse(&cluster.url())
        .unwrap()
        .connections(POOL);
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    // Few want the same one: who loses a race tries again, and this is not about races.
    for number in 0..100 {
        granted(&*store, &format!("g{number}")).await;
    }
    let mut callers = JoinSet::new();
    for number in 0..400 {
        let store = store.clone();
        callers.spawn(async move {
            let grant = format!("g{}", number % 100);
            store.claim(claiming(&grant, 1, "p")).await.unwrap();
            store.extend(&grant.as_str().into(), 1, HOUR).await.unwrap();
        });
    }
    callers.join_all().await;
    let held = cluster
        .sql(
            "vault",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tokenward'",
        )
        .unwrap();
    let held: usize = held.parse().unwrap();
    assert!(
        held <= POOL + 1,
        "{held} connections: the pool's, and the one that listens"
    );
}

/// Thousands may want a refresh at once. The last in line waits longer than the database may be
/// away, and is served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_not_taken_for_a_database_that_is_away() {
    const MANY: usize = 30;
    let cluster = cluster(&[]);
    let options = PostgresOptions::parse(&cluster.url()).unwrap();
    let store = PostgresStore::open(options.connections(1)).await.unwrap();
    let store = Arc::new(store);
    for number in 0..MANY {
        granted(&*store, &format!("g{number}")).await;
    }
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE UPDATE ON tokenward.grants
            FOR EACH ROW EXECUTE FUNCTION slow()";
    cluster.sql("vault", slow).unwrap();
    let mut callers = JoinSet::new();
    for number in 0..MANY {
        let store = store.clone();
        callers.spawn(async move {
            let claim = store.claim(claiming(&format!("g{number}"), 1, "p"));
            claim.await.map(|_| ())
        });
    }
    for served in callers.join_all().await {
        assert_eq!(served, Ok(()));
    }
}

/// The file that a killed server leaves behind says that it is ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_killed_is_back_when_it_says_so() {
    let mut cluster = cluster(&[]);
    for _ in 0..5 {
        let mut session = JoinSet::new();
        let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        session.spawn(async move {
            tokio::select! {
                ended = connection => ended.is_err(),
                slept = client.batch_execute("SELECT pg_sleep(3600)") => slept.is_err(),
            }
        });
        while cluster
            .sql(
                "vault",
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'",
            )
            .unwrap()
            .is_empty()
        {}
        cluster.kill().unwrap();
        cluster.resume().unwrap();
        assert_eq!(cluster.sql("vault", "SELECT 1").unwrap(), "1");
        assert_eq!(session.join_all().await, [true]);
    }
}

#[test]
fn a_cluster_is_gone_when_it_is_dropped() {
    let cluster = cluster(&[]);
    let (data, pid) = (cluster.data(), cluster.pid().unwrap());
    assert!(data.is_dir());
    drop::<PostgresCluster>(cluster);
    assert!(!data.exists());
    assert!(tokenward_testkit::signal(pid, tokenward_testkit::Signal::CONT).is_err());
}
