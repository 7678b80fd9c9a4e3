//! What is kept beside grants: answers that could not be read, tokens that were replaced.

use rusqlite::{Connection as Db, Params, params};
use tokenward::{
    id::{ApplicationId, ConnectorId, GrantId},
    store::{ReplacedToken, UnreadAnswer},
};

use crate::{
    grants,
    job::Outcome,
    rows::{self, REPLACED, UNREAD, integer, saturated},
};

pub(crate) fn keep(db: &Db, answer: &UnreadAnswer) -> Outcome<bool> {
    if !grants::exists(db, &answer.grant)? {
        return Ok(false);
    }
    put(db, answer)?;
    for epoch in UnreadAnswer::surplus(&of_grant(db, &answer.grant)?) {
        remove(db, &answer.grant, epoch)?;
    }
    Ok(true)
}

pub(crate) fn put(db: &Db, answer: &UnreadAnswer) -> Outcome<()> {
    db.prepare_cached(&format!(
        "INSERT OR REPLACE INTO unread_answers ({UNREAD}) VALUES (?, ?, ?, ?, ?)"
    ))?
    .execute(params![
        answer.grant.as_str(),
        integer(answer.epoch)?,
        integer(answer.base)?,
        answer.at.0,
        answer.sealed,
    ])?;
    Ok(())
}

pub(crate) fn of_grant(db: &Db, grant: &GrantId) -> Outcome<Vec<UnreadAnswer>> {
    all(
        db,
        &format!("SELECT {UNREAD} FROM unread_answers WHERE grant_id = ? ORDER BY epoch"),
        [grant.as_str()],
    )
}

pub(crate) fn after(
    db: &Db,
    after: Option<&(GrantId, u64)>,
    limit: usize,
) -> Outcome<Vec<UnreadAnswer>> {
    let (grant, epoch) = match after {
        Some((grant, epoch)) => (grant.as_str(), integer(*epoch)?),
        // No id is empty.
        None => ("", 0),
    };
    all(
        db,
        &format!(
            "SELECT {UNREAD} FROM unread_answers WHERE (grant_id, epoch) > (?, ?)
             ORDER BY grant_id, epoch LIMIT ?"
        ),
        params![grant, epoch, saturated(limit)],
    )
}

pub(crate) fn reseal(db: &Db, read: &UnreadAnswer, sealed: &[u8]) -> Outcome<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE unread_answers SET sealed = ? WHERE grant_id = ? AND epoch = ? AND sealed = ?",
        )?
        .execute(params![
            sealed,
            read.grant.as_str(),
            integer(read.epoch)?,
            read.sealed
        ])?;
    Ok(changed == 1)
}

pub(crate) fn remove(db: &Db, grant: &GrantId, epoch: u64) -> Outcome<bool> {
    let removed = db
        .prepare_cached("DELETE FROM unread_answers WHERE grant_id = ? AND epoch = ?")?
        .execute(params![grant.as_str(), integer(epoch)?])?;
    Ok(removed == 1)
}

/// Where a token of an application and connector was replaced.
pub(crate) fn replaced(
    db: &Db,
    application: &ApplicationId,
    connector: &ConnectorId,
    fingerprint: &[u8; 32],
) -> Outcome<Option<ReplacedToken>> {
    db.prepare_cached(
        "SELECT r.grant_id, r.slot, r.fingerprint, r.at FROM replaced_tokens AS r
         JOIN grants ON grants.id = r.grant_id
         WHERE r.fingerprint = ? AND application = ? AND connector = ? ORDER BY r.grant_id LIMIT 1",
    )?
    .query(params![
        fingerprint,
        application.as_str(),
        connector.as_str()
    ])?
    .next()?
    .map(rows::replaced)
    .transpose()
}

pub(crate) fn put_replaced(db: &Db, token: &ReplacedToken) -> Outcome<()> {
    db.prepare_cached(&format!(
        "INSERT OR REPLACE INTO replaced_tokens ({REPLACED}) VALUES (?, ?, ?, ?)"
    ))?
    .execute(params![
        token.grant.as_str(),
        token.slot,
        token.fingerprint,
        token.at.0
    ])?;
    Ok(())
}

pub(crate) fn replaced_after(
    db: &Db,
    after: Option<&(GrantId, u8)>,
    limit: usize,
) -> Outcome<Vec<ReplacedToken>> {
    let (grant, slot) = match after {
        Some((grant, slot)) => (grant.as_str(), *slot),
        None => ("", 0),
    };
    db.prepare_cached(&format!(
        "SELECT {REPLACED} FROM replaced_tokens WHERE (grant_id, slot) > (?, ?)
         ORDER BY grant_id, slot LIMIT ?"
    ))?
    .query_and_then(params![grant, slot, saturated(limit)], rows::replaced)?
    .collect()
}

/// What belongs to a grant goes with it.
pub(crate) fn forget(db: &Db, grant: &GrantId) -> Outcome<()> {
    for table in ["unread_answers", "replaced_tokens"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE grant_id = ?"))?
            .execute([grant.as_str()])?;
    }
    Ok(())
}

fn all(db: &Db, sql: &str, params: impl Params) -> Outcome<Vec<UnreadAnswer>> {
    db.prepare_cached(sql)?
        .query_and_then(params, rows::unread)?
        .collect()
}
