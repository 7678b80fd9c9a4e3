//! Moving a vault to another store, or here.

use rusqlite::{Connection as Db, OptionalExtension, params};
use tokenward::store::{Freeze, Record, StoreResult};

use crate::{
    SqliteStore, connections,
    grants::{self, now},
    job::Outcome,
    rows::{API_KEY, APPLICATION},
    tenants,
};

const TABLES: [&str; 6] = [
    "grants",
    "connections",
    "clients",
    "applications",
    "api_keys",
    "vault_values",
];

impl SqliteStore {
    /// Refuses writes of every process, or takes them again. Reads are served.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub async fn freeze(&self, what: Freeze) -> StoreResult<()> {
        self.write(move |db| freeze(db, what)).await
    }

    /// How many claims are in force.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn claims_in_force(&self) -> StoreResult<u64> {
        self.read(|db| {
            let held = "SELECT count(*) FROM grants WHERE claim_until > ?";
            let count: i64 = db.query_row(held, [now().0], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    /// A value of the vault's own, if there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        let name = name.to_owned();
        self.read(move |db| {
            let sql = "SELECT value FROM vault_values WHERE name = ?";
            Ok(db.query_row(sql, [name], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// Writes rows as they stand, over those of the same name. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; then none of them is there.
    pub async fn restore(&self, records: Vec<Record>) -> StoreResult<()> {
        self.write(move |db| records.iter().try_for_each(|record| restore(db, record)))
            .await
    }
}

fn freeze(db: &Db, what: Freeze) -> Outcome<()> {
    const REFUSE: &str = "BEGIN SELECT RAISE(ABORT, 'this vault is being moved, or has been moved, to another store'); END";
    db.execute_batch("DROP TRIGGER IF EXISTS moving_claims")?;
    for table in TABLES {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            db.execute_batch(&format!("DROP TRIGGER IF EXISTS moving_{table}_{event}"))?;
            if what == Freeze::Writes {
                db.execute_batch(&format!(
                    "CREATE TRIGGER moving_{table}_{event} BEFORE {event} ON {table} {REFUSE}"
                ))?;
            }
        }
    }
    if what == Freeze::Claims {
        db.execute_batch(&format!(
            "CREATE TRIGGER moving_claims BEFORE UPDATE ON grants WHEN NEW.epoch > OLD.epoch {REFUSE}"
        ))?;
    }
    Ok(())
}

fn restore(db: &Db, record: &Record) -> Outcome<()> {
    match record {
        Record::Value(name, value) => tenants::put_value(db, name, value),
        Record::Application(application) => {
            db.prepare_cached(&format!(
                "INSERT INTO applications ({APPLICATION}) VALUES (?, ?, ?) ON CONFLICT (id)
                 DO UPDATE SET name = excluded.name, created_at = excluded.created_at"
            ))?
            .execute(params![
                application.id.as_str(),
                application.name,
                application.created_at.0
            ])?;
            Ok(())
        }
        Record::Key(key) => {
            db.prepare_cached(&format!(
                "INSERT INTO api_keys ({API_KEY}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (application, id)
                 DO UPDATE SET digest = excluded.digest, hint = excluded.hint, created_at = excluded.created_at"
            ))?
            .execute(params![
                key.application.as_str(),
                key.id,
                key.digest,
                key.hint,
                key.created_at.0
            ])?;
            Ok(())
        }
        Record::Client(client) => tenants::put_client(db, client),
        Record::Grant(row) => grants::save(db, row),
        Record::Connection(connection) => connections::save(db, connection),
    }
}
