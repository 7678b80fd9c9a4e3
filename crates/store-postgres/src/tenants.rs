//! Applications, their keys and OAuth clients, and the vault's own values.
//!
//! What changes is one statement, together with the word of it.

use std::time::Duration;

use tokenward::{
    id::{ApplicationId, ConnectorId},
    store::{
        ApiKey, Application, ApplicationSettings, Change, NewApiKey, OAuthClient, Stamped,
        USE_NOTED_FOR,
    },
    time::StoreTime,
};

use crate::{
    changes,
    fault::{Fault, Outcome},
    pool::Pool,
    rows::{self, API_KEY, APPLICATION, CLIENT, saturated, to_json},
    sql::{NOW, params},
    transaction::Changing,
};

pub(crate) async fn put_client(pool: &Pool, client: &OAuthClient) -> Outcome<()> {
    let sql = format!(
        "WITH done AS (
             INSERT INTO tokenward.clients ({CLIENT}) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (application, connector) DO UPDATE SET
                client_id = excluded.client_id, sealed_secret = excluded.sealed_secret,
                settings = excluded.settings, scopes = excluded.scopes
             RETURNING application, connector
         )
         INSERT INTO tokenward.changes (kind, a, b)
         SELECT 'client', application, connector FROM done"
    );
    let params = params![
        TEXT client.application.as_str(), TEXT client.connector.as_str(), TEXT client.client_id,
        BYTEA client.sealed_secret, TEXT to_json(&client.settings)?, TEXT to_json(&client.scopes)?,
    ];
    pool.query(&sql, params).await?;
    Ok(())
}

pub(crate) async fn client(
    pool: &Pool,
    application: &ApplicationId,
    connector: &ConnectorId,
) -> Outcome<Option<OAuthClient>> {
    let sql =
        format!("SELECT {CLIENT} FROM tokenward.clients WHERE application = $1 AND connector = $2");
    let rows = pool
        .query(
            &sql,
            params![TEXT application.as_str(), TEXT connector.as_str()],
        )
        .await?;
    rows.first().map(rows::client).transpose()
}

pub(crate) async fn clients(pool: &Pool, application: &ApplicationId) -> Outcome<Vec<OAuthClient>> {
    let sql =
        format!("SELECT {CLIENT} FROM tokenward.clients WHERE application = $1 ORDER BY connector");
    let rows = pool.query(&sql, params![TEXT application.as_str()]).await?;
    rows.iter().map(rows::client).collect()
}

pub(crate) async fn clients_after(
    pool: &Pool,
    after: Option<(&ApplicationId, &ConnectorId)>,
    limit: usize,
) -> Outcome<Vec<OAuthClient>> {
    let (application, connector) = after.map_or(("", ""), |(application, id)| {
        (application.as_str(), id.as_str())
    });
    let sql = format!(
        "SELECT {CLIENT} FROM tokenward.clients WHERE (application, connector) > ($1, $2)
         ORDER BY application, connector LIMIT $3"
    );
    let params = params![TEXT application, TEXT connector, INT8 saturated(limit)];
    let rows = pool.query(&sql, params).await?;
    rows.iter().map(rows::client).collect()
}

/// Nobody holds a copy of a seal: it is not announced.
pub(crate) async fn reseal_client(pool: &Pool, read: &OAuthClient, sealed: &[u8]) -> Outcome<bool> {
    let sql = "UPDATE tokenward.clients SET sealed_secret = $1
         WHERE application = $2 AND connector = $3 AND sealed_secret IS NOT DISTINCT FROM $4
         RETURNING 1";
    let params = params![
        BYTEA sealed, TEXT read.application.as_str(), TEXT read.connector.as_str(),
        BYTEA read.sealed_secret,
    ];
    Ok(!pool.query(sql, params).await?.is_empty())
}

pub(crate) async fn delete_client(
    pool: &Pool,
    application: &ApplicationId,
    connector: &ConnectorId,
) -> Outcome<bool> {
    let sql = "WITH done AS (
             DELETE FROM tokenward.clients WHERE application = $1 AND connector = $2
             RETURNING application, connector
         )
         INSERT INTO tokenward.changes (kind, a, b)
         SELECT 'client', application, connector FROM done RETURNING 1";
    let params = params![TEXT application.as_str(), TEXT connector.as_str()];
    Ok(!pool.query(sql, params).await?.is_empty())
}

