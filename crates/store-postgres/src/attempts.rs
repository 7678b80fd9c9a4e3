//! Authorization attempts.

use async_trait::async_trait;
use tokenward::{
    authorize::AttemptRow,
    id::{AttemptId, ConnectionKey},
    store::{Attempts, Stamped, StoreResult},
    time::StoreTime,
};
use tokio_postgres::Row;

use crate::{
    PostgresStore,
    fault::{Fault, Outcome},
    pool::Pool,
    rows::{self, ATTEMPT, integer, saturated, to_json},
    sql::{NOW, params},
    transaction::{Changing, Fenced, change},
};

macro_rules! at_params {
    ($key:expr) => {
        params![
            TEXT $key.application.as_str(), TEXT $key.consumer.as_str(), TEXT &*$key.unified_api,
            TEXT $key.service.as_str(),
        ]
    };
}

#[async_trait]
impl Attempts for PostgresStore {
    async fn begin_attempt(&self, row: AttemptRow) -> StoreResult<Option<Stamped<AttemptRow>>> {
        self.pool
            .patiently(false, || {
                let row = row.clone();
                change(
                    self,
                    Box::new(move |changing: &Changing<'_>| {
                        Box::pin(async move { begin(changing, row).await })
                    }),
                )
            })
            .await
    }

    async fn attempt(&self, id: &AttemptId) -> StoreResult<Stamped<Option<AttemptRow>>> {
        // The id comes from whoever has an address.
        self.strangers
            .patiently(true, || find(&self.strangers, id))
            .await
    }

    async fn attempts_at(&self, key: &ConnectionKey) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        self.pool
            .patiently(true, || async {
                let rows = self.pool.query(&at_sql(), at_params!(key)).await?;
                stamped(&rows)
            })
            .await
    }

    async fn replace_attempt(&self, row: AttemptRow) -> StoreResult<bool> {
        // Not repeatable: whether the first time took effect would not be told from somebody else's.
        self.pool
            .patiently(false, || async {
                let (due_at, body) = (row.due_at().0, to_json(&row)?);
                let params = params![
                    TEXT row.id.as_str(), INT8 integer(row.revision)?, INT8 due_at, TEXT body,
                    BYTEA row.sealed,
                ];
                Ok(!self.pool.query(REPLACE, params).await?.is_empty())
            })
            .await
    }

    async fn remove_attempt(&self, id: &AttemptId, revision: u64) -> StoreResult<bool> {
        let sql = "DELETE FROM tokenward.attempts WHERE id = $1 AND revision = $2 RETURNING 1";
        self.pool
            .patiently(false, || async {
                let params = params![TEXT id.as_str(), INT8 integer(revision)?];
                Ok(!self.pool.query(sql, params).await?.is_empty())
            })
            .await
    }

    async fn attempts_due(&self, limit: usize) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        // `now()` and not the clock, which would keep the index from being used.
        let sql = format!(
            "SELECT {ATTEMPT}, clock.now FROM (SELECT {NOW} AS now) AS clock LEFT JOIN (
                 SELECT {ATTEMPT} FROM tokenward.attempts
                 WHERE due_at <= floor(extract(epoch from now()) * 1000)::bigint
                 ORDER BY due_at, id LIMIT $1
             ) AS due ON true"
        );
        self.pool
            .patiently(true, || async {
                let params = params![INT8 saturated(limit)];
                stamped(&self.pool.query(&sql, params).await?)
            })
            .await
    }

    async fn attempts_after(
        &self,
        after: Option<&AttemptId>,
        limit: usize,
    ) -> StoreResult<Vec<AttemptRow>> {
        // No id is empty.
        let after = after.map_or("", AttemptId::as_str);
        let sql =
            format!("SELECT {ATTEMPT} FROM tokenward.attempts WHERE id > $1 ORDER BY id LIMIT $2");
        self.pool
            .patiently(true, || async {
                let params = params![TEXT after, INT8 saturated(limit)];
                let rows = self.pool.query(&sql, params).await?;
                rows.iter().map(rows::attempt).collect()
            })
            .await
    }
}

