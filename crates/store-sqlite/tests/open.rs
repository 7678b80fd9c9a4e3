//! Opening: files that are not ours, places that cannot hold one, and many at once.

use std::{fs, path::Path, sync::Barrier, thread, time::Duration};

use rusqlite::Connection;
use tokenward::{
    store::{ApplicationSettings, Consumer, UnreadAnswer, prelude::*},
    time::StoreTime,
};
use tokenward_store_sqlite::{OpenError, SqliteStore};

fn open_error(path: &Path) -> OpenError {
    SqliteStore::open(path).expect_err("it must not open")
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    drop(SqliteStore::open(&path).unwrap());
    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);

    let error = open_error(&path);
    assert!(
        matches!(error, OpenError::Newer { schema: 99, .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("this vault was written by a newer tokenward (schema 99)"),
        "{error}"
    );
}

/// A vault of the first schema is brought to the present one, with all that it holds.
#[tokio::test]
async fn an_older_vault_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("../migrations/0001_vault.sql"))
        .unwrap();
    raw.execute_batch(
        "INSERT INTO vault_values (name, value) VALUES ('pepper', x'0102');
         INSERT INTO grants (id, application, connector, version, authorized_version, sealed,
             epoch, committed_epoch) VALUES ('g', 'acme', 'books', 3, 1, x'07', 2, 2);
         INSERT INTO applications (id, name, created_at) VALUES ('acme', 'Acme', 5);
         INSERT INTO connections VALUES
            ('acme', 'ada', 'crm', 'books', 'g', 1, '{}', '{}', 7, 9),
            ('acme', 'ada', 'hris', 'books', 'g', 1, '{}', '{}', 6, 6),
            ('acme', 'bob', 'crm', 'books', NULL, 1, '{}', '{}', 8, 8);
         INSERT INTO api_keys (application, id, digest, hint, created_at)
             VALUES ('acme', 'k', zeroblob(32), 'tw_', 5);
         PRAGMA application_id = 1416320868; PRAGMA user_version = 1",
    )
    .unwrap();
    drop(raw);
    for _ in 0..2 {
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.value("pepper").await, Ok(Some(vec![1, 2])));
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

#[test]
fn what_is_not_a_vault_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage");
    let text = "not a database at all, but longer than the header of one: ".repeat(50);
    fs::write(&garbage, &text).unwrap();
    let error = open_error(&garbage);
    assert!(matches!(error, OpenError::NotADatabase(_)), "{error:?}");
    assert_eq!(fs::read_to_string(&garbage).unwrap(), text);

    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE places (url TEXT)")
        .unwrap();
    let before = fs::read(&foreign).unwrap();
    let error = open_error(&foreign);
    assert!(matches!(error, OpenError::NotAVault(_)), "{error:?}");
    assert_eq!(fs::read(&foreign).unwrap(), before);

    let error = open_error(folder.path());
    assert!(matches!(error, OpenError::NotAFile(_)), "{error:?}");
}

#[test]
fn a_place_that_cannot_hold_a_vault_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_error(&folder.path().join("missing").join("vault.db"));
    assert!(
        matches!(&error, OpenError::FolderMissing(path) if path.ends_with("missing")),
        "{error:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_folder_that_can_only_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let vault = folder.path().join("vault.db");
    drop(SqliteStore::open(&vault).unwrap());
    // The threads end by themselves; the last one removes the log.
    while folder.path().join("vault.db-wal").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.path().join("probe"), "").is_ok() {
        // Root writes everywhere, but not there.
        let error = open_error(Path::new("/sys/vault.db"));
        assert!(
            matches!(
                error,
                OpenError::NotWritable { .. } | OpenError::ReadOnly(_)
            ),
            "{error:?}"
        );
        return;
    }
    let error = open_error(&folder.path().join("new.db"));
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");
    let error = open_error(&vault);
    assert!(matches!(error, OpenError::ReadOnly(_)), "{error:?}");

    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&vault, fs::Permissions::from_mode(0o444)).unwrap();
    let error = open_error(&vault);
    assert!(matches!(error, OpenError::ReadOnly(_)), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("vault.db")).unwrap();
    store.put_value("key", vec![1]).await.unwrap();
    let mut files = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            file.path()
        );
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log and its index");
}

#[test]
fn many_may_open_a_new_file_at_once() {
    const MANY: usize = 8;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        let start = Barrier::new(MANY);
        let stores: Vec<_> = thread::scope(|scope| {
            let openers: Vec<_> = (0..MANY)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        SqliteStore::open(&path).unwrap()
                    })
                })
                .collect();
            openers
                .into_iter()
                .map(|opener| opener.join().unwrap())
                .collect()
        });
        for (number, store) in stores.iter().enumerate() {
            let value = runtime
                .block_on(store.value_or_insert("key", vec![number as u8]))
                .unwrap();
            assert_eq!(value, [0]);
        }
    }
}
