//! Applications, their keys and OAuth clients, and the vault's own values.

use rusqlite::{Connection as Db, OptionalExtension, params};
use tokenward::{
    id::{ApplicationId, ConnectorId},
    store::{
        ApiKey, Application, ApplicationSettings, Change, NewApiKey, OAuthClient, Stamped,
        USE_NOTED_FOR,
    },
};

use crate::{
    attempts, changes, grants,
    job::{Fault, Outcome},
    rows::{self, API_KEY, APPLICATION, CLIENT, saturated, to_json},
};

pub(crate) fn put_client(db: &Db, client: &OAuthClient) -> Outcome<()> {
    let sql = format!("INSERT OR REPLACE INTO clients ({CLIENT}) VALUES (?, ?, ?, ?, ?, ?)");
    db.prepare_cached(&sql)?.execute(params![
        client.application.as_str(),
        client.connector.as_str(),
        client.client_id,
        client.sealed_secret,
        to_json(&client.settings)?,
        to_json(&client.scopes)?,
    ])?;
    changes::announce(
        db,
        &Change::Client(client.application.clone(), client.connector.clone()),
    )
}

pub(crate) fn client(
    db: &Db,
    application: &ApplicationId,
    connector: &ConnectorId,
) -> Outcome<Option<OAuthClient>> {
    db.prepare_cached(&format!(
        "SELECT {CLIENT} FROM clients WHERE application = ? AND connector = ?"
    ))?
    .query([application.as_str(), connector.as_str()])?
    .next()?
    .map(rows::client)
    .transpose()
}

pub(crate) fn clients(db: &Db, application: &ApplicationId) -> Outcome<Vec<OAuthClient>> {
    db.prepare_cached(&format!(
        "SELECT {CLIENT} FROM clients WHERE application = ? ORDER BY connector"
    ))?
    .query_and_then([application.as_str()], rows::client)?
    .collect()
}

pub(crate) fn clients_after(
    db: &Db,
    after: Option<&(ApplicationId, ConnectorId)>,
    limit: usize,
) -> Outcome<Vec<OAuthClient>> {
    let (application, connector) = match after {
        Some((application, connector)) => (application.as_str(), connector.as_str()),
        None => ("", ""),
    };
    db.prepare_cached(&format!(
        "SELECT {CLIENT} FROM clients WHERE (application, connector) > (?, ?)
         ORDER BY application, connector LIMIT ?"
    ))?
    .query_and_then(
        params![application, connector, saturated(limit)],
        rows::client,
    )?
    .collect()
}

/// Nobody holds a copy of a seal: it is not announced.
pub(crate) fn reseal_client(db: &Db, read: &OAuthClient, sealed: &[u8]) -> Outcome<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE clients SET sealed_secret = ?
             WHERE application = ? AND connector = ? AND sealed_secret IS ?",
        )?
        .execute(params![
            sealed,
            read.application.as_str(),
            read.connector.as_str(),
            read.sealed_secret,
        ])?;
    Ok(changed == 1)
}

pub(crate) fn delete_client(
    db: &Db,
    application: ApplicationId,
    connector: ConnectorId,
) -> Outcome<bool> {
    let deleted = db
        .prepare_cached("DELETE FROM clients WHERE application = ? AND connector = ?")?
        .execute([application.as_str(), connector.as_str()])?;
    if deleted > 0 {
        changes::announce(db, &Change::Client(application, connector))?;
    }
    Ok(deleted > 0)
}

pub(crate) fn add_application(db: &Db, id: ApplicationId, name: String) -> Outcome<Application> {
    let known = db
        .prepare_cached("SELECT 1 FROM applications WHERE id = ?")?
        .exists([id.as_str()])?;
    if known {
        return Err(Fault::Refused(format!("application {id} exists already")));
    }
    let application = Application {
        id,
        name,
        created_at: grants::now(),
        settings: ApplicationSettings::default(),
    };
    db.prepare_cached(&format!(
        "INSERT INTO applications ({APPLICATION}) VALUES (?, ?, ?, ?)"
    ))?
    .execute(params![
        application.id.as_str(),
        application.name,
        application.created_at.0,
        to_json(&application.settings)?,
    ])?;
    Ok(application)
}

pub(crate) fn applications(db: &Db) -> Outcome<Vec<Application>> {
    db.prepare_cached(&format!(
        "SELECT {APPLICATION} FROM applications ORDER BY rowid"
    ))?
    .query_and_then([], rows::application)?
    .collect()
}

pub(crate) fn application(db: &Db, id: &ApplicationId) -> Outcome<Option<Application>> {
    db.prepare_cached(&format!(
        "SELECT {APPLICATION} FROM applications WHERE id = ?"
    ))?
    .query([id.as_str()])?
    .next()?
    .map(rows::application)
    .transpose()
}

pub(crate) fn replace_settings(
    db: &Db,
    id: &ApplicationId,
    read: &ApplicationSettings,
    settings: &ApplicationSettings,
) -> Outcome<bool> {
    match application(db, id)? {
        Some(present) if present.settings == *read => {}
        _ => return Ok(false),
    }
    db.prepare_cached("UPDATE applications SET settings = ? WHERE id = ?")?
        .execute(params![to_json(settings)?, id.as_str()])?;
    Ok(true)
}

