//! Connections, and what touches a connection and its grant together.

use tokenward::{
    id::{ApplicationId, ConnectionKey, ConsumerId, GrantId},
    refresh::ledger::GrantRow,
    store::{
        Authorize, Authorized, Change, Connection, ConnectionPatch, Deleted, Present, Stamped,
    },
};
use tokio_postgres::Row;

use crate::{
    attempts, changes,
    columns::{INSERT_SQL, REPLACE_SQL, Values},
    fault::{Fault, Outcome},
    grants,
    pool::Pool,
    rows::{self, CONNECTION, GRANT, Read, saturated, to_json},
    sql::params,
    transaction::{Changing, Fenced},
    unread,
};

const BY_KEY: &str = "application = $1 AND consumer = $2 AND unified_api = $3 AND service = $4";

macro_rules! key_params {
    ($key:expr) => {
        params![
            TEXT $key.application.as_str(), TEXT $key.consumer.as_str(),
            TEXT &*$key.unified_api, TEXT $key.service.as_str(),
        ]
    };
}

pub(crate) async fn find(pool: &Pool, key: &ConnectionKey) -> Outcome<Option<Connection>> {
    one(&pool.query(&find_sql(), key_params!(key)).await?)
}

pub(crate) fn find_sql() -> String {
    format!("SELECT {CONNECTION} FROM tokenward.connections WHERE {BY_KEY}")
}

pub(crate) async fn of_application(
    pool: &Pool,
    application: &ApplicationId,
    consumer: Option<&ConsumerId>,
) -> Outcome<Vec<Connection>> {
    const ORDER: &str = "ORDER BY application, consumer, unified_api, service";
    let select = format!("SELECT {CONNECTION} FROM tokenward.connections WHERE application = $1");
    let rows = match consumer {
        Some(consumer) => {
            let params = params![TEXT application.as_str(), TEXT consumer.as_str()];
            pool.query(&format!("{select} AND consumer = $2 {ORDER}"), params)
                .await?
        }
        None => {
            pool.query(
                &format!("{select} {ORDER}"),
                params![TEXT application.as_str()],
            )
            .await?
        }
    };
    rows.iter().map(rows::connection).collect()
}

pub(crate) async fn of_grant(pool: &Pool, grant: &GrantId) -> Outcome<Option<Connection>> {
    one(&pool
        .query(&of_grant_sql(), params![TEXT grant.as_str()])
        .await?)
}

pub(crate) fn of_grant_sql() -> String {
    format!("SELECT {CONNECTION} FROM tokenward.connections WHERE grant_id = $1 LIMIT 1")
}

pub(crate) async fn after(
    pool: &Pool,
    after: Option<&ConnectionKey>,
    limit: usize,
) -> Outcome<Vec<Connection>> {
    // No application's id is empty.
    let nobody = ConnectionKey::new("", "", "", "");
    let key = after.unwrap_or(&nobody);
    let sql = format!(
        "SELECT {CONNECTION} FROM tokenward.connections
         WHERE (application, consumer, unified_api, service) > ($1, $2, $3, $4)
         ORDER BY application, consumer, unified_api, service LIMIT $5"
    );
    let params = params![
        TEXT key.application.as_str(), TEXT key.consumer.as_str(), TEXT &*key.unified_api,
        TEXT key.service.as_str(), INT8 saturated(limit),
    ];
    let rows = pool.query(&sql, params).await?;
    rows.iter().map(rows::connection).collect()
}

pub(crate) async fn authorize(
    changing: &Changing<'_>,
    request: Authorize,
) -> Outcome<Stamped<Authorized>> {
    let key = &request.connection;
    let mut fenced = vec![Fenced::Connection(key), Fenced::Grant(&request.grant)];
    fenced.extend(request.held.as_ref().map(Fenced::Grant));
    fenced.extend(request.fresh.fingerprint.as_ref().map(Fenced::Token));
    changing.fence(&key.application, &fenced).await?;
    let at = changing.now().await?;
    let read = grant_row(changing, &request.grant).await?;
    let present = present(changing, &request, read.as_ref()).await?;
    let (before, attempt) = (request.held.clone(), request.attempt.clone());
    let (connection, row) = match request.decide(present, at) {
        Ok(decided) => decided,
        Err(conflict) => {
            return Ok(Stamped {
                value: Authorized::Conflict(conflict),
                at,
            });
        }
    };
    match read {
        Some(read) => replace(changing, &read, &row).await?,
        None => insert(changing, &row).await?,
    }
    save(changing, &connection).await?;
    if let Some(attempt) = attempt {
        attempts::replace(changing, &attempt).await?;
    }
    drop_unused(changing, before.as_ref()).await?;
    let told = changing.transaction();
    changes::announce(told, &Change::Grant(row.id.clone(), row.version)).await?;
    changes::announce(told, &Change::Connection(connection.key.clone())).await?;
    Ok(Stamped {
        value: Authorized::Done(Box::new(connection), Box::new(row)),
        at,
    })
}

