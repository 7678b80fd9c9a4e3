//! The feed of what changed, for the copies in other processes.

use rusqlite::{Connection, OptionalExtension, params};
use tokenward::{
    id::ConnectionKey,
    store::{Change, Changes},
};

use crate::{
    job::{Fault, Outcome},
    rows::integer,
};

/// So many changes are kept.
const KEPT: i64 = 10_000;
/// So many are read at once.
const LIMIT: usize = 1_000;

/// Announces a change together with the transaction's commit.
pub(crate) fn announce(db: &Connection, change: &Change) -> Outcome<()> {
    let number;
    let (kind, a, b, c, d) = match change {
        Change::Grant(id, version) => {
            number = version.to_string();
            ("grant", id.as_str(), Some(number.as_str()), None, None)
        }
        Change::Connection(ConnectionKey {
            application,
            consumer,
            unified_api,
            service,
        }) => (
            "connection",
            application.as_str(),
            Some(consumer.as_str()),
            Some(&**unified_api),
            Some(service.as_str()),
        ),
        Change::Application(id) => ("application", id.as_str(), None, None, None),
        Change::Client(application, connector) => (
            "client",
            application.as_str(),
            Some(connector.as_str()),
            None,
            None,
        ),
    };
    db.prepare_cached("INSERT INTO changes (kind, a, b, c, d) VALUES (?, ?, ?, ?, ?)")?
        .execute((kind, a, b, c, d))?;
    Ok(())
}

/// Removes what nobody will ask for any more.
pub(crate) fn prune(db: &Connection) -> Outcome<()> {
    db.prepare_cached("DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - ?")?
        .execute([KEPT])?;
    Ok(())
}

/// What has changed since a position.
pub(crate) fn since(db: &Connection, since: Option<u64>) -> Outcome<Changes> {
    // AUTOINCREMENT remembers the newest number even when its row is gone.
    let present: i64 = db
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")?
        .query_row([], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let oldest: i64 = db
        .prepare_cached("SELECT min(seq) FROM changes")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))?
        .unwrap_or(present + 1);
    let at = |next: i64, changes, gap| {
        Ok(Changes {
            next: next.unsigned_abs(),
            changes,
            gap,
        })
    };

    let Some(since) = since else {
        return at(present, Vec::new(), false);
    };
    let since = integer(since)?;
    // A position from the future is one from another file: this one was put back from a backup.
    if since < oldest - 1 || since > present {
        return at(present, Vec::new(), true);
    }
    let mut statement = db.prepare_cached(
        "SELECT seq, kind, a, b, c, d FROM changes WHERE seq > ? ORDER BY seq LIMIT ?",
    )?;
    let mut rows = statement.query(params![since, LIMIT as i64])?;
    let (mut next, mut changes) = (since, Vec::new());
    while let Some(row) = rows.next()? {
        next = row.get(0)?;
        let kind: String = row.get(1)?;
        let a: String = row.get(2)?;
        let (b, c, d): (Option<String>, Option<String>, Option<String>) =
            (row.get(3)?, row.get(4)?, row.get(5)?);
        changes.push(match (kind.as_str(), b, c, d) {
            ("grant", Some(b), None, None) => {
                Change::Grant(a.into(), b.parse().map_err(|_| nonsense(next))?)
            }
            ("connection", Some(b), Some(c), Some(d)) => {
                Change::Connection(ConnectionKey::new(a, b, c, d))
            }
            ("application", None, None, None) => Change::Application(a.into()),
            ("client", Some(b), None, None) => Change::Client(a.into(), b.into()),
            _ => return Err(nonsense(next)),
        });
    }
    at(next, changes, false)
}

fn nonsense(row: i64) -> Fault {
    Fault::Refused(format!("row {row} of the table changes makes no sense"))
}