pub(crate) fn delete_application(db: &Db, id: ApplicationId) -> Outcome<bool> {
    let used = db
        .prepare_cached("SELECT 1 FROM connections WHERE application = ? LIMIT 1")?
        .exists([id.as_str()])?;
    if used {
        return Err(Fault::Refused(format!(
            "application {id} still has connections"
        )));
    }
    let deleted = db
        .prepare_cached("DELETE FROM applications WHERE id = ?")?
        .execute([id.as_str()])?;
    let keys = db
        .prepare_cached("DELETE FROM api_keys WHERE application = ?")?
        .execute([id.as_str()])?;
    let clients = db
        .prepare_cached("DELETE FROM clients WHERE application = ?")?
        .execute([id.as_str()])?;
    db.prepare_cached("DELETE FROM consumers WHERE application = ?")?
        .execute([id.as_str()])?;
    attempts::forget_of_application(db, &id)?;
    if deleted + keys + clients > 0 {
        changes::announce(db, &Change::Application(id))?;
    }
    Ok(deleted > 0)
}

pub(crate) fn add_key(db: &Db, key: NewApiKey) -> Outcome<ApiKey> {
    let key = key.made(grants::now());
    insert_key(db, &key, "")?;
    changes::announce(db, &Change::Application(key.application.clone()))?;
    Ok(key)
}

/// Puts a key in the place of one of the same name.
pub(crate) fn put_key(db: &Db, key: &ApiKey) -> Outcome<()> {
    let replace = "ON CONFLICT (application, id) DO UPDATE SET digest = excluded.digest,
         hint = excluded.hint, scopes = excluded.scopes, created_at = excluded.created_at,
         expires_at = excluded.expires_at, last_used_at = excluded.last_used_at";
    insert_key(db, key, replace)
}

fn insert_key(db: &Db, key: &ApiKey, conflict: &str) -> Outcome<()> {
    db.prepare_cached(&format!(
        "INSERT INTO api_keys ({API_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) {conflict}"
    ))?
    .execute(params![
        key.application.as_str(),
        key.id,
        key.digest,
        key.hint,
        key.scopes.to_string(),
        key.created_at.0,
        key.expires_at.map(|at| at.0),
        key.last_used_at.map(|at| at.0),
    ])?;
    Ok(())
}

pub(crate) fn key_by_digest(db: &Db, digest: &[u8; 32]) -> Outcome<Option<Stamped<ApiKey>>> {
    let key = db
        .prepare_cached(&format!("SELECT {API_KEY} FROM api_keys WHERE digest = ?"))?
        .query([digest])?
        .next()?
        .map(rows::api_key)
        .transpose()?;
    Ok(key.map(|value| Stamped {
        value,
        at: grants::now(),
    }))
}

/// Nobody holds a copy of when a key was shown: it is not announced.
pub(crate) fn keys_used(db: &Db, digests: &[[u8; 32]]) -> Outcome<()> {
    let now = grants::now();
    let mut update = db.prepare_cached(
        "UPDATE api_keys SET last_used_at = ?1
         WHERE digest = ?2 AND (last_used_at IS NULL OR last_used_at <= ?3)",
    )?;
    for digest in digests {
        update.execute(params![now.0, digest, (now - USE_NOTED_FOR).0])?;
    }
    Ok(())
}

pub(crate) fn keys(db: &Db, application: &ApplicationId) -> Outcome<Vec<ApiKey>> {
    db.prepare_cached(&format!(
        "SELECT {API_KEY} FROM api_keys WHERE application = ? ORDER BY rowid"
    ))?
    .query_and_then([application.as_str()], rows::api_key)?
    .collect()
}

pub(crate) fn delete_key(db: &Db, application: ApplicationId, id: &str) -> Outcome<bool> {
    let deleted = db
        .prepare_cached("DELETE FROM api_keys WHERE application = ? AND id = ?")?
        .execute([application.as_str(), id])?;
    if deleted > 0 {
        changes::announce(db, &Change::Application(application))?;
    }
    Ok(deleted > 0)
}

pub(crate) fn value(db: &Db, name: &str) -> Outcome<Option<Vec<u8>>> {
    Ok(db
        .prepare_cached("SELECT value FROM vault_values WHERE name = ?")?
        .query_row([name], |row| row.get(0))
        .optional()?)
}

pub(crate) fn value_or_insert(db: &Db, name: &str, given: Vec<u8>) -> Outcome<Vec<u8>> {
    if let Some(present) = value(db, name)? {
        return Ok(present);
    }
    put_value(db, name, &given)?;
    Ok(given)
}

pub(crate) fn replace_value(db: &Db, name: &str, read: &[u8], value: &[u8]) -> Outcome<bool> {
    let changed = db
        .prepare_cached("UPDATE vault_values SET value = ? WHERE name = ? AND value = ?")?
        .execute(params![value, name, read])?;
    Ok(changed == 1)
}

pub(crate) fn put_value(db: &Db, name: &str, value: &[u8]) -> Outcome<()> {
    db.prepare_cached("INSERT OR REPLACE INTO vault_values (name, value) VALUES (?, ?)")?
        .execute(params![name, value])?;
    Ok(())
}
