//! The schema and its versions.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::open::OpenError;

/// One file for each schema, in order. A file that was released is never edited.
const MIGRATIONS: [&str; 3] = [
    include_str!("../migrations/0001_vault.sql"),
    include_str!("../migrations/0002_answers.sql"),
    include_str!("../migrations/0003_connect.sql"),
];

/// Marks the file as ours: `TkWd` in ASCII.
const APPLICATION_ID: i64 = 0x546B_5764;

/// The schema that this binary knows.
pub(crate) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// Whether the file is a vault of a schema that we know, or empty: its schema. Changes nothing.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    // One snapshot: another process may be migrating.
    let read = || {
        let snapshot = connection.unchecked_transaction()?;
        let marks = marks(&snapshot)?;
        snapshot.finish()?;
        Ok(marks)
    };
    judge(
        read().map_err(|error| OpenError::from_sqlite(path, error))?,
        path,
    )
}

/// What tells whose file it is.
#[derive(Clone, Copy)]
struct Marks {
    schema: i64,
    application: i64,
    tables: i64,
}

fn marks(transaction: &Transaction<'_>) -> rusqlite::Result<Marks> {
    Ok(Marks {
        schema: transaction.pragma_query_value(None, "user_version", |row| row.get(0))?,
        application: transaction.pragma_query_value(None, "application_id", |row| row.get(0))?,
        tables: transaction
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    })
}

fn judge(marks: Marks, path: &Path) -> Result<i64, OpenError> {
    match marks {
        Marks {
            schema: 0,
            application: 0,
            tables: 0,
        } => Ok(0),
        Marks {
            schema,
            application: APPLICATION_ID,
            ..
        } if schema > SCHEMA => Err(OpenError::Newer {
            path: path.to_owned(),
            schema,
        }),
        Marks {
            schema,
            application: APPLICATION_ID,
            ..
        } => Ok(schema),
        _ => Err(OpenError::NotAVault(path.to_owned())),
    }
}

/// Brings the file to the present schema. Several processes may try at once: the first one does
/// it, the others find it done.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    if check(connection, path)? == SCHEMA {
        return Ok(());
    }
    let sqlite = |error| OpenError::from_sqlite(path, error);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite)?;
    let present = judge(marks(&transaction).map_err(sqlite)?, path)?;
    for (schema, migration) in (1..).zip(MIGRATIONS) {
        if schema > present {
            tracing::info!(schema, path = %path.display(), "migrating the vault");
            transaction.execute_batch(migration).map_err(sqlite)?;
        }
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sqlite)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA)
        .map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}