async fn present(
    changing: &Changing<'_>,
    request: &Authorize,
    read: Option<&Read>,
) -> Outcome<Present> {
    let key = &request.connection;
    let connection = one(&changing.query(&find_sql(), key_params!(key)).await?)?;
    let mut present = Present {
        row: read.map(|read| read.row.clone()),
        ..Present::default()
    };
    if let Some(used) = connection.as_ref().and_then(|c| c.grant.as_ref()) {
        present.used = grant_row(changing, used).await?.map(|read| read.row);
    }
    if let Some(attempt) = &request.attempt {
        present.attempt = attempts::revision(changing, &attempt.id).await?;
    }
    if let Some(fingerprint) = &request.fresh.fingerprint {
        let params = params![
            BYTEA fingerprint.as_slice(), TEXT key.application.as_str(), TEXT key.service.as_str(),
        ];
        let twin = changing
            .query(&grants::by_fingerprint_sql(), params)
            .await?;
        let twin = twin.first().map(rows::grant).transpose()?;
        present.twin = twin.map(|twin| twin.row.id);
        let replaced = changing.query(unread::REPLACED_BY_TOKEN, params).await?;
        present.replaced = replaced.first().map(rows::replaced).transpose()?;
    }
    present.connection = connection;
    Ok(present)
}

pub(crate) async fn patch(
    changing: &Changing<'_>,
    key: ConnectionKey,
    patch: ConnectionPatch,
) -> Outcome<Connection> {
    changing
        .fence(&key.application, &[Fenced::Connection(&key)])
        .await?;
    let at = changing.now().await?;
    let known = one(&changing.query(&find_sql(), key_params!(key)).await?)?;
    let mut connection = known.unwrap_or_else(|| Connection::new(key.clone(), at));
    connection.apply(patch, at);
    save(changing, &connection).await?;
    changes::announce(changing.transaction(), &Change::Connection(key)).await?;
    Ok(connection)
}

pub(crate) async fn link(
    changing: &Changing<'_>,
    key: ConnectionKey,
    grant: GrantId,
    patch: ConnectionPatch,
) -> Outcome<Option<Connection>> {
    let known = fenced(changing, &key, Some(&grant)).await?;
    if grant_row(changing, &grant).await?.is_none() {
        return Ok(None);
    }
    let at = changing.now().await?;
    let mut connection = known.unwrap_or_else(|| Connection::new(key.clone(), at));
    let before = connection.grant.replace(grant);
    connection.apply(patch, at);
    save(changing, &connection).await?;
    drop_unused(changing, before.as_ref()).await?;
    changes::announce(changing.transaction(), &Change::Connection(key)).await?;
    Ok(Some(connection))
}

pub(crate) async fn unlink(
    changing: &Changing<'_>,
    key: &ConnectionKey,
) -> Outcome<Option<Deleted>> {
    let Some(mut connection) = fenced(changing, key, None).await? else {
        return Ok(None);
    };
    let before = connection.unlink(changing.now().await?);
    save(changing, &connection).await?;
    let grant = drop_unused(changing, before.as_ref()).await?;
    changes::announce(changing.transaction(), &Change::Connection(key.clone())).await?;
    Ok(Some(Deleted { connection, grant }))
}

pub(crate) async fn delete(
    changing: &Changing<'_>,
    key: &ConnectionKey,
) -> Outcome<Option<Deleted>> {
    let Some(connection) = fenced(changing, key, None).await? else {
        return Ok(None);
    };
    changing
        .query(
            &format!("DELETE FROM tokenward.connections WHERE {BY_KEY}"),
            key_params!(key),
        )
        .await?;
    attempts::forget_of_connection(changing, key).await?;
    let grant = drop_unused(changing, connection.grant.as_ref()).await?;
    changes::announce(changing.transaction(), &Change::Connection(key.clone())).await?;
    Ok(Some(Deleted { connection, grant }))
}

