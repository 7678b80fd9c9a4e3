//! What is kept beside grants: answers that could not be read, tokens that were replaced.

use tokenward::{
    id::GrantId,
    store::{ReplacedToken, UnreadAnswer},
};
use tokio_postgres::Row;

use crate::{
    fault::Outcome,
    pool::Pool,
    rows::{self, REPLACED, UNREAD, integer, saturated},
    sql::params,
    transaction::{Changing, Fenced},
};

const OF_GRANT: &str = "SELECT grant_id, epoch, base, at, sealed FROM tokenward.unread_answers
     WHERE grant_id = $1 ORDER BY epoch";

pub(crate) async fn keep(changing: &Changing<'_>, answer: &UnreadAnswer) -> Outcome<bool> {
    let grant = &answer.grant;
    // Whoever deletes the grant holds its fence.
    changing.fence_alone(&Fenced::Grant(grant)).await?;
    let known = changing
        .query(
            "SELECT 1 FROM tokenward.grants WHERE id = $1",
            params![TEXT grant.as_str()],
        )
        .await?;
    if known.is_empty() {
        return Ok(false);
    }
    put(changing, answer).await?;
    let kept = changing
        .query(OF_GRANT, params![TEXT grant.as_str()])
        .await?;
    for epoch in UnreadAnswer::surplus(&all(&kept)?) {
        let params = params![TEXT grant.as_str(), INT8 integer(epoch)?];
        changing.query(REMOVE, params).await?;
    }
    Ok(true)
}

pub(crate) async fn put(changing: &Changing<'_>, answer: &UnreadAnswer) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO tokenward.unread_answers ({UNREAD}) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (grant_id, epoch) DO UPDATE SET
            base = excluded.base, at = excluded.at, sealed = excluded.sealed"
    );
    let params = params![
        TEXT answer.grant.as_str(), INT8 integer(answer.epoch)?, INT8 integer(answer.base)?,
        INT8 answer.at.0, BYTEA answer.sealed,
    ];
    changing.query(&sql, params).await?;
    Ok(())
}

pub(crate) async fn of_grant(pool: &Pool, grant: &GrantId) -> Outcome<Vec<UnreadAnswer>> {
    all(&pool.query(OF_GRANT, params![TEXT grant.as_str()]).await?)
}

pub(crate) async fn after(
    pool: &Pool,
    after: Option<(&GrantId, u64)>,
    limit: usize,
) -> Outcome<Vec<UnreadAnswer>> {
    // No id is empty.
    let (grant, epoch) = after.map_or(("", 0), |(grant, epoch)| (grant.as_str(), epoch));
    let sql = format!(
        "SELECT {UNREAD} FROM tokenward.unread_answers WHERE (grant_id, epoch) > ($1, $2)
         ORDER BY grant_id, epoch LIMIT $3"
    );
    let params = params![TEXT grant, INT8 integer(epoch)?, INT8 saturated(limit)];
    all(&pool.query(&sql, params).await?)
}

pub(crate) async fn reseal(pool: &Pool, read: &UnreadAnswer, sealed: &[u8]) -> Outcome<bool> {
    let sql = "UPDATE tokenward.unread_answers SET sealed = $1
         WHERE grant_id = $2 AND epoch = $3 AND sealed = $4 RETURNING 1";
    let params = params![
        BYTEA sealed, TEXT read.grant.as_str(), INT8 integer(read.epoch)?, BYTEA read.sealed,
    ];
    Ok(!pool.query(sql, params).await?.is_empty())
}

const REMOVE: &str =
    "DELETE FROM tokenward.unread_answers WHERE grant_id = $1 AND epoch = $2 RETURNING 1";

pub(crate) async fn remove(pool: &Pool, grant: &GrantId, epoch: u64) -> Outcome<bool> {
    let params = params![TEXT grant.as_str(), INT8 integer(epoch)?];
    Ok(!pool.query(REMOVE, params).await?.is_empty())
}

/// Where a token of an application and connector was replaced.
pub(crate) const REPLACED_BY_TOKEN: &str =
    "SELECT r.grant_id, r.slot, r.fingerprint, r.at FROM tokenward.replaced_tokens AS r
     JOIN tokenward.grants ON grants.id = r.grant_id
     WHERE r.fingerprint = $1 AND application = $2 AND connector = $3
     ORDER BY r.grant_id LIMIT 1";

pub(crate) async fn put_replaced(changing: &Changing<'_>, token: &ReplacedToken) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO tokenward.replaced_tokens ({REPLACED}) VALUES ($1, $2, $3, $4)
         ON CONFLICT (grant_id, slot) DO UPDATE SET
            fingerprint = excluded.fingerprint, at = excluded.at"
    );
    let params = params![
        TEXT token.grant.as_str(), INT8 i64::from(token.slot), BYTEA token.fingerprint.as_slice(),
        INT8 token.at.0,
    ];
    changing.query(&sql, params).await?;
    Ok(())
}

pub(crate) async fn replaced_after(
    pool: &Pool,
    after: Option<(&GrantId, u8)>,
    limit: usize,
) -> Outcome<Vec<ReplacedToken>> {
    let (grant, slot) = after.map_or(("", 0), |(grant, slot)| (grant.as_str(), slot));
    let sql = format!(
        "SELECT {REPLACED} FROM tokenward.replaced_tokens WHERE (grant_id, slot) > ($1, $2)
         ORDER BY grant_id, slot LIMIT $3"
    );
    let params = params![TEXT grant, INT8 i64::from(slot), INT8 saturated(limit)];
    let rows = pool.query(&sql, params).await?;
    rows.iter().map(rows::replaced).collect()
}

/// What belongs to a grant goes with it.
pub(crate) async fn forget(changing: &Changing<'_>, grant: &GrantId) -> Outcome<()> {
    for sql in [
        "DELETE FROM tokenward.unread_answers WHERE grant_id = $1",
        "DELETE FROM tokenward.replaced_tokens WHERE grant_id = $1",
    ] {
        changing.query(sql, params![TEXT grant.as_str()]).await?;
    }
    Ok(())
}

fn all(rows: &[Row]) -> Outcome<Vec<UnreadAnswer>> {
    rows.iter().map(rows::unread).collect()
}
