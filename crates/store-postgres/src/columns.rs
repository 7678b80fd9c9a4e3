//! The columns of a grant that are written, once.

use std::{sync::LazyLock, time::Duration};

use tokenward::refresh::ledger::GrantRow;
use tokio_postgres::types::{ToSql, Type};

use crate::{
    fault::Outcome,
    rows::{self, integer, to_json},
    sql::NOW,
};

/// What writes a column after the row was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing.
    Never,
    /// A claim, an extension, a settlement; and a new token set.
    Ledger,
    /// A new token set.
    Token,
    /// A person's new authorization.
    Consent,
}

impl Written {
    fn with_token(self) -> bool {
        matches!(self, Self::Ledger | Self::Token)
    }
}

struct Column {
    name: &'static str,
    kind: Type,
    written: Written,
    value: for<'v, 'a> fn(&'v Values<'a>) -> &'v (dyn ToSql + Sync),
}

/// A row in PostgreSQL's types.
pub(crate) struct Values<'a> {
    id: &'a str,
    application: &'a str,
    connector: &'a str,
    version: i64,
    authorized_version: i64,
    sealed: &'a [u8],
    expires_at: Option<i64>,
    lifetime_ms: Option<i64>,
    refreshed_at: Option<i64>,
    keep_alive_at: Option<i64>,
    keep_alive_day: Option<i64>,
    fingerprint: Option<&'a [u8]>,
    dead: Option<String>,
    epoch: i64,
    committed_epoch: i64,
    claim_owner: Option<&'a str>,
    claim_epoch: Option<i64>,
    claim_until: Option<i64>,
    attempt: Option<String>,
    trouble: Option<String>,
    retry_at: Option<i64>,
    consent: Option<String>,
}

macro_rules! columns {
    ($($name:ident: $kind:ident, $written:ident;)*) => {
        &[$(Column {
            name: stringify!($name),
            kind: Type::$kind,
            written: Written::$written,
            value: |values| &values.$name,
        }),*]
    };
}

/// In the order of the statements' parameters.
const COLUMNS: &[Column] = columns! {
    id: TEXT, Never;
    application: TEXT, Never;
    connector: TEXT, Never;
    dead: TEXT, Ledger;
    epoch: INT8, Ledger;
    claim_owner: TEXT, Ledger;
    claim_epoch: INT8, Ledger;
    claim_until: INT8, Ledger;
    attempt: TEXT, Ledger;
    trouble: TEXT, Ledger;
    retry_at: INT8, Ledger;
    version: INT8, Token;
    authorized_version: INT8, Token;
    sealed: BYTEA, Token;
    expires_at: INT8, Token;
    lifetime_ms: INT8, Token;
    refreshed_at: INT8, Token;
    keep_alive_at: INT8, Token;
    keep_alive_day: INT8, Token;
    fingerprint: BYTEA, Token;
    committed_epoch: INT8, Token;
    consent: TEXT, Consent;
};

/// A day in milliseconds.
const DAY: i64 = 86_400_000;

impl<'a> Values<'a> {
    pub(crate) fn of(row: &'a GrantRow) -> Outcome<Self> {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let claim = row.claim.as_ref();
        Ok(Self {
            id: row.id.as_str(),
            application: row.application.as_str(),
            connector: row.connector.as_str(),
            version: integer(row.version)?,
            authorized_version: integer(row.authorized_version)?,
            sealed: &row.sealed,
            expires_at: row.expires_at.map(|at| at.0),
            lifetime_ms: row.lifetime.map(millis),
            refreshed_at: row.refreshed_at.map(|at| at.0),
            keep_alive_at: row.keep_alive_at.map(|at| at.0),
            keep_alive_day: row.keep_alive_at.map(|at| at.0.div_euclid(DAY)),
            fingerprint: row.fingerprint.as_ref().map(<[u8; 32]>::as_slice),
            dead: rows::dead(&row.standing)?,
            epoch: integer(row.epoch)?,
            committed_epoch: integer(row.committed_epoch)?,
            claim_owner: claim.map(|claim| claim.owner.as_str()),
            claim_epoch: claim.map(|claim| integer(claim.epoch)).transpose()?,
            claim_until: claim.map(|claim| claim.until.0),
            attempt: row.attempt.as_ref().map(to_json).transpose()?,
            trouble: row.trouble.as_ref().map(to_json).transpose()?,
            retry_at: row.trouble.as_ref().map(|trouble| trouble.retry_at.0),
            consent: row.consent.as_ref().map(to_json).transpose()?,
        })
    }

