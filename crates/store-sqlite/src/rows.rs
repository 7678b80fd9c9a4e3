//! Rows to values. A row that makes no sense is an error that names its table, its column and
//! itself: never a panic, and never a value's content.

use std::{collections::BTreeMap, fmt, time::Duration};

use rusqlite::{Row, types::FromSql};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokenward::{
    authorize::AttemptRow,
    id::ConnectionKey,
    refresh::ledger::{Attempt, Claim, GrantRow, Standing},
    store::{ApiKey, Application, Connection, Consumer, OAuthClient, ReplacedToken, UnreadAnswer},
    time::StoreTime,
};

use crate::job::{Fault, Outcome};

/// Reads a row's columns from left to right.
struct Columns<'a> {
    table: &'static str,
    row: &'a Row<'a>,
    /// How many columns, from the first one, name the row.
    key: usize,
    next: usize,
}

impl<'a> Columns<'a> {
    fn new(table: &'static str, key: usize, row: &'a Row<'a>) -> Self {
        Self {
            table,
            row,
            key,
            next: 0,
        }
    }

    fn get<T: FromSql>(&mut self) -> Outcome<T> {
        let index = self.next;
        self.next += 1;
        self.row.get(index).map_err(|error| self.nonsense(error))
    }

    /// A number that is never negative.
    fn count(&mut self) -> Outcome<u64> {
        let value: i64 = self.get()?;
        u64::try_from(value).map_err(|_| self.nonsense("it is negative"))
    }

    fn optional_count(&mut self) -> Outcome<Option<u64>> {
        let value: Option<i64> = self.get()?;
        value
            .map(u64::try_from)
            .transpose()
            .map_err(|_| self.nonsense("it is negative"))
    }

    fn time(&mut self) -> Outcome<StoreTime> {
        self.get().map(StoreTime)
    }

    fn optional_time(&mut self) -> Outcome<Option<StoreTime>> {
        Ok(self.get::<Option<i64>>()?.map(StoreTime))
    }

    fn json<T: DeserializeOwned>(&mut self) -> Outcome<T> {
        let text: String = self.get()?;
        serde_json::from_str(&text).map_err(|error| self.nonsense(Json(error)))
    }

    fn optional_json<T: DeserializeOwned>(&mut self) -> Outcome<Option<T>> {
        let text: Option<String> = self.get()?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| self.nonsense(Json(error)))
    }

    /// An error about the column that was read last.
    fn nonsense(&self, why: impl fmt::Display) -> Fault {
        let statement: &rusqlite::Statement<'_> = self.row.as_ref();
        let column = statement.column_name(self.next - 1).unwrap_or("?");
        let key: Vec<String> = (0..self.key)
            .map(|index| self.row.get(index).unwrap_or_else(|_| "?".to_owned()))
            .collect();
        Fault::Refused(format!(
            "{}.{column} of row {} makes no sense: {why}",
            self.table,
            key.join("/")
        ))
    }
}

/// Where a JSON text is wrong, without quoting it.
struct Json(serde_json::Error);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the expected JSON, at column {}", self.0.column())
    }
}

/// The columns that [`grant`] reads.
pub(crate) const GRANT: &str = "id, application, connector, version, authorized_version, sealed, expires_at, \
     lifetime_ms, refreshed_at, keep_alive_at, fingerprint, dead_at, dead_reason, epoch, committed_epoch, \
     claim_owner, claim_epoch, claim_until, attempt, trouble, consent";

pub(crate) fn grant(row: &Row<'_>) -> Outcome<GrantRow> {
    let mut columns = Columns::new("grants", 1, row);
    Ok(GrantRow {
        id: columns.get::<String>()?.into(),
        application: columns.get::<String>()?.into(),
        connector: columns.get::<String>()?.into(),
        version: columns.count()?,
        authorized_version: columns.count()?,
        sealed: columns.get()?,
        expires_at: columns.optional_time()?,
        lifetime: columns.optional_count()?.map(Duration::from_millis),
        refreshed_at: columns.optional_time()?,
        keep_alive_at: columns.optional_time()?,
        fingerprint: columns.get()?,
        standing: match (columns.optional_time()?, columns.get()?) {
            (None, None) => Standing::Live,
            (Some(at), Some(reason)) => Standing::Dead { at, reason },
            (None, Some(_)) => return Err(columns.nonsense("a reason without a death")),
            (Some(_), None) => return Err(columns.nonsense("a death without a reason")),
        },
        epoch: columns.count()?,
        committed_epoch: columns.count()?,
        claim: match (
            columns.get::<Option<String>>()?,
            columns.optional_count()?,
            columns.optional_time()?,
        ) {
            (None, None, None) => None,
            (Some(owner), Some(epoch), Some(until)) => Some(Claim {
                owner: owner.into(),
                epoch,
                until,
            }),
            _ => return Err(columns.nonsense("half a claim")),
        },
        attempt: match columns.optional_json::<Attempt>()? {
            Some(attempt) if attempt.sends == 0 => {
                return Err(columns.nonsense("an attempt that was never sent"));
            }
            attempt => attempt,
        },
        trouble: columns.optional_json()?,
        consent: columns.optional_json()?,
    })
}

