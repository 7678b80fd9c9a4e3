//! Grants: the protocol's verbs and what looks for grants.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokenward::{
    id::{ApplicationId, ConnectorId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest,
    },
    store::{ReplacedToken, Stamped},
    time::StoreTime,
};
use tokio_postgres::{Row, types::Type};

use crate::{
    PostgresStore,
    columns::{LEDGER_SQL, LEDGER_TOLD_SQL, REPLACING_TOKEN_SQL, TOKEN_SQL, Values},
    fault::{Fault, Outcome},
    pool::Pool,
    rows::{self, GRANT, Read, integer, saturated},
    sql::{NOW, params},
};

/// The rows of claims that this process holds, as it last wrote them. A commit needs no clock, so
/// that with the row at hand it is one statement; if the row has changed since, it is read anew.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<GrantId, Read>>);

impl Claims {
    /// Claims end with a commit or a settlement, but for those of flights that were cut off.
    const MOST: usize = 10_000;

    fn keep(&self, read: Read) {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.len() >= Self::MOST {
            claims.clear();
        }
        claims.insert(read.row.id.clone(), read);
    }

    fn take(&self, grant: &GrantId) -> Option<Read> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(grant)
    }
}

pub(crate) async fn claim(
    store: &PostgresStore,
    request: &ClaimRequest,
) -> Outcome<Stamped<ClaimReply>> {
    let (claimed, read) = on_grant(store, &request.grant, ClaimReply::Missing, |row, now| {
        row.claim(request, now)
    })
    .await?;
    if let (ClaimReply::Claimed(_), Some(read)) = (&claimed.value, read) {
        store.claims.keep(read);
    }
    Ok(claimed)
}

pub(crate) async fn extend(
    store: &PostgresStore,
    grant: &GrantId,
    epoch: u64,
    ttl: Duration,
) -> Outcome<bool> {
    let (extended, read) =
        on_grant(store, grant, false, |row, now| row.extend(epoch, ttl, now)).await?;
    if let (true, Some(read)) = (extended.value, read) {
        store.claims.keep(read);
    }
    Ok(extended.value)
}

pub(crate) async fn commit(
    store: &PostgresStore,
    request: &CommitRequest,
) -> Outcome<Stamped<CommitReply>> {
    if let Some(read) = store.claims.take(&request.grant)
        && read.row.version == request.base
    {
        let mut row = read.row.clone();
        let value = row.commit(request.clone());
        if let Some(at) = write(&store.ledger, &read, &row).await? {
            store.hints.say();
            return Ok(Stamped { value, at });
        }
    }
    let (committed, _) = on_grant(store, &request.grant, CommitReply::Missing, |row, _| {
        row.commit(request.clone())
    })
    .await?;
    Ok(committed)
}

pub(crate) async fn settle(
    store: &PostgresStore,
    request: &SettleRequest,
) -> Outcome<Stamped<SettleReply>> {
    store.claims.take(&request.grant);
    let (settled, _) = on_grant(store, &request.grant, SettleReply::Missing, |row, now| {
        row.settle(request.clone(), now)
    })
    .await?;
    Ok(settled)
}

/// Applies a pure function to a row as it is now, and writes the row back if it is still so.
/// Beside the reply: the row as it now stands.
async fn on_grant<T>(
    store: &PostgresStore,
    id: &GrantId,
    missing: T,
    verb: impl FnOnce(&mut GrantRow, StoreTime) -> T,
) -> Outcome<(Stamped<T>, Option<Read>)> {
    let Stamped { value: read, at } = find(&store.ledger, id).await?;
    let Some(read) = read else {
        return Ok((Stamped { value: missing, at }, None));
    };
    let mut row = read.row.clone();
    let value = verb(&mut row, at);
    let mut revision = read.revision;
    if row != read.row {
        write(&store.ledger, &read, &row)
            .await?
            .ok_or(Fault::Contended)?;
        revision += 1;
        if told(&read.row, &row) {
            store.hints.say();
        }
    }
    Ok((Stamped { value, at }, Some(Read { row, revision })))
}

/// Whether others may hold a copy of what has changed.
fn told(before: &GrantRow, after: &GrantRow) -> bool {
    (before.version, &before.standing) != (after.version, &after.standing)
}

/// Those of the grants that exist, and the database's time.
pub(crate) async fn those(pool: &Pool, ids: &[GrantId]) -> Outcome<Stamped<Vec<GrantRow>>> {
    let ids: Vec<&str> = ids.iter().map(GrantId::as_str).collect();
    // The time is there also if no grant is.
    let sql = format!(
        "SELECT {GRANT}, clock.now FROM (SELECT {NOW} AS now) AS clock
         LEFT JOIN tokenward.grants ON id = ANY($1)"
    );
    let rows = pool.query(&sql, params![TEXT_ARRAY ids]).await?;
    let at = rows.first().and_then(|row| row.try_get("now").ok());
    let there = rows.iter().filter(|row| row.try_get::<_, &str>(0).is_ok());
    Ok(Stamped {
        value: there
            .map(|row| rows::grant(row).map(|read| read.row))
            .collect::<Outcome<_>>()?,
        at: StoreTime(at.ok_or_else(no_row)?),
    })
}

