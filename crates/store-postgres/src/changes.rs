//! The feed of what changed, for the copies in other replicas.
//!
//! Numbers are given out before the commit, so that a lower one may appear after a higher one. A
//! reader therefore does not go past a number that is missing: what it read beyond it, it reads
//! again the next time, until the missing one has appeared, or it is certain that it never will.
//!
//! That is certain once every transaction has ended that had begun to write when the number was
//! first missed: whoever announces has written before it takes a number, so that its transaction had
//! begun by then. A statement that failed thus holds nothing up. Where it cannot be known, because a
//! transaction goes on and on or the engine does not tell, the reader goes on after a while, and says
//! which numbers it left behind.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokenward::store::{Change, ChangeColumns, Changes, Gap};
use tokio::time::sleep;
use tokio_postgres::{Row, Transaction};

use crate::{
    fault::{Fault, Outcome},
    pool::Pool,
    rows::integer,
    sql::{NOW, params},
};

/// How long changes are kept, in milliseconds.
const KEPT: i64 = 10 * 60_000;
/// So many are removed at once.
const BATCH: i64 = 10_000;
/// So many are read at once.
const LIMIT: i64 = 1_000;
/// How long a missing number may still appear, in milliseconds: twice what a statement may take.
const LATE: i64 = 10_000;

/// The ends of the transactions of this statement's snapshot: the oldest one that goes on, and the
/// first one that has not begun.
const SNAPSHOT: &str = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
     pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

/// Missing numbers, each with the first transaction that had not begun when it was missed.
#[derive(Debug)]
pub(crate) struct Holes {
    missed: Mutex<BTreeMap<i64, i64>>,
    /// Whether the engine tells of its transactions.
    told: bool,
}

impl Holes {
    /// So many are remembered; of others it is found out anew.
    const MOST: usize = 10_000;

    /// Asks the engine what it can tell.
    pub(crate) async fn new(pool: &Pool) -> Self {
        let told = pool.query(&format!("SELECT {SNAPSHOT}"), &[]).await.is_ok();
        Self {
            missed: Mutex::default(),
            told,
        }
    }

    /// Whether a missing number can never appear, as of a snapshot.
    fn is_void(&self, number: i64, (oldest, next): (i64, i64)) -> bool {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() >= Self::MOST {
            missed.clear();
        }
        *missed.entry(number).or_insert(next) <= oldest
    }

    fn forget(&self, number: i64) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.remove(&number);
    }
}

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
pub(crate) async fn since(pool: &Pool, holes: &Holes, since: Option<u64>) -> Outcome<Changes> {
    match since {
        Some(since) => after(pool, holes, integer(since)?).await,
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

async fn after(pool: &Pool, holes: &Holes, since: i64) -> Outcome<Changes> {
    let rows = pool
        .query(
            &after_sql(holes.told),
            params![INT8 since, INT8 LATE, INT8 LIMIT],
        )
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
        if seq > last + 1 {
            let snapshot: (Option<i64>, Option<i64>) = (get(row, 9)?, get(row, 10)?);
            let void = snapshot
                .0
                .zip(snapshot.1)
                .is_some_and(|snapshot| holes.is_void(last + 1, snapshot));
            match (void, get(row, 3)?) {
                (true, _) => {}
                (false, true) => complete = false,
                (false, false) => changes.gap = gap(changes.gap, last + 1, seq - 1),
            }
            if void && complete {
                holes.forget(last + 1);
            }
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

pub(crate) fn after_sql(snapshot: bool) -> String {
    let snapshot = match snapshot {
        true => SNAPSHOT,
        false => "NULL::bigint, NULL::bigint",
    };
    format!(
        "SELECT ends.oldest, ends.newest, seq, at > {NOW} - $2, kind, a, b, c, d, {snapshot}
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
