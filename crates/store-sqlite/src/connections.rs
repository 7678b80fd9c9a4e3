//! Connections, and what touches a connection and its grant together.

use rusqlite::{Connection as Db, Params, named_params, params};
use tokenward::{
    id::{ApplicationId, ConnectionKey, ConsumerId, GrantId},
    refresh::ledger::GrantRow,
    store::{
        Authorize, Authorized, Change, Connection, ConnectionPatch, Deleted, Present, Stamped,
    },
};

use crate::{
    attempts, changes, consumers, grants,
    job::Outcome,
    rows::{self, CONNECTION, saturated, to_json},
    unread,
};

pub(crate) fn find(db: &Db, key: &ConnectionKey) -> Outcome<Option<Connection>> {
    let sql = format!(
        "SELECT {CONNECTION} FROM connections
         WHERE application = ? AND consumer = ? AND unified_api = ? AND service = ?"
    );
    one(db, &sql, key_params(key))
}

pub(crate) fn of_application(
    db: &Db,
    application: &ApplicationId,
    consumer: Option<&ConsumerId>,
) -> Outcome<Vec<Connection>> {
    const ORDER: &str = "ORDER BY application, consumer, unified_api, service";
    match consumer {
        Some(consumer) => all(
            db,
            &format!(
                "SELECT {CONNECTION} FROM connections WHERE application = ? AND consumer = ? {ORDER}"
            ),
            [application.as_str(), consumer.as_str()],
        ),
        None => all(
            db,
            &format!("SELECT {CONNECTION} FROM connections WHERE application = ? {ORDER}"),
            [application.as_str()],
        ),
    }
}

pub(crate) fn of_grant(db: &Db, grant: &GrantId) -> Outcome<Option<Connection>> {
    one(
        db,
        &format!("SELECT {CONNECTION} FROM connections WHERE grant_id = ? LIMIT 1"),
        [grant.as_str()],
    )
}

pub(crate) fn after(
    db: &Db,
    after: Option<&ConnectionKey>,
    limit: usize,
) -> Outcome<Vec<Connection>> {
    // No application's id is empty.
    let [a, b, c, d] = after.map_or([""; 4], key_params);
    all(
        db,
        &format!(
            "SELECT {CONNECTION} FROM connections
             WHERE (application, consumer, unified_api, service) > (?, ?, ?, ?)
             ORDER BY application, consumer, unified_api, service LIMIT ?"
        ),
        params![a, b, c, d, saturated(limit)],
    )
}

pub(crate) fn authorize(db: &Db, request: Authorize) -> Outcome<Stamped<Authorized>> {
    let at = grants::now();
    let present = present(db, &request)?;
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
    grants::save(db, &row)?;
    save(db, &connection)?;
    if let Some(attempt) = attempt {
        attempts::replace(db, &attempt)?;
    }
    drop_unused(db, before.as_ref())?;
    changes::announce(db, &Change::Grant(row.id.clone(), row.version))?;
    changes::announce(db, &Change::Connection(connection.key.clone()))?;
    Ok(Stamped {
        value: Authorized::Done(Box::new(connection), Box::new(row)),
        at,
    })
}

fn present(db: &Db, request: &Authorize) -> Outcome<Present> {
    let key = &request.connection;
    let connection = find(db, key)?;
    let mut present = Present {
        row: grants::find(db, &request.grant)?,
        ..Present::default()
    };
    if let Some(used) = connection.as_ref().and_then(|c| c.grant.as_ref()) {
        present.used = grants::find(db, used)?;
    }
    if let Some(attempt) = &request.attempt {
        present.attempt = attempts::revision(db, &attempt.id)?;
    }
    if let Some(fingerprint) = &request.fresh.fingerprint {
        let (application, connector) = (&key.application, &key.service);
        let twin = grants::by_fingerprint(db, application, connector, fingerprint)?;
        present.twin = twin.map(|twin| twin.id);
        present.replaced = unread::replaced(db, application, connector, fingerprint)?;
    }
    present.connection = connection;
    Ok(present)
}

pub(crate) fn patch(db: &Db, key: ConnectionKey, patch: ConnectionPatch) -> Outcome<Connection> {
    let at = grants::now();
    let mut connection = find(db, &key)?.unwrap_or_else(|| Connection::new(key.clone(), at));
    connection.apply(patch, at);
    save(db, &connection)?;
    changes::announce(db, &Change::Connection(key))?;
    Ok(connection)
}

