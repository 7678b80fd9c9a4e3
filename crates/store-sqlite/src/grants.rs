//! Grants: the protocol's verbs and what looks for grants.

use std::time::SystemTime;

use rusqlite::{Connection, Params, named_params, params};
use tokenward::{
    id::{ApplicationId, ConnectorId, GrantId},
    refresh::ledger::{GrantRow, Standing},
    store::{Change, ReplacedToken, Stamped},
    time::StoreTime,
};

use crate::{
    changes,
    job::Outcome,
    rows::{self, GRANT, integer, saturated, to_json},
    unread,
};

/// The store's time. Verbs read it inside their transaction, so that it grows from one to the
/// next as far as the machine's clock does.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the store's clock"
)]
pub(crate) fn now() -> StoreTime {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    StoreTime(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}

/// Applies a pure function to a row, and writes the row back if it changed.
pub(crate) fn on_grant<T>(
    db: &Connection,
    id: &GrantId,
    missing: T,
    verb: impl FnOnce(&mut GrantRow, StoreTime) -> T,
) -> Outcome<Stamped<T>> {
    let at = now();
    let Some(mut row) = find(db, id)? else {
        return Ok(Stamped { value: missing, at });
    };
    let before = row.clone();
    let value = verb(&mut row, at);
    if row != before {
        let only_claimed = GrantRow {
            epoch: row.epoch,
            claim: row.claim.clone(),
            attempt: row.attempt.clone(),
            trouble: row.trouble.clone(),
            ..before.clone()
        };
        if row == only_claimed {
            save_claim(db, &row)?;
        } else {
            save(db, &row)?;
        }
    }
    if let Some(replaced) = ReplacedToken::between(&before, &row, at) {
        unread::put_replaced(db, &replaced)?;
    }
    if (row.version, &row.standing) != (before.version, &before.standing) {
        changes::announce(db, &Change::Grant(row.id, row.version))?;
    }
    Ok(Stamped { value, at })
}

pub(crate) fn find(db: &Connection, id: &GrantId) -> Outcome<Option<GrantRow>> {
    one(
        db,
        &format!("SELECT {GRANT} FROM grants WHERE id = ?"),
        [id.as_str()],
    )
}

pub(crate) fn exists(db: &Connection, id: &GrantId) -> Outcome<bool> {
    Ok(db
        .prepare_cached("SELECT 1 FROM grants WHERE id = ?")?
        .exists([id.as_str()])?)
}

pub(crate) fn those(db: &Connection, ids: &[GrantId]) -> Outcome<Stamped<Vec<GrantRow>>> {
    let sql = format!("SELECT {GRANT} FROM grants WHERE id IN (SELECT value FROM json_each(?))");
    Ok(Stamped {
        value: all(db, &sql, [to_json(&ids)?])?,
        at: now(),
    })
}

/// The first one by id: several may have the token if the provider gave it to them.
pub(crate) fn by_fingerprint(
    db: &Connection,
    application: &ApplicationId,
    connector: &ConnectorId,
    fingerprint: &[u8; 32],
) -> Outcome<Option<GrantRow>> {
    let sql = format!(
        "SELECT {GRANT} FROM grants WHERE application = ? AND connector = ? AND fingerprint = ? ORDER BY id LIMIT 1"
    );
    one(
        db,
        &sql,
        params![application.as_str(), connector.as_str(), fingerprint],
    )
}

pub(crate) fn keep_alive_due(db: &Connection, limit: usize) -> Outcome<Vec<GrantRow>> {
    let sql = format!(
        "SELECT {GRANT} FROM grants
         WHERE keep_alive_at <= ?1 AND keep_alive_at IS NOT NULL AND dead_at IS NULL
           AND (trouble IS NULL OR trouble ->> 'retry_at' <= ?1)
         ORDER BY keep_alive_at, id LIMIT ?2"
    );
    all(db, &sql, params![now().0, saturated(limit)])
}

pub(crate) fn after(
    db: &Connection,
    after: Option<&GrantId>,
    limit: usize,
) -> Outcome<Vec<GrantRow>> {
    match after {
        Some(after) => {
            let sql = format!("SELECT {GRANT} FROM grants WHERE id > ? ORDER BY id LIMIT ?");
            all(db, &sql, params![after.as_str(), saturated(limit)])
        }
        None => all(
            db,
            &format!("SELECT {GRANT} FROM grants ORDER BY id LIMIT ?"),
            [saturated(limit)],
        ),
    }
}

pub(crate) fn reseal(db: &Connection, id: &GrantId, version: u64, sealed: &[u8]) -> Outcome<bool> {
    let changed = db
        .prepare_cached("UPDATE grants SET sealed = ? WHERE id = ? AND version = ?")?
        .execute(params![sealed, id.as_str(), integer(version)?])?;
    Ok(changed == 1)
}

pub(crate) fn delete(db: &Connection, id: &GrantId) -> Outcome<()> {
    db.prepare_cached("DELETE FROM grants WHERE id = ?")?
        .execute([id.as_str()])?;
    unread::forget(db, id)
}

/// Writes a row, new or not.
pub(crate) fn save(db: &Connection, row: &GrantRow) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO grants ({GRANT}) VALUES (
            :id, :application, :connector, :version, :authorized_version, :sealed, :expires_at,
            :lifetime_ms, :refreshed_at, :keep_alive_at, :fingerprint, :dead_at, :dead_reason, :epoch,
            :committed_epoch, :claim_owner, :claim_epoch, :claim_until, :attempt, :trouble, :consent)
         ON CONFLICT (id) DO UPDATE SET
            version = excluded.version, authorized_version = excluded.authorized_version,
            sealed = excluded.sealed, expires_at = excluded.expires_at,
            lifetime_ms = excluded.lifetime_ms, refreshed_at = excluded.refreshed_at,
            keep_alive_at = excluded.keep_alive_at, fingerprint = excluded.fingerprint,
            dead_at = excluded.dead_at, dead_reason = excluded.dead_reason, epoch = excluded.epoch,
            committed_epoch = excluded.committed_epoch, claim_owner = excluded.claim_owner,
            claim_epoch = excluded.claim_epoch, claim_until = excluded.claim_until,
            attempt = excluded.attempt, trouble = excluded.trouble, consent = excluded.consent"
    );
    let (dead_at, dead_reason) = match &row.standing {
        Standing::Live => (None, None),
        Standing::Dead { at, reason } => (Some(at.0), Some(reason)),
    };
    let claim = row.claim.as_ref();
    db.prepare_cached(&sql)?.execute(named_params! {
        ":id": row.id.as_str(),
        ":application": row.application.as_str(),
        ":connector": row.connector.as_str(),
        ":version": integer(row.version)?,
        ":authorized_version": integer(row.authorized_version)?,
        ":sealed": row.sealed,
        ":expires_at": row.expires_at.map(|at| at.0),
        ":lifetime_ms": row.lifetime.map(|lifetime| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)),
        ":refreshed_at": row.refreshed_at.map(|at| at.0),
        ":keep_alive_at": row.keep_alive_at.map(|at| at.0),
        ":fingerprint": row.fingerprint,
        ":dead_at": dead_at,
        ":dead_reason": dead_reason,
        ":epoch": integer(row.epoch)?,
        ":committed_epoch": integer(row.committed_epoch)?,
        ":claim_owner": claim.map(|claim| claim.owner.as_str()),
        ":claim_epoch": claim.map(|claim| integer(claim.epoch)).transpose()?,
        ":claim_until": claim.map(|claim| claim.until.0),
        ":attempt": row.attempt.as_ref().map(to_json).transpose()?,
        ":trouble": row.trouble.as_ref().map(to_json).transpose()?,
        ":consent": row.consent.as_ref().map(to_json).transpose()?,
    })?;
    Ok(())
}

/// As [`save`], where nothing else has changed: no index is touched.
fn save_claim(db: &Connection, row: &GrantRow) -> Outcome<()> {
    let sql = "UPDATE grants SET epoch = ?, claim_owner = ?, claim_epoch = ?, claim_until = ?,
        attempt = ?, trouble = ? WHERE id = ?";
    let claim = row.claim.as_ref();
    db.prepare_cached(sql)?.execute(params![
        integer(row.epoch)?,
        claim.map(|claim| claim.owner.as_str()),
        claim.map(|claim| integer(claim.epoch)).transpose()?,
        claim.map(|claim| claim.until.0),
        row.attempt.as_ref().map(to_json).transpose()?,
        row.trouble.as_ref().map(to_json).transpose()?,
        row.id.as_str(),
    ])?;
    Ok(())
}

fn one(db: &Connection, sql: &str, params: impl Params) -> Outcome<Option<GrantRow>> {
    db.prepare_cached(sql)?
        .query(params)?
        .next()?
        .map(rows::grant)
        .transpose()
}

fn all(db: &Connection, sql: &str, params: impl Params) -> Outcome<Vec<GrantRow>> {
    db.prepare_cached(sql)?
        .query_and_then(params, rows::grant)?
        .collect()
}
