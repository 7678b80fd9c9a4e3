//! The schema and its versions.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    error::OpenError,
    fault::{Fault, Outcome},
    pool::{Lease, Pool},
    sql::params,
};

/// One file for each schema, in order. A file that was released is never edited.
const MIGRATIONS: [&str; 3] = [
    include_str!("../migrations/0001_vault.sql"),
    include_str!("../migrations/0002_answers.sql"),
    include_str!("../migrations/0003_connect.sql"),
];

/// The schema that this binary knows.
pub(crate) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// Held while one replica migrates: `TkWd` in ASCII.
const LOCK: i64 = 0x546B_5764;

/// How long another replica's migration is waited for.
const WAITS: usize = 600;
const WAIT: Duration = Duration::from_millis(100);

/// Brings the database to the present schema. Any number of replicas may try at once: one does
/// it, the others find it done.
///
/// The lock is *tried*, in a transaction that ends at once without it: a session that waits for a
/// lock in PostgreSQL holds a snapshot, on which other work may wait in turn.
pub(crate) async fn migrate(pool: &Pool) -> Result<(), OpenError> {
    for _ in 0..WAITS {
        let present = pool
            .patiently(true, || present(pool))
            .await
            .map_err(OpenError::Store)?;
        match present {
            Some(SCHEMA) => return Ok(()),
            Some(schema) if schema > SCHEMA => {
                return Err(OpenError::Newer {
                    schema,
                    known: SCHEMA,
                });
            }
            _ => {}
        }
        let mut lease = match pool.lease().await {
            Ok(lease) => lease,
            Err(fault) => return Err(OpenError::Store(fault.into())),
        };
        match apply(&mut lease).await {
            Ok(true) => {}
            Ok(false) | Err(Fault::Contended | Fault::Unreachable(_) | Fault::Lost(_)) => {
                sleep(WAIT).await;
            }
            Err(fault) => return Err(OpenError::Store(fault.into())),
        }
    }
    Err(OpenError::Locked)
}

/// The database's schema; `None`: it has none.
async fn present(pool: &Pool) -> Outcome<Option<i64>> {
    let known = pool
        .query(
            "SELECT 1 FROM information_schema.tables
             WHERE table_schema = 'tokenward' AND table_name = 'schema_version'",
            &[],
        )
        .await?;
    if known.is_empty() {
        return Ok(None);
    }
    let rows = pool
        .query("SELECT version FROM tokenward.schema_version", &[])
        .await?;
    version(&rows)
}

fn version(rows: &[tokio_postgres::Row]) -> Outcome<Option<i64>> {
    rows.first()
        .map(|row| row.try_get(0))
        .transpose()
        .map_err(|error| Fault::of_statement(&error))
}

/// `false`: somebody else is at it.
async fn apply(lease: &mut Lease) -> Outcome<bool> {
    let failed = |error: tokio_postgres::Error| Fault::of_statement(&error);
    let transaction = lease.client_mut().transaction().await.map_err(failed)?;
    let lock = transaction
        .query_typed_one("SELECT pg_try_advisory_xact_lock($1)", params![INT8 LOCK])
        .await
        .map_err(failed)?;
    if !lock.try_get::<_, bool>(0).map_err(failed)? {
        transaction.rollback().await.map_err(failed)?;
        return Ok(false);
    }
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS tokenward;
             CREATE TABLE IF NOT EXISTS tokenward.schema_version (version bigint NOT NULL);",
        )
        .await
        .map_err(failed)?;
    let rows = transaction
        .query_typed("SELECT version FROM tokenward.schema_version", &[])
        .await
        .map_err(failed)?;
    let present = version(&rows)?.unwrap_or(0);
    for (schema, migration) in (1..).zip(MIGRATIONS) {
        if schema > present {
            tracing::info!(schema, "migrating the vault");
            transaction.batch_execute(migration).await.map_err(failed)?;
        }
    }
    if present < SCHEMA {
        transaction
            .batch_execute(&format!(
                "DELETE FROM tokenward.schema_version;
                 INSERT INTO tokenward.schema_version (version) VALUES ({SCHEMA});"
            ))
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}