pub(crate) async fn add_application(
    pool: &Pool,
    id: &ApplicationId,
    name: &str,
) -> Outcome<Application> {
    let sql = format!(
        "INSERT INTO tokenward.applications (id, name, created_at) VALUES ($1, $2, {NOW})
         ON CONFLICT (id) DO NOTHING RETURNING {APPLICATION}"
    );
    let rows = pool
        .query(&sql, params![TEXT id.as_str(), TEXT name])
        .await?;
    match rows.first() {
        Some(row) => rows::application(row),
        None => Err(Fault::Refused(format!("application {id} exists already"))),
    }
}

pub(crate) async fn applications(pool: &Pool) -> Outcome<Vec<Application>> {
    let sql = format!("SELECT {APPLICATION} FROM tokenward.applications ORDER BY number");
    let rows = pool.query(&sql, &[]).await?;
    rows.iter().map(rows::application).collect()
}

pub(crate) async fn application(pool: &Pool, id: &ApplicationId) -> Outcome<Option<Application>> {
    let rows = pool
        .query(&application_sql(), params![TEXT id.as_str()])
        .await?;
    rows.first().map(rows::application).transpose()
}

fn application_sql() -> String {
    format!("SELECT {APPLICATION} FROM tokenward.applications WHERE id = $1")
}

pub(crate) async fn replace_settings(
    changing: &Changing<'_>,
    id: &ApplicationId,
    read: &ApplicationSettings,
    settings: &ApplicationSettings,
) -> Outcome<bool> {
    changing.fence_application(id).await?;
    let rows = changing
        .query(&application_sql(), params![TEXT id.as_str()])
        .await?;
    match rows.first().map(rows::application).transpose()? {
        Some(present) if present.settings == *read => {}
        _ => return Ok(false),
    }
    let sql = "UPDATE tokenward.applications SET settings = $1 WHERE id = $2";
    changing
        .query(sql, params![TEXT to_json(settings)?, TEXT id.as_str()])
        .await?;
    Ok(true)
}

pub(crate) async fn delete_application(
    changing: &Changing<'_>,
    id: &ApplicationId,
) -> Outcome<bool> {
    changing.fence_application(id).await?;
    let id_text = id.as_str();
    let used = changing
        .query(
            "SELECT 1 FROM tokenward.connections WHERE application = $1 LIMIT 1",
            params![TEXT id_text],
        )
        .await?;
    if !used.is_empty() {
        return Err(Fault::Refused(format!(
            "application {id} still has connections"
        )));
    }
    let mut gone = Vec::new();
    for sql in [
        "DELETE FROM tokenward.applications WHERE id = $1 RETURNING 1",
        "DELETE FROM tokenward.api_keys WHERE application = $1 RETURNING 1",
        "DELETE FROM tokenward.clients WHERE application = $1 RETURNING 1",
        "DELETE FROM tokenward.attempts WHERE application = $1 RETURNING 1",
    ] {
        gone.push(!changing.query(sql, params![TEXT id_text]).await?.is_empty());
    }
    changing
        .query(
            "DELETE FROM tokenward.consumers WHERE application = $1",
            params![TEXT id_text],
        )
        .await?;
    if gone.contains(&true) {
        changes::announce(changing.transaction(), &Change::Application(id.clone())).await?;
    }
    Ok(gone[0])
}

pub(crate) async fn add_key(pool: &Pool, key: &NewApiKey) -> Outcome<ApiKey> {
    let sql = format!(
        "WITH clock AS (SELECT {NOW} AS now),
         done AS (
             INSERT INTO tokenward.api_keys ({API_KEY})
             SELECT $1, $2, $3, $4, $5, now, now + $6, NULL FROM clock RETURNING {API_KEY}
         ),
         told AS (
             INSERT INTO tokenward.changes (kind, a) SELECT 'application', application FROM done
         )
         SELECT {API_KEY} FROM done"
    );
    let lifetime = key.lifetime.map(milliseconds);
    let params = params![
        TEXT key.application.as_str(), TEXT key.id, BYTEA key.digest.as_slice(), TEXT key.hint,
        TEXT key.scopes.to_string(), INT8 lifetime,
    ];
    let rows = pool.query(&sql, params).await?;
    match rows.first() {
        Some(row) => rows::api_key(row),
        None => Err(Fault::Refused("the key was not made".to_owned())),
    }
}