    /// The parameters of a whole row.
    pub(crate) fn all(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        COLUMNS.iter().map(|column| self.param(column)).collect()
    }

    /// The parameters of a claim, an extension, a settlement: the row's id, the revision that was
    /// read, and what is written.
    pub(crate) fn ledger<'v>(&'v self, revision: &'v i64) -> Vec<(&'v (dyn ToSql + Sync), Type)> {
        self.update(revision, |written| written == Written::Ledger)
    }

    /// The parameters of a new token set.
    pub(crate) fn token<'v>(&'v self, revision: &'v i64) -> Vec<(&'v (dyn ToSql + Sync), Type)> {
        self.update(revision, Written::with_token)
    }

    /// The parameters of a person's new authorization.
    pub(crate) fn authorization<'v>(
        &'v self,
        revision: &'v i64,
    ) -> Vec<(&'v (dyn ToSql + Sync), Type)> {
        self.update(revision, |written| written != Written::Never)
    }

    fn update<'v>(
        &'v self,
        revision: &'v i64,
        which: fn(Written) -> bool,
    ) -> Vec<(&'v (dyn ToSql + Sync), Type)> {
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&self.id, Type::TEXT), (revision, Type::INT8)];
        let written = COLUMNS.iter().filter(|column| which(column.written));
        params.extend(written.map(|column| self.param(column)));
        params
    }

    fn param(&self, column: &Column) -> (&(dyn ToSql + Sync), Type) {
        ((column.value)(self), column.kind.clone())
    }
}

/// `name = $3, ...`, after the id and the revision.
fn assignments(which: fn(Written) -> bool) -> String {
    let written = COLUMNS.iter().filter(|column| which(column.written));
    let parts: Vec<String> = (3..)
        .zip(written)
        .map(|(number, column)| format!("{} = ${number}", column.name))
        .collect();
    parts.join(", ")
}

static LEDGER: LazyLock<String> =
    LazyLock::new(|| assignments(|written| written == Written::Ledger));
static TOKEN: LazyLock<String> = LazyLock::new(|| assignments(Written::with_token));

/// Writes a claim, an extension, a settlement.
pub(crate) static LEDGER_SQL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE tokenward.grants SET {}, revision = revision + 1
         WHERE id = $1 AND revision = $2 RETURNING {NOW}",
        *LEDGER
    )
});

/// Writes a death.
pub(crate) static LEDGER_TOLD_SQL: LazyLock<String> = LazyLock::new(|| telling(&LEDGER, ""));

/// Writes a token set.
pub(crate) static TOKEN_SQL: LazyLock<String> = LazyLock::new(|| telling(&TOKEN, ""));

/// As [`TOKEN_SQL`], where the refresh token is another one: the old one's digest is kept. Its slot
/// and itself are two parameters more.
pub(crate) static REPLACING_TOKEN_SQL: LazyLock<String> = LazyLock::new(|| {
    let written = COLUMNS.iter().filter(|column| column.written.with_token());
    let slot = 3 + written.count();
    let replaced = format!(
        ", replaced AS (
             INSERT INTO tokenward.replaced_tokens ({}) SELECT id, ${slot}, ${}, {NOW} FROM done
             ON CONFLICT (grant_id, slot) DO UPDATE SET
                fingerprint = excluded.fingerprint, at = excluded.at
         )",
        rows::REPLACED,
        slot + 1
    );
    telling(&TOKEN, &replaced)
});

/// Writes a person's new authorization within a transaction that tells of it itself.
pub(crate) static REPLACE_SQL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE tokenward.grants SET {}, revision = revision + 1
         WHERE id = $1 AND revision = $2 RETURNING 1",
        assignments(|written| written != Written::Never)
    )
});

/// Makes a row.
pub(crate) static INSERT_SQL: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let numbers: Vec<String> = (1..=names.len())
        .map(|number| format!("${number}"))
        .collect();
    format!(
        "INSERT INTO tokenward.grants ({}, revision) VALUES ({}, 1)",
        names.join(", "),
        numbers.join(", ")
    )
});

/// Makes a row, or writes it over the one that is there.
pub(crate) static RESTORE_SQL: LazyLock<String> = LazyLock::new(|| {
    let over = COLUMNS
        .iter()
        .filter(|column| column.written != Written::Never);
    let over: Vec<String> = over
        .map(|column| format!("{0} = excluded.{0}", column.name))
        .collect();
    format!(
        "{} ON CONFLICT (id) DO UPDATE SET {}, revision = grants.revision + 1",
        *INSERT_SQL,
        over.join(", ")
    )
});

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