/// The columns that [`connection`] reads.
pub(crate) const CONNECTION: &str = "application, consumer, unified_api, service, grant_id, enabled, settings, metadata, created_at, updated_at";

pub(crate) fn connection(row: &Row<'_>) -> Outcome<Connection> {
    let mut columns = Columns::new("connections", 4, row);
    Ok(Connection {
        key: ConnectionKey {
            application: columns.get::<String>()?.into(),
            consumer: columns.get::<String>()?.into(),
            unified_api: columns.get::<String>()?.into(),
            service: columns.get::<String>()?.into(),
        },
        grant: columns.get::<Option<String>>()?.map(Into::into),
        enabled: columns.get()?,
        settings: columns.json::<Map<String, Value>>()?,
        metadata: columns.json::<Map<String, Value>>()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
    })
}

/// The columns that [`client`] reads.
pub(crate) const CLIENT: &str =
    "application, connector, client_id, sealed_secret, settings, scopes";

pub(crate) fn client(row: &Row<'_>) -> Outcome<OAuthClient> {
    let mut columns = Columns::new("clients", 2, row);
    Ok(OAuthClient {
        application: columns.get::<String>()?.into(),
        connector: columns.get::<String>()?.into(),
        client_id: columns.get()?,
        sealed_secret: columns.get()?,
        settings: columns.json::<BTreeMap<String, String>>()?,
        scopes: columns.json()?,
    })
}

/// The columns that [`application`] reads.
pub(crate) const APPLICATION: &str = "id, name, created_at, settings";

pub(crate) fn application(row: &Row<'_>) -> Outcome<Application> {
    let mut columns = Columns::new("applications", 1, row);
    Ok(Application {
        id: columns.get::<String>()?.into(),
        name: columns.get()?,
        created_at: columns.time()?,
        settings: columns.json()?,
    })
}

/// The columns that [`consumer`] reads.
pub(crate) const CONSUMER: &str = "application, id, metadata, created_at, modified_at";

pub(crate) fn consumer(row: &Row<'_>) -> Outcome<Consumer> {
    let mut columns = Columns::new("consumers", 2, row);
    Ok(Consumer {
        application: columns.get::<String>()?.into(),
        id: columns.get::<String>()?.into(),
        metadata: columns.json::<Map<String, Value>>()?,
        created_at: columns.time()?,
        modified_at: columns.time()?,
    })
}

/// The columns that [`api_key`] reads.
pub(crate) const API_KEY: &str =
    "application, id, digest, hint, scopes, created_at, expires_at, last_used_at";

pub(crate) fn api_key(row: &Row<'_>) -> Outcome<ApiKey> {
    let mut columns = Columns::new("api_keys", 2, row);
    Ok(ApiKey {
        application: columns.get::<String>()?.into(),
        id: columns.get()?,
        digest: columns.get()?,
        hint: columns.get()?,
        scopes: {
            let scopes = columns.get::<String>()?.parse();
            scopes.map_err(|error| columns.nonsense(error))?
        },
        created_at: columns.time()?,
        expires_at: columns.optional_time()?,
        last_used_at: columns.optional_time()?,
    })
}

/// The columns that [`unread`] reads.
pub(crate) const UNREAD: &str = "grant_id, epoch, base, at, sealed";

pub(crate) fn unread(row: &Row<'_>) -> Outcome<UnreadAnswer> {
    let mut columns = Columns::new("unread_answers", 1, row);
    Ok(UnreadAnswer {
        grant: columns.get::<String>()?.into(),
        epoch: columns.count()?,
        base: columns.count()?,
        at: columns.time()?,
        sealed: columns.get()?,
    })
}

/// The columns that [`replaced`] reads.
pub(crate) const REPLACED: &str = "grant_id, slot, fingerprint, at";

pub(crate) fn replaced(row: &Row<'_>) -> Outcome<ReplacedToken> {
    let mut columns = Columns::new("replaced_tokens", 1, row);
    Ok(ReplacedToken {
        grant: columns.get::<String>()?.into(),
        slot: columns.get()?,
        fingerprint: columns.get()?,
        at: columns.time()?,
    })
}

/// The columns that [`attempt`] reads.
pub(crate) const ATTEMPT: &str = "id, body, sealed, revision";

pub(crate) fn attempt(row: &Row<'_>) -> Outcome<AttemptRow> {
    let mut columns = Columns::new("attempts", 1, row);
    let id: String = columns.get()?;
    let row: AttemptRow = columns.json()?;
    if row.id.as_str() != id {
        return Err(columns.nonsense("it is of another attempt"));
    }
    Ok(AttemptRow {
        sealed: columns.get()?,
        revision: columns.count()?,
        ..row
    })
}

/// At most so many rows.
pub(crate) fn saturated(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A count as SQLite keeps it. SQLite's numbers are signed.
pub(crate) fn integer(count: u64) -> Outcome<i64> {
    i64::try_from(count)
        .map_err(|_| Fault::Refused(format!("{count} is more than the store can keep")))
}

/// JSON text of a value whose keys are strings.
pub(crate) fn to_json(value: &impl Serialize) -> Outcome<String> {
    serde_json::to_string(value).map_err(|error| Fault::Refused(error.to_string()))
}
