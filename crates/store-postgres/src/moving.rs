//! Moving a vault to another store, or here.

use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokenward::{
    id::GrantId,
    refresh::ledger::GrantRow,
    store::{ApiKey, Application, Freeze, Moving, OAuthClient, Record, ReplacedToken, StoreResult},
};

use crate::{
    PostgresStore, attempts,
    columns::{RESTORE_SQL, Values},
    connections, consumers,
    fault::{Fault, Outcome},
    rows::{API_KEY, to_json},
    sql::{NOW, params},
    transaction::{Changing, change},
    unread,
};

const TABLES: [&str; 10] = [
    "grants",
    "connections",
    "clients",
    "applications",
    "api_keys",
    "consumers",
    "vault_values",
    "unread_answers",
    "replaced_tokens",
    "attempts",
];

#[async_trait]
impl Moving for PostgresStore {
    async fn freeze(&self, what: Freeze) -> StoreResult<()> {
        let attempt = || {
            change(
                self,
                Box::new(move |changing: &Changing<'_>| {
                    Box::pin(async move {
                        let sql = freeze_sql(what);
                        let done = changing.transaction().batch_execute(&sql).await;
                        done.map_err(|error| Fault::of_statement(&error))
                    })
                }),
            )
        };
        self.pool.patiently(true, attempt).await
    }

    async fn claims_in_force(&self) -> StoreResult<u64> {
        let held = format!("SELECT count(*) FROM tokenward.grants WHERE claim_until > {NOW}");
        let rows = self
            .pool
            .patiently(true, || self.pool.query(&held, &[]))
            .await?;
        let count = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    async fn frozen(&self) -> StoreResult<Freeze> {
        let sql = "SELECT tgname::text FROM pg_catalog.pg_trigger
             WHERE tgrelid = 'tokenward.grants'::regclass AND tgname IN ('moved', 'moving', 'moving_claims')
             ORDER BY tgname";
        let rows = self
            .pool
            .patiently(true, || self.pool.query(sql, &[]))
            .await?;
        let name = rows.first().and_then(|row| row.try_get::<_, &str>(0).ok());
        Ok(match name {
            None => Freeze::Nothing,
            Some("moved") => Freeze::Moved,
            Some("moving") => Freeze::Writes,
            Some(_) => Freeze::Claims,
        })
    }

    async fn replaced_after(
        &self,
        after: Option<(&GrantId, u8)>,
        limit: usize,
    ) -> StoreResult<Vec<ReplacedToken>> {
        self.pool
            .patiently(true, || unread::replaced_after(&self.pool, after, limit))
            .await
    }

    async fn restore(&self, records: Vec<Record>) -> StoreResult<()> {
        let attempt = || {
            let records = records.clone();
            change(
                self,
                Box::new(move |changing: &Changing<'_>| {
                    Box::pin(async move {
                        // Sent one after the other without waiting for each answer.
                        try_join_all(records.iter().map(|record| restore(changing, record)))
                            .await?;
                        Ok(())
                    })
                }),
            )
        };
        self.pool.patiently(true, attempt).await
    }
}

fn freeze_sql(what: Freeze) -> String {
    let words = Freeze::WORDS;
    let mut sql = format!(
        "CREATE OR REPLACE FUNCTION tokenward.refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION '{words}'; END $$;
         DROP TRIGGER IF EXISTS moving_claims ON tokenward.grants;
         DROP TRIGGER IF EXISTS moved ON tokenward.grants;"
    );
    for table in TABLES {
        sql += &format!("DROP TRIGGER IF EXISTS moving ON tokenward.{table};");
        if let Freeze::Writes | Freeze::Moved = what {
            sql += &format!(
                "CREATE TRIGGER moving BEFORE INSERT OR UPDATE OR DELETE ON tokenward.{table}
                 FOR EACH STATEMENT EXECUTE FUNCTION tokenward.refuse();"
            );
        }
    }
    if what == Freeze::Moved {
        sql += "CREATE TRIGGER moved BEFORE INSERT ON tokenward.grants
             FOR EACH STATEMENT EXECUTE FUNCTION tokenward.refuse();";
    }
    if what == Freeze::Claims {
        sql += "CREATE TRIGGER moving_claims BEFORE UPDATE ON tokenward.grants FOR EACH ROW
             WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION tokenward.refuse();";
    }
    sql
}

async fn restore(changing: &Changing<'_>, record: &Record) -> Outcome<()> {
    match record {
        Record::Value(name, value) => {
            let sql = "INSERT INTO tokenward.vault_values (name, value) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            changing.query(sql, params![TEXT name, BYTEA value]).await?;
            Ok(())
        }
        Record::Application(application) => restore_application(changing, application).await,
        Record::Key(key) => restore_key(changing, key).await,
        Record::Client(client) => restore_client(changing, client).await,
        Record::Grant(row) => restore_grant(changing, row).await,
        Record::Connection(connection) => connections::save(changing, connection).await,
        Record::Consumer(consumer) => consumers::save(changing, consumer).await,
        Record::Unread(answer) => unread::put(changing, answer).await,
        Record::Replaced(token) => unread::put_replaced(changing, token).await,
        Record::Attempt(row) => attempts::put(changing, row).await,
    }
}

async fn restore_application(changing: &Changing<'_>, application: &Application) -> Outcome<()> {
    let sql = "INSERT INTO tokenward.applications (id, name, created_at, settings) VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, created_at = excluded.created_at,
            settings = excluded.settings";
    let params = params![
        TEXT application.id.as_str(), TEXT application.name, INT8 application.created_at.0,
        TEXT to_json(&application.settings)?,
    ];
    changing.query(sql, params).await?;
    Ok(())
}

async fn restore_key(changing: &Changing<'_>, key: &ApiKey) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO tokenward.api_keys ({API_KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (application, id) DO UPDATE SET
            digest = excluded.digest, hint = excluded.hint, scopes = excluded.scopes,
            created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_used_at = excluded.last_used_at"
    );
    let (expires, used) = (
        key.expires_at.map(|at| at.0),
        key.last_used_at.map(|at| at.0),
    );
    let params = params![
        TEXT key.application.as_str(), TEXT key.id, BYTEA key.digest.as_slice(), TEXT key.hint,
        TEXT key.scopes.to_string(), INT8 key.created_at.0, INT8 expires, INT8 used,
    ];
    changing.query(&sql, params).await?;
    Ok(())
}

async fn restore_client(changing: &Changing<'_>, client: &OAuthClient) -> Outcome<()> {
    let sql = "INSERT INTO tokenward.clients
            (application, connector, client_id, sealed_secret, settings, scopes)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (application, connector) DO UPDATE SET
            client_id = excluded.client_id, sealed_secret = excluded.sealed_secret,
            settings = excluded.settings, scopes = excluded.scopes";
    let params = params![
        TEXT client.application.as_str(), TEXT client.connector.as_str(), TEXT client.client_id,
        BYTEA client.sealed_secret, TEXT to_json(&client.settings)?, TEXT to_json(&client.scopes)?,
    ];
    changing.query(sql, params).await?;
    Ok(())
}

async fn restore_grant(changing: &Changing<'_>, row: &GrantRow) -> Outcome<()> {
    let values = Values::of(row)?;
    changing.query(&RESTORE_SQL, &values.all()).await?;
    Ok(())
}