pub(crate) fn link(
    db: &Db,
    key: ConnectionKey,
    grant: GrantId,
    patch: ConnectionPatch,
) -> Outcome<Option<Connection>> {
    if grants::find(db, &grant)?.is_none() {
        return Ok(None);
    }
    let at = grants::now();
    let mut connection = find(db, &key)?.unwrap_or_else(|| Connection::new(key.clone(), at));
    let before = connection.grant.replace(grant);
    connection.apply(patch, at);
    save(db, &connection)?;
    changes::announce(db, &Change::Connection(key))?;
    drop_unused(db, before.as_ref())?;
    Ok(Some(connection))
}

pub(crate) fn unlink(db: &Db, key: &ConnectionKey) -> Outcome<Option<Deleted>> {
    let Some(mut connection) = find(db, key)? else {
        return Ok(None);
    };
    let before = connection.unlink(grants::now());
    save(db, &connection)?;
    changes::announce(db, &Change::Connection(key.clone()))?;
    let grant = drop_unused(db, before.as_ref())?;
    Ok(Some(Deleted { connection, grant }))
}

pub(crate) fn delete(db: &Db, key: &ConnectionKey) -> Outcome<Option<Deleted>> {
    let Some(connection) = find(db, key)? else {
        return Ok(None);
    };
    db.prepare_cached(
        "DELETE FROM connections WHERE application = ? AND consumer = ? AND unified_api = ? AND service = ?",
    )?
    .execute(key_params(key))?;
    attempts::forget_of_connection(db, key)?;
    changes::announce(db, &Change::Connection(key.clone()))?;
    let grant = drop_unused(db, connection.grant.as_ref())?;
    Ok(Some(Deleted { connection, grant }))
}

/// Removes a grant that no connection uses any more.
fn drop_unused(db: &Db, grant: Option<&GrantId>) -> Outcome<Option<GrantRow>> {
    let Some(id) = grant else { return Ok(None) };
    if of_grant(db, id)?.is_some() {
        return Ok(None);
    }
    let row = grants::find(db, id)?;
    if let Some(row) = &row {
        grants::delete(db, id)?;
        changes::announce(db, &Change::Grant(id.clone(), row.version))?;
    }
    Ok(row)
}

pub(crate) fn save(db: &Db, connection: &Connection) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO connections ({CONNECTION}) VALUES (
            :application, :consumer, :unified_api, :service, :grant, :enabled, :settings, :metadata,
            :created_at, :updated_at)
         ON CONFLICT (application, consumer, unified_api, service) DO UPDATE SET
            grant_id = excluded.grant_id, enabled = excluded.enabled, settings = excluded.settings,
            metadata = excluded.metadata, updated_at = excluded.updated_at"
    );
    let key = &connection.key;
    consumers::ensure(db, &key.application, &key.consumer, connection.created_at)?;
    db.prepare_cached(&sql)?.execute(named_params! {
        ":application": key.application.as_str(),
        ":consumer": key.consumer.as_str(),
        ":unified_api": &*key.unified_api,
        ":service": key.service.as_str(),
        ":grant": connection.grant.as_ref().map(GrantId::as_str),
        ":enabled": connection.enabled,
        ":settings": to_json(&connection.settings)?,
        ":metadata": to_json(&connection.metadata)?,
        ":created_at": connection.created_at.0,
        ":updated_at": connection.updated_at.0,
    })?;
    Ok(())
}

pub(crate) fn key_params(key: &ConnectionKey) -> [&str; 4] {
    [
        key.application.as_str(),
        key.consumer.as_str(),
        &key.unified_api,
        key.service.as_str(),
    ]
}

fn one(db: &Db, sql: &str, params: impl Params) -> Outcome<Option<Connection>> {
    db.prepare_cached(sql)?
        .query(params)?
        .next()?
        .map(rows::connection)
        .transpose()
}

fn all(db: &Db, sql: &str, params: impl Params) -> Outcome<Vec<Connection>> {
    db.prepare_cached(sql)?
        .query_and_then(params, rows::connection)?
        .collect()
}
