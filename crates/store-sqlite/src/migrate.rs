//! The schema and its versions.

use std::{cmp::Ordering, path::Path};

use rusqlite::{Connection, TransactionBehavior};

use crate::open::OpenError;

/// One file for each schema, in order. A file that was released is never edited.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_vault.sql")];

/// Marks the file as ours, for `file(1)` and for [`check`]: "TkWd".
const APPLICATION_ID: i64 = 0x546B_5764;

/// The schema that this binary knows.
pub(crate) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// Whether the file is a vault of a schema that we know, or empty. Changes nothing.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|error| OpenError::from_sqlite(path, error))
    };
    let (schema, application) = (pragma("user_version")?, pragma("application_id")?);
    if application != APPLICATION_ID {
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|error| OpenError::from_sqlite(path, error))?;
        if tables > 0 || schema != 0 {
            return Err(OpenError::NotAVault(path.to_owned()));
        }
    }
    match schema.cmp(&SCHEMA) {
        Ordering::Greater => Err(OpenError::Newer {
            path: path.to_owned(),
            schema,
        }),
        Ordering::Equal | Ordering::Less => Ok(schema),
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
    let present = check(&transaction, path)?;
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