async fn begin(
    changing: &Changing<'_>,
    mut row: AttemptRow,
) -> Outcome<Option<Stamped<AttemptRow>>> {
    let key = row.connection.clone();
    changing
        .fence(&key.application, &[Fenced::Connection(&key)])
        .await?;
    let rows = changing.query(&at_sql(), at_params!(key)).await?;
    let Stamped { value: present, at } = stamped(&rows)?;
    row.begin(at);
    let Some(surplus) = AttemptRow::surplus(&present, at) else {
        return Ok(None);
    };
    let surplus: Vec<&str> = surplus.iter().map(AttemptId::as_str).collect();
    changing
        .query(
            "DELETE FROM tokenward.attempts WHERE id = ANY($1)",
            params![TEXT_ARRAY surplus],
        )
        .await?;
    put(changing, &row).await?;
    Ok(Some(Stamped { value: row, at }))
}

async fn find(pool: &Pool, id: &AttemptId) -> Outcome<Stamped<Option<AttemptRow>>> {
    let sql = find_sql();
    let rows = pool.query(&sql, params![TEXT id.as_str()]).await?;
    let Stamped { mut value, at } = stamped(&rows)?;
    Ok(Stamped {
        value: value.pop(),
        at,
    })
}

pub(crate) fn find_sql() -> String {
    format!(
        "SELECT {ATTEMPT}, clock.now FROM (SELECT {NOW} AS now) AS clock
         LEFT JOIN tokenward.attempts ON id = $1"
    )
}

pub(crate) fn at_sql() -> String {
    format!(
        "SELECT {ATTEMPT}, clock.now FROM (SELECT {NOW} AS now) AS clock
         LEFT JOIN tokenward.attempts
         ON application = $1 AND consumer = $2 AND unified_api = $3 AND service = $4"
    )
}

/// Rows and the database's time, which is there also if none of them is.
fn stamped(rows: &[Row]) -> Outcome<Stamped<Vec<AttemptRow>>> {
    let at = rows.first().and_then(|row| row.try_get("now").ok());
    let there = rows.iter().filter(|row| row.try_get::<_, &str>(0).is_ok());
    Ok(Stamped {
        value: there.map(rows::attempt).collect::<Outcome<_>>()?,
        at: StoreTime(
            at.ok_or_else(|| Fault::Refused("PostgreSQL: the clock did not answer".to_owned()))?,
        ),
    })
}

pub(crate) async fn revision(changing: &Changing<'_>, id: &AttemptId) -> Outcome<Option<u64>> {
    let sql = format!("SELECT {ATTEMPT} FROM tokenward.attempts WHERE id = $1");
    let rows = changing.query(&sql, params![TEXT id.as_str()]).await?;
    let row = rows.first().map(rows::attempt).transpose()?;
    Ok(row.map(|row| row.revision))
}

/// Writes a row in the place of the one of its revision.
const REPLACE: &str =
    "UPDATE tokenward.attempts SET due_at = $3, body = $4, sealed = $5, revision = revision + 1
     WHERE id = $1 AND revision = $2 RETURNING 1";

/// As the statement by itself, within a transaction.
pub(crate) async fn replace(changing: &Changing<'_>, row: &AttemptRow) -> Outcome<()> {
    let (due_at, body) = (row.due_at().0, to_json(row)?);
    let params = params![
        TEXT row.id.as_str(), INT8 integer(row.revision)?, INT8 due_at, TEXT body, BYTEA row.sealed,
    ];
    if changing.query(REPLACE, params).await?.is_empty() {
        return Err(Fault::Contended);
    }
    Ok(())
}

/// Writes a row, new or not.
pub(crate) async fn put(changing: &Changing<'_>, row: &AttemptRow) -> Outcome<()> {
    let key = &row.connection;
    let (due_at, body) = (row.due_at().0, to_json(row)?);
    let sql = "INSERT INTO tokenward.attempts
            (id, application, consumer, unified_api, service, due_at, body, sealed, revision)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE SET
            due_at = excluded.due_at, body = excluded.body, sealed = excluded.sealed,
            revision = excluded.revision";
    let params = params![
        TEXT row.id.as_str(), TEXT key.application.as_str(), TEXT key.consumer.as_str(),
        TEXT &*key.unified_api, TEXT key.service.as_str(), INT8 due_at, TEXT body,
        BYTEA row.sealed, INT8 integer(row.revision)?,
    ];
    changing.query(sql, params).await?;
    Ok(())
}

/// A connection's attempts go with it: whoever is still at one finds nothing to connect.
pub(crate) async fn forget_of_connection(
    changing: &Changing<'_>,
    key: &ConnectionKey,
) -> Outcome<()> {
    let sql = "DELETE FROM tokenward.attempts
         WHERE application = $1 AND consumer = $2 AND unified_api = $3 AND service = $4";
    changing.query(sql, at_params!(key)).await?;
    Ok(())
}