/// No longer than the clock can tell.
fn milliseconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_millis()).map_or(i64::MAX / 2, |ms| ms.min(i64::MAX / 2))
}

/// The database's time is read after the key's row.
pub(crate) async fn key_by_digest(
    pool: &Pool,
    digest: &[u8; 32],
) -> Outcome<Option<Stamped<ApiKey>>> {
    let rows = pool
        .query(&key_sql(), params![BYTEA digest.as_slice()])
        .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let at = row.try_get("now").map(StoreTime);
    Ok(Some(Stamped {
        value: rows::api_key(row)?,
        at: at.map_err(|error| Fault::of_statement(&error))?,
    }))
}

pub(crate) fn key_sql() -> String {
    format!("SELECT {API_KEY}, {NOW} AS now FROM tokenward.api_keys WHERE digest = $1")
}

/// A row that another replica is writing is passed over: it says the same. So that two replicas never wait for
/// each other, whatever the order of their rows. Nobody holds a copy of it: it is not announced.
pub(crate) async fn keys_used(pool: &Pool, digests: &[[u8; 32]]) -> Outcome<()> {
    let digests: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    let sql = format!(
        "UPDATE tokenward.api_keys SET last_used_at = {NOW} WHERE digest IN (
             SELECT digest FROM tokenward.api_keys
             WHERE digest = ANY ($1) AND (last_used_at IS NULL OR last_used_at <= {NOW} - $2)
             FOR UPDATE SKIP LOCKED
         )"
    );
    let params = params![BYTEA_ARRAY digests, INT8 milliseconds(USE_NOTED_FOR)];
    pool.query(&sql, params).await?;
    Ok(())
}

pub(crate) async fn keys(pool: &Pool, application: &ApplicationId) -> Outcome<Vec<ApiKey>> {
    let sql =
        format!("SELECT {API_KEY} FROM tokenward.api_keys WHERE application = $1 ORDER BY number");
    let rows = pool.query(&sql, params![TEXT application.as_str()]).await?;
    rows.iter().map(rows::api_key).collect()
}

pub(crate) async fn delete_key(
    pool: &Pool,
    application: &ApplicationId,
    id: &str,
) -> Outcome<bool> {
    let sql = "WITH done AS (
             DELETE FROM tokenward.api_keys WHERE application = $1 AND id = $2
             RETURNING application
         )
         INSERT INTO tokenward.changes (kind, a)
         SELECT 'application', application FROM done RETURNING 1";
    let params = params![TEXT application.as_str(), TEXT id];
    Ok(!pool.query(sql, params).await?.is_empty())
}

pub(crate) async fn value(pool: &Pool, name: &str) -> Outcome<Option<Vec<u8>>> {
    let sql = "SELECT value FROM tokenward.vault_values WHERE name = $1";
    let rows = pool.query(sql, params![TEXT name]).await?;
    rows.first()
        .map(|row| row.try_get(0))
        .transpose()
        .map_err(|_| Fault::Refused("vault_values.value makes no sense".to_owned()))
}

pub(crate) async fn value_or_insert(pool: &Pool, name: &str, given: &[u8]) -> Outcome<Vec<u8>> {
    if let Some(present) = value(pool, name).await? {
        return Ok(present);
    }
    // The insert waits for one that is under way; what it then does not insert can be read.
    let sql = "INSERT INTO tokenward.vault_values (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO NOTHING";
    pool.query(sql, params![TEXT name, BYTEA given]).await?;
    value(pool, name).await?.ok_or(Fault::Contended)
}

pub(crate) async fn put_value(pool: &Pool, name: &str, value: &[u8]) -> Outcome<()> {
    pool.query(
        "INSERT INTO tokenward.vault_values (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![TEXT name, BYTEA value],
    )
    .await?;
    Ok(())
}

pub(crate) async fn replace_value(
    pool: &Pool,
    name: &str,
    read: &[u8],
    value: &[u8],
) -> Outcome<bool> {
    let sql = "UPDATE tokenward.vault_values SET value = $1 WHERE name = $2 AND value = $3
         RETURNING 1";
    let params = params![BYTEA value, TEXT name, BYTEA read];
    Ok(!pool.query(sql, params).await?.is_empty())
}
