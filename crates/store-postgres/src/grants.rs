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
use tokio_postgres::Row;

use crate::{
    PostgresStore,
    fault::{Fault, Outcome},
    pool::{Pool, params},
    rows::{self, GRANT, REPLACED, Read, integer, saturated, to_json},
};

/// The database's time in milliseconds.
pub(crate) const NOW: &str = "floor(extract(epoch from clock_timestamp()) * 1000)::bigint";

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
    let told = told(&read.row, row);
    let rows = if row.version == read.row.version {
        let sql = if told {
            ledger_told_sql()
        } else {
            ledger_sql()
        };
        let claim = row.claim.as_ref();
        let params = params![
            TEXT row.id.as_str(), INT8 read.revision, TEXT values.dead, INT8 values.epoch,
            TEXT claim.map(|claim| claim.owner.as_str()), INT8 values.claim_epoch,
            INT8 values.claim_until, TEXT values.attempt, TEXT values.trouble, INT8 values.retry_at,
        ];
        pool.query(&sql, params).await?
    } else {
        let claim = row.claim.as_ref();
        // The database puts its own time to it.
        let replaced = ReplacedToken::between(&read.row, row, StoreTime(0));
        let params = params![
            TEXT row.id.as_str(), INT8 read.revision, TEXT values.dead, INT8 values.epoch,
            TEXT claim.map(|claim| claim.owner.as_str()), INT8 values.claim_epoch,
            INT8 values.claim_until, TEXT values.attempt, TEXT values.trouble, INT8 values.retry_at,
            INT8 values.version, INT8 values.authorized_version, BYTEA row.sealed,
            INT8 values.expires_at, INT8 values.lifetime_ms, INT8 values.refreshed_at,
            INT8 values.keep_alive_at, INT8 values.keep_alive_day, BYTEA values.fingerprint,
            INT8 values.committed_epoch, INT8 replaced.as_ref().map(|token| i64::from(token.slot)),
            BYTEA replaced.as_ref().map(|token| token.fingerprint.as_slice()),
        ];
        match replaced {
            Some(_) => pool.query(&replacing_token_sql(), params).await?,
            None => pool.query(&token_sql(), &params[..20]).await?,
        }
    };
    rows.first()
        .map(|row| row.try_get(0).map(StoreTime))
        .transpose()
        .map_err(|_| no_row())
}

/// The columns that a claim, an extension and a settlement write.
const LEDGER: &str = "dead = $3, epoch = $4, claim_owner = $5, claim_epoch = $6, claim_until = $7,
     attempt = $8, trouble = $9, retry_at = $10";

/// And those that a commit writes beside them.
const TOKEN: &str = "version = $11, authorized_version = $12, sealed = $13, expires_at = $14,
     lifetime_ms = $15, refreshed_at = $16, keep_alive_at = $17, keep_alive_day = $18,
     fingerprint = $19, committed_epoch = $20";

pub(crate) fn ledger_sql() -> String {
    format!(
        "UPDATE tokenward.grants SET {LEDGER}, revision = revision + 1
         WHERE id = $1 AND revision = $2 RETURNING {NOW}"
    )
}

fn ledger_told_sql() -> String {
    telling(LEDGER, "")
}

pub(crate) fn token_sql() -> String {
    telling(&format!("{LEDGER}, {TOKEN}"), "")
}

/// As [`token_sql`], where the refresh token is another one: the old one's digest is kept.
pub(crate) fn replacing_token_sql() -> String {
    let replaced = format!(
        ", replaced AS (
             INSERT INTO tokenward.replaced_tokens ({REPLACED}) SELECT id, $21, $22, {NOW} FROM done
             ON CONFLICT (grant_id, slot) DO UPDATE SET
                fingerprint = excluded.fingerprint, at = excluded.at
         )"
    );
    telling(&format!("{LEDGER}, {TOKEN}"), &replaced)
}

/// What changed and the word of it are one statement: a replica that dies cannot leave one out.
fn telling(columns: &str, beside: &str) -> String {
    format!(
        "WITH done AS (
             UPDATE tokenward.grants SET {columns}, revision = revision + 1
             WHERE id = $1 AND revision = $2 RETURNING id, version
         ), told AS (
             INSERT INTO tokenward.changes (kind, a, b) SELECT 'grant', id, version::text FROM done
         ){beside}
         SELECT {NOW} FROM done"
    )
}

/// A row's columns in PostgreSQL's types.
pub(crate) struct Values<'a> {
    pub(crate) version: i64,
    pub(crate) authorized_version: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) lifetime_ms: Option<i64>,
    pub(crate) refreshed_at: Option<i64>,
    pub(crate) keep_alive_at: Option<i64>,
    pub(crate) keep_alive_day: Option<i64>,
    pub(crate) fingerprint: Option<&'a [u8]>,
    pub(crate) dead: Option<String>,
    pub(crate) epoch: i64,
    pub(crate) committed_epoch: i64,
    pub(crate) claim_epoch: Option<i64>,
    pub(crate) claim_until: Option<i64>,
    pub(crate) attempt: Option<String>,
    pub(crate) trouble: Option<String>,
    pub(crate) retry_at: Option<i64>,
}

/// A day in milliseconds.
const DAY: i64 = 86_400_000;

impl<'a> Values<'a> {
    pub(crate) fn of(row: &'a GrantRow) -> Outcome<Self> {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let claim = row.claim.as_ref();
        Ok(Self {
            version: integer(row.version)?,
            authorized_version: integer(row.authorized_version)?,
            expires_at: row.expires_at.map(|at| at.0),
            lifetime_ms: row.lifetime.map(millis),
            refreshed_at: row.refreshed_at.map(|at| at.0),
            keep_alive_at: row.keep_alive_at.map(|at| at.0),
            keep_alive_day: row.keep_alive_at.map(|at| at.0.div_euclid(DAY)),
            fingerprint: row.fingerprint.as_ref().map(<[u8; 32]>::as_slice),
            dead: rows::dead(&row.standing)?,
            epoch: integer(row.epoch)?,
            committed_epoch: integer(row.committed_epoch)?,
            claim_epoch: claim.map(|claim| integer(claim.epoch)).transpose()?,
            claim_until: claim.map(|claim| claim.until.0),
            attempt: row.attempt.as_ref().map(to_json).transpose()?,
            trouble: row.trouble.as_ref().map(to_json).transpose()?,
            retry_at: row.trouble.as_ref().map(|trouble| trouble.retry_at.0),
        })
    }
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
