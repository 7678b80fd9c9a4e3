//! The feed of what changed, for the copies in other replicas.
//!
//! Numbers are given out before the commit, so that a lower one may appear after a higher one. A
//! reader therefore does not go past a number that is missing: what it read beyond it, it reads
//! again the next time, until the missing one has appeared or is too old to come. Then nobody
//! knows what it was (mostly a statement that failed), and every copy is read anew.

use std::time::Duration;

use tokenward::store::{Change, ChangeColumns, Changes, Gap};
use tokio::time::sleep;
use tokio_postgres::{Row, Transaction};

use crate::{
    fault::{Fault, Outcome},
    grants::NOW,
    pool::{Pool, params},
    rows::integer,
};

/// How long changes are kept, in milliseconds.
const KEPT: i64 = 10 * 60_000;
/// So many are removed at once.
const BATCH: i64 = 10_000;
/// So many are read at once.
const LIMIT: i64 = 1_000;
/// How long a missing number may still appear, in milliseconds: twice what a statement may take.
const LATE: i64 = 10_000;

/// Announces a change together with the transaction's commit.
pub(crate) async fn announce(transaction: &Transaction<'_>, change: &Change) -> Outcome<()> {
    let ChangeColumns { kind, a, b, c, d } = change.to_columns();
    transaction
        .query_typed(
            "INSERT INTO tokenward.changes (kind, a, b, c, d) VALUES ($1, $2, $3, $4, $5)",
            params![TEXT &*kind, TEXT &*a, TEXT b.as_deref(), TEXT c.as_deref(), TEXT d.as_deref()],
        )
        .await
        .map_err(|error| Fault::of_statement(&error))?;
    Ok(())
}

/// Removes what nobody will ask for any more, for ever. Replicas that do it at once find less to
/// do. The newest row stays: it tells the present position.
pub(crate) async fn prune(pool: Pool) {
    const EVERY: Duration = Duration::from_secs(60);
    loop {
        sleep(EVERY).await;
        loop {
            match prune_once(&pool).await {
                Ok(removed) if removed >= BATCH => {}
                Ok(_) => break,
                Err(fault) => {
                    tracing::debug!(?fault, "old changes were not removed");
                    break;
                }
            }
        }
    }
}

async fn prune_once(pool: &Pool) -> Outcome<i64> {
    let sql = format!(
        "WITH gone AS (
             DELETE FROM tokenward.changes WHERE seq IN (
                 SELECT seq FROM (
                     SELECT seq, at FROM tokenward.changes ORDER BY seq LIMIT $1
                 ) AS oldest WHERE at < {NOW} - $2
             ) AND seq < (SELECT max(seq) FROM tokenward.changes) RETURNING 1
         ) SELECT count(*) FROM gone"
    );
    let rows = pool.query(&sql, params![INT8 BATCH, INT8 KEPT]).await?;
    let removed = rows.first().map(|row| row.try_get(0)).transpose();
    Ok(removed
        .map_err(|error| Fault::of_statement(&error))?
        .unwrap_or(0))
}

/// What has changed since a position.
pub(crate) async fn since(pool: &Pool, since: Option<u64>) -> Outcome<Changes> {
    match since {
        Some(since) => after(pool, integer(since)?).await,
        None => present(pool).await,
    }
}

/// The position after all that nobody can add to any more. Looks back as far as a page.
async fn present(pool: &Pool) -> Outcome<Changes> {
    let sql =
        format!("SELECT seq, at > {NOW} - $2 FROM tokenward.changes ORDER BY seq DESC LIMIT $1");
    let rows = pool.query(&sql, params![INT8 LIMIT, INT8 LATE]).await?;
    let mut next = 0;
    let mut above: Option<(i64, bool)> = None;
    for row in &rows {
        let (seq, young): (i64, bool) = (get(row, 0)?, get(row, 1)?);
        match above {
            None => next = seq,
            Some((above, true)) if above > seq + 1 => next = seq,
            _ => {}
        }
        above = Some((seq, young));
    }
    Ok(Changes {
        next: next.unsigned_abs(),
        ..Changes::default()
    })
}

async fn after(pool: &Pool, since: i64) -> Outcome<Changes> {
    let rows = pool
        .query(&after_sql(), params![INT8 since, INT8 LATE, INT8 LIMIT])
        .await?;
    let mut changes = Changes {
        next: since.unsigned_abs(),
        ..Changes::default()
    };
    let mut complete = true;
    let mut last = since;
    for row in &rows {
        // Where the feed begins and ends comes with every row, and alone if there is no other.
        let (oldest, newest): (Option<i64>, Option<i64>) = (get(row, 0)?, get(row, 1)?);
        let (oldest, newest) = (oldest.unwrap_or(1), newest.unwrap_or(0));
        // A position from the future is one from another database: this one was restored.
        if since < oldest - 1 || since > newest {
            let from = if since > newest { 0 } else { since + 1 };
            return Ok(Changes {
                next: newest.unsigned_abs(),
                changes: Vec::new(),
                gap: gap(None, from, newest),
            });
        }
        let Some(seq) = get::<Option<i64>>(row, 2)? else {
            break;
        };
        if seq > last + 1 && get(row, 3)? {
            complete = false;
        } else if seq > last + 1 {
            changes.gap = gap(changes.gap, last + 1, seq - 1);
        }
        last = seq;
        match change(row) {
            Some(change) => changes.changes.push(change),
            None => {
                tracing::warn!(row = seq, "a row of the table changes makes no sense");
                changes.gap = gap(changes.gap, seq, seq);
            }
        }
        if complete {
            changes.next = seq.unsigned_abs();
        }
    }
    Ok(changes)
}

pub(crate) fn after_sql() -> String {
    format!(
        "SELECT ends.oldest, ends.newest, seq, at > {NOW} - $2, kind, a, b, c, d
         FROM (SELECT min(seq) AS oldest, max(seq) AS newest FROM tokenward.changes) AS ends
         LEFT JOIN (
             SELECT * FROM tokenward.changes WHERE seq > $1 ORDER BY seq LIMIT $3
         ) AS page ON true ORDER BY seq"
    )
}

/// `None`: the row makes no sense.
fn change(row: &Row) -> Option<Change> {
    let text = |column| get::<Option<&str>>(row, column).ok();
    Change::from_columns(&ChangeColumns {
        kind: text(4)??.into(),
        a: text(5)??.into(),
        b: text(6)?.map(Into::into),
        c: text(7)?.map(Into::into),
        d: text(8)?.map(Into::into),
    })
}

fn gap(gap: Option<Gap>, from: i64, to: i64) -> Option<Gap> {
    Some(Gap::with(gap, from.unsigned_abs(), to.unsigned_abs()))
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Outcome<T> {
    row.try_get(column).map_err(|_| nonsense())
}

fn nonsense() -> Fault {
    Fault::Refused("a row of the table changes makes no sense".to_owned())
}