/// Fences a connection, the grant that it uses, and another. The connection, as it stands.
async fn fenced(
    changing: &Changing<'_>,
    key: &ConnectionKey,
    other: Option<&GrantId>,
) -> Outcome<Option<Connection>> {
    let seen = one(&changing.query(&find_sql(), key_params!(key)).await?)?;
    let seen = seen.and_then(|connection| connection.grant);
    let mut fences = vec![Fenced::Connection(key)];
    fences.extend(seen.iter().chain(other).map(Fenced::Grant));
    changing.fence(&key.application, &fences).await?;
    let known = one(&changing.query(&find_sql(), key_params!(key)).await?)?;
    // It was linked elsewhere before the fence was ours: the wrong grant is fenced.
    if known
        .as_ref()
        .and_then(|connection| connection.grant.as_ref())
        != seen.as_ref()
    {
        return Err(Fault::Contended);
    }
    Ok(known)
}

/// Removes a grant that no connection uses any more.
async fn drop_unused(
    changing: &Changing<'_>,
    grant: Option<&GrantId>,
) -> Outcome<Option<GrantRow>> {
    let Some(id) = grant else { return Ok(None) };
    let used = changing
        .query(&of_grant_sql(), params![TEXT id.as_str()])
        .await?;
    if !used.is_empty() {
        return Ok(None);
    }
    let gone = changing
        .query(
            &format!("DELETE FROM tokenward.grants WHERE id = $1 RETURNING {GRANT}"),
            params![TEXT id.as_str()],
        )
        .await?;
    let row = gone.first().map(rows::grant).transpose()?;
    let row = row.map(|read| read.row);
    if let Some(row) = &row {
        unread::forget(changing, id).await?;
        let change = Change::Grant(id.clone(), row.version);
        changes::announce(changing.transaction(), &change).await?;
    }
    Ok(row)
}

async fn grant_row(changing: &Changing<'_>, id: &GrantId) -> Outcome<Option<Read>> {
    let sql = format!("SELECT {GRANT} FROM tokenward.grants WHERE id = $1");
    let rows = changing.query(&sql, params![TEXT id.as_str()]).await?;
    rows.first().map(rows::grant).transpose()
}

/// As [`grants::write`], within the transaction and announced by it.
async fn replace(changing: &Changing<'_>, read: &Read, row: &GrantRow) -> Outcome<()> {
    let values = Values::of(row)?;
    let params = values.authorization(&read.revision);
    if changing.query(&REPLACE_SQL, &params).await?.is_empty() {
        return Err(Fault::Contended);
    }
    Ok(())
}

async fn insert(changing: &Changing<'_>, row: &GrantRow) -> Outcome<()> {
    let values = Values::of(row)?;
    changing.query(&INSERT_SQL, &values.all()).await?;
    Ok(())
}

pub(crate) async fn save(changing: &Changing<'_>, connection: &Connection) -> Outcome<()> {
    let sql = format!(
        "WITH consumer AS (
             INSERT INTO tokenward.consumers (application, id, metadata, created_at, modified_at)
             VALUES ($1, $2, '{{}}', $9, $9) ON CONFLICT (application, id) DO NOTHING
         )
         INSERT INTO tokenward.connections ({CONNECTION})
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (application, consumer, unified_api, service) DO UPDATE SET
            grant_id = excluded.grant_id, enabled = excluded.enabled,
            settings = excluded.settings, metadata = excluded.metadata,
            updated_at = excluded.updated_at"
    );
    let key = &connection.key;
    let params = params![
        TEXT key.application.as_str(), TEXT key.consumer.as_str(), TEXT &*key.unified_api,
        TEXT key.service.as_str(), TEXT connection.grant.as_ref().map(GrantId::as_str),
        BOOL connection.enabled, TEXT to_json(&connection.settings)?,
        TEXT to_json(&connection.metadata)?, INT8 connection.created_at.0,
        INT8 connection.updated_at.0,
    ];
    changing.query(&sql, params).await?;
    Ok(())
}

fn one(rows: &[Row]) -> Outcome<Option<Connection>> {
    rows.first().map(rows::connection).transpose()
}
