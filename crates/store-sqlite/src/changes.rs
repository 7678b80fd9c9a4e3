//! The feed of what changed, for the copies in other processes.

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokenward::store::{Change, ChangeColumns, Changes, Gap};

use crate::{job::Outcome, rows::integer};

/// So many changes are kept.
const KEPT: i64 = 10_000;
/// So many are read at once.
const LIMIT: usize = 1_000;

/// Announces a change together with the transaction's commit.
pub(crate) fn announce(db: &Connection, change: &Change) -> Outcome<()> {
    let ChangeColumns { kind, a, b, c, d } = change.to_columns();
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
        return at(present, Vec::new(), None);
    };
    let since = integer(since)?;
    // A position from the future is one from another file: this one was put back from a backup.
    if since < oldest - 1 || since > present {
        let from = if since > present { 0 } else { since + 1 };
        return at(present, Vec::new(), gap(None, from, present));
    }
    let mut statement = db.prepare_cached(
        "SELECT seq, kind, a, b, c, d FROM changes WHERE seq > ? ORDER BY seq LIMIT ?",
    )?;
    let mut rows = statement.query(params![since, LIMIT as i64])?;
    let (mut next, mut changes, mut missing) = (since, Vec::new(), None);
    while let Some(row) = rows.next()? {
        next = row.get(0)?;
        match read(row) {
            Some(change) => changes.push(change),
            None => {
                tracing::warn!(row = next, "a row of the table changes makes no sense");
                missing = gap(missing, next, next);
            }
        }
    }
    at(next, changes, missing)
}

/// `None`: the row makes no sense.
fn read(row: &Row<'_>) -> Option<Change> {
    let text = |column| row.get::<_, Option<String>>(column).ok();
    Change::from_columns(&ChangeColumns {
        kind: text(1)??.into(),
        a: text(2)??.into(),
        b: text(3)?.map(Into::into),
        c: text(4)?.map(Into::into),
        d: text(5)?.map(Into::into),
    })
}

fn gap(gap: Option<Gap>, from: i64, to: i64) -> Option<Gap> {
    Some(Gap::with(gap, from.unsigned_abs(), to.unsigned_abs()))
}