/// A grant and the database's time, which is later than every time in the row: one statement reads
/// both, and takes its snapshot before it looks at the clock.
pub(crate) async fn find(pool: &Pool, id: &GrantId) -> Outcome<Stamped<Option<Read>>> {
    let rows = pool.query(&find_sql(), params![TEXT id.as_str()]).await?;
    let row = rows.first().ok_or_else(no_row)?;
    let at = row.try_get("now").map(StoreTime).map_err(|_| no_row())?;
    let known = row.try_get::<_, Option<&str>>(0).map_err(|_| no_row())?;
    Ok(Stamped {
        value: known.map(|_| rows::grant(row)).transpose()?,
        at,
    })
}

pub(crate) fn find_sql() -> String {
    format!(
        "SELECT {GRANT}, now FROM (SELECT {NOW} AS now) AS clock
         LEFT JOIN tokenward.grants ON id = $1"
    )
}

fn no_row() -> Fault {
    Fault::Refused("PostgreSQL: the clock did not answer".to_owned())
}

/// Replaces the row that was read by another. `None`: somebody else has replaced it meanwhile.
/// Otherwise the database's time.
pub(crate) async fn write(pool: &Pool, read: &Read, row: &GrantRow) -> Outcome<Option<StoreTime>> {
    let values = Values::of(row)?;
    // A dead grant's token ends without a new version.
    let same_token = (row.version, row.expires_at) == (read.row.version, read.row.expires_at);
    let rows = if same_token {
        let sql = match told(&read.row, row) {
            true => &LEDGER_TOLD_SQL,
            false => &LEDGER_SQL,
        };
        pool.query(sql, &values.ledger(&read.revision)).await?
    } else {
        let mut params = values.token(&read.revision);
        // The database puts its own time to it.
        match ReplacedToken::between(&read.row, row, StoreTime(0)) {
            Some(token) => {
                let (slot, digest) = (i64::from(token.slot), token.fingerprint.as_slice());
                params.push((&slot, Type::INT8));
                params.push((&digest, Type::BYTEA));
                pool.query(&REPLACING_TOKEN_SQL, &params).await?
            }
            None => pool.query(&TOKEN_SQL, &params).await?,
        }
    };
    rows.first()
        .map(|row| row.try_get(0).map(StoreTime))
        .transpose()
        .map_err(|_| no_row())
}

/// The first one by id: several may have the token if the provider gave it to them.
pub(crate) async fn by_fingerprint(
    pool: &Pool,
    application: &ApplicationId,
    connector: &ConnectorId,
    fingerprint: &[u8; 32],
) -> Outcome<Option<GrantRow>> {
    let params = params![
        BYTEA fingerprint.as_slice(), TEXT application.as_str(), TEXT connector.as_str(),
    ];
    let rows = pool.query(&by_fingerprint_sql(), params).await?;
    Ok(all(&rows)?.pop())
}

pub(crate) fn by_fingerprint_sql() -> String {
    format!(
        "SELECT {GRANT} FROM tokenward.grants
         WHERE fingerprint = $1 AND application = $2 AND connector = $3 ORDER BY id LIMIT 1"
    )
}

pub(crate) async fn keep_alive_due(pool: &Pool, limit: usize) -> Outcome<Vec<GrantRow>> {
    all(&pool
        .query(&keep_alive_sql(), params![INT8 saturated(limit)])
        .await?)
}

/// `now()` and not the clock, which would keep the index from being used.
pub(crate) fn keep_alive_sql() -> String {
    format!(
        "SELECT {GRANT} FROM tokenward.grants
         WHERE keep_alive_day <= floor(extract(epoch from now()) / 86400)::bigint
           AND keep_alive_at <= floor(extract(epoch from now()) * 1000)::bigint
           AND dead IS NULL
           AND (retry_at IS NULL OR retry_at <= floor(extract(epoch from now()) * 1000)::bigint)
         ORDER BY keep_alive_at, id LIMIT $1"
    )
}

pub(crate) async fn after(
    pool: &Pool,
    after: Option<&GrantId>,
    limit: usize,
) -> Outcome<Vec<GrantRow>> {
    // No id is empty.
    let after = after.map_or("", GrantId::as_str);
    let sql = format!("SELECT {GRANT} FROM tokenward.grants WHERE id > $1 ORDER BY id LIMIT $2");
    all(&pool
        .query(&sql, params![TEXT after, INT8 saturated(limit)])
        .await?)
}

pub(crate) async fn reseal(
    pool: &Pool,
    id: &GrantId,
    version: u64,
    sealed: &[u8],
) -> Outcome<bool> {
    let sql = "UPDATE tokenward.grants SET sealed = $1, revision = revision + 1
         WHERE id = $2 AND version = $3 RETURNING 1";
    let params = params![BYTEA sealed, TEXT id.as_str(), INT8 integer(version)?];
    Ok(!pool.query(sql, params).await?.is_empty())
}

fn all(rows: &[Row]) -> Outcome<Vec<GrantRow>> {
    rows.iter()
        .map(|row| rows::grant(row).map(|read| read.row))
        .collect()
}
