//! Moving a vault to another store, or here.

use async_trait::async_trait;
use rusqlite::{Connection as Db, params};
use tokenward::{
    id::GrantId,
    store::{Freeze, Moving, Record, ReplacedToken, StoreResult},
};

use crate::{
    SqliteStore, attempts, connections, consumers,
    grants::{self, now},
    job::Outcome,
    rows::{APPLICATION, to_json},
    tenants, unread,
};

const TABLES: [&str; 10] = [
    "grants",
    "connections",
    "clients",
    "applications",
    "api_keys",
    "consumers",
    "vault_values",
    "unread_answers",
    "replaced_tokens",
    "attempts",
];

#[async_trait]
impl Moving for SqliteStore {
    async fn freeze(&self, what: Freeze) -> StoreResult<()> {
        self.write(move |db| freeze(db, what)).await
    }

    async fn frozen(&self) -> StoreResult<Freeze> {
        self.read(frozen).await
    }

    async fn claims_in_force(&self) -> StoreResult<u64> {
        self.read(|db| {
            let held = "SELECT count(*) FROM grants WHERE claim_until > ?";
            let count: i64 = db.query_row(held, [now().0], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    async fn replaced_after(
        &self,
        after: Option<(&GrantId, u8)>,
        limit: usize,
    ) -> StoreResult<Vec<ReplacedToken>> {
        let after = after.map(|(grant, slot)| (grant.clone(), slot));
        self.read(move |db| unread::replaced_after(db, after.as_ref(), limit))
            .await
    }

    async fn restore(&self, records: Vec<Record>) -> StoreResult<()> {
        self.write(move |db| records.iter().try_for_each(|record| restore(db, record)))
            .await
    }
}

fn frozen(db: &Db) -> Outcome<Freeze> {
    let exists = |name: &str| {
        db.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?")?
            .exists([name])
    };
    Ok(if exists("moved")? {
        Freeze::Moved
    } else if exists("moving_grants_UPDATE")? {
        Freeze::Writes
    } else if exists("moving_claims")? {
        Freeze::Claims
    } else {
        Freeze::Nothing
    })
}

fn freeze(db: &Db, what: Freeze) -> Outcome<()> {
    let refuse = format!("BEGIN SELECT RAISE(ABORT, '{}'); END", Freeze::WORDS);
    db.execute_batch("DROP TRIGGER IF EXISTS moving_claims; DROP TRIGGER IF EXISTS moved")?;
    for table in TABLES {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            db.execute_batch(&format!("DROP TRIGGER IF EXISTS moving_{table}_{event}"))?;
            if let Freeze::Writes | Freeze::Moved = what {
                db.execute_batch(&format!(
                    "CREATE TRIGGER moving_{table}_{event} BEFORE {event} ON {table} {refuse}"
                ))?;
            }
        }
    }
    if what == Freeze::Moved {
        db.execute_batch(&format!(
            "CREATE TRIGGER moved BEFORE INSERT ON grants {refuse}"
        ))?;
    }
    if what == Freeze::Claims {
        db.execute_batch(&format!(
            "CREATE TRIGGER moving_claims BEFORE UPDATE ON grants WHEN NEW.epoch > OLD.epoch {refuse}"
        ))?;
    }
    Ok(())
}

fn restore(db: &Db, record: &Record) -> Outcome<()> {
    match record {
        Record::Value(name, value) => tenants::put_value(db, name, value),
        Record::Application(application) => {
            db.prepare_cached(&format!(
                "INSERT INTO applications ({APPLICATION}) VALUES (?, ?, ?, ?) ON CONFLICT (id)
                 DO UPDATE SET name = excluded.name, created_at = excluded.created_at,
                    settings = excluded.settings"
            ))?
            .execute(params![
                application.id.as_str(),
                application.name,
                application.created_at.0,
                to_json(&application.settings)?,
            ])?;
            Ok(())
        }
        Record::Key(key) => tenants::put_key(db, key),
        Record::Client(client) => tenants::put_client(db, client),
        Record::Grant(row) => grants::save(db, row),
        Record::Connection(connection) => connections::save(db, connection),
        Record::Consumer(consumer) => consumers::save(db, consumer),
        Record::Unread(answer) => unread::put(db, answer),
        Record::Replaced(token) => unread::put_replaced(db, token),
        Record::Attempt(row) => attempts::put(db, row),
    }
}
