//! Authorization attempts.

use async_trait::async_trait;
use rusqlite::{Connection as Db, Params, params};
use tokenward::{
    authorize::AttemptRow,
    id::{ApplicationId, AttemptId, ConnectionKey},
    store::{Attempts, Stamped, StoreResult},
};

use crate::{
    SqliteStore,
    grants::now,
    job::Outcome,
    rows::{self, ATTEMPT, integer, saturated, to_json},
};

#[async_trait]
impl Attempts for SqliteStore {
    async fn begin_attempt(&self, row: AttemptRow) -> StoreResult<Option<Stamped<AttemptRow>>> {
        self.write(move |db| begin(db, row)).await
    }

    async fn attempt(&self, id: &AttemptId) -> StoreResult<Stamped<Option<AttemptRow>>> {
        let id = id.clone();
        // The id comes from whoever has an address.
        self.read_for_a_stranger(move |db| {
            Ok(Stamped {
                value: find(db, &id)?,
                at: now(),
            })
        })
        .await
    }

    async fn attempts_at(&self, key: &ConnectionKey) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        let key = key.clone();
        self.read(move |db| {
            Ok(Stamped {
                value: at(db, &key)?,
                at: now(),
            })
        })
        .await
    }

    async fn replace_attempt(&self, row: AttemptRow) -> StoreResult<bool> {
        self.write(move |db| replace(db, &row)).await
    }

    async fn remove_attempt(&self, id: &AttemptId, revision: u64) -> StoreResult<bool> {
        let id = id.clone();
        self.write(move |db| {
            let removed = db
                .prepare_cached("DELETE FROM attempts WHERE id = ? AND revision = ?")?
                .execute(params![id.as_str(), integer(revision)?])?;
            Ok(removed == 1)
        })
        .await
    }

    async fn attempts_due(&self, limit: usize) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        self.read(move |db| {
            let at = now();
            let sql = format!(
                "SELECT {ATTEMPT} FROM attempts WHERE due_at <= ? ORDER BY due_at, id LIMIT ?"
            );
            Ok(Stamped {
                value: all(db, &sql, params![at.0, saturated(limit)])?,
                at,
            })
        })
        .await
    }

    async fn attempts_after(
        &self,
        after: Option<&AttemptId>,
        limit: usize,
    ) -> StoreResult<Vec<AttemptRow>> {
        let after = after.cloned();
        self.read(move |db| {
            // No id is empty.
            let after = after.as_ref().map_or("", AttemptId::as_str);
            let sql = format!("SELECT {ATTEMPT} FROM attempts WHERE id > ? ORDER BY id LIMIT ?");
            all(db, &sql, params![after, saturated(limit)])
        })
        .await
    }
}

fn begin(db: &Db, mut row: AttemptRow) -> Outcome<Option<Stamped<AttemptRow>>> {
    let now = now();
    row.begin(now);
    let Some(surplus) = AttemptRow::surplus(&at(db, &row.connection)?, now) else {
        return Ok(None);
    };
    for id in surplus {
        db.prepare_cached("DELETE FROM attempts WHERE id = ?")?
            .execute([id.as_str()])?;
    }
    put(db, &row)?;
    Ok(Some(Stamped {
        value: row,
        at: now,
    }))
}

fn find(db: &Db, id: &AttemptId) -> Outcome<Option<AttemptRow>> {
    let sql = format!("SELECT {ATTEMPT} FROM attempts WHERE id = ?");
    Ok(all(db, &sql, [id.as_str()])?.pop())
}

fn at(db: &Db, key: &ConnectionKey) -> Outcome<Vec<AttemptRow>> {
    let sql = format!(
        "SELECT {ATTEMPT} FROM attempts
         WHERE application = ? AND consumer = ? AND unified_api = ? AND service = ?"
    );
    all(db, &sql, crate::connections::key_params(key))
}

pub(crate) fn revision(db: &Db, id: &AttemptId) -> Outcome<Option<u64>> {
    Ok(find(db, id)?.map(|row| row.revision))
}

/// Writes a row in the place of the one of its revision.
pub(crate) fn replace(db: &Db, row: &AttemptRow) -> Outcome<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE attempts SET due_at = ?, body = ?, sealed = ?, revision = revision + 1
             WHERE id = ? AND revision = ?",
        )?
        .execute(params![
            row.due_at().0,
            to_json(row)?,
            row.sealed,
            row.id.as_str(),
            integer(row.revision)?,
        ])?;
    Ok(changed == 1)
}

/// Writes a row, new or not.
pub(crate) fn put(db: &Db, row: &AttemptRow) -> Outcome<()> {
    let [application, consumer, unified_api, service] =
        crate::connections::key_params(&row.connection);
    db.prepare_cached(
        "INSERT OR REPLACE INTO attempts
            (id, application, consumer, unified_api, service, due_at, body, sealed, revision)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        row.id.as_str(),
        application,
        consumer,
        unified_api,
        service,
        row.due_at().0,
        to_json(row)?,
        row.sealed,
        integer(row.revision)?,
    ])?;
    Ok(())
}

/// A connection's attempts go with it: whoever is still at one finds nothing to connect.
pub(crate) fn forget_of_connection(db: &Db, key: &ConnectionKey) -> Outcome<()> {
    db.prepare_cached(
        "DELETE FROM attempts
         WHERE application = ? AND consumer = ? AND unified_api = ? AND service = ?",
    )?
    .execute(crate::connections::key_params(key))?;
    Ok(())
}

pub(crate) fn forget_of_application(db: &Db, application: &ApplicationId) -> Outcome<()> {
    db.prepare_cached("DELETE FROM attempts WHERE application = ?")?
        .execute([application.as_str()])?;
    Ok(())
}

fn all(db: &Db, sql: &str, params: impl Params) -> Outcome<Vec<AttemptRow>> {
    db.prepare_cached(sql)?
        .query_and_then(params, rows::attempt)?
        .collect()
}
