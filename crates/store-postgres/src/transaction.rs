//! What people change: several rows at once, seldom, and never on the way of a refresh.
//!
//! A transaction runs in a task of its own, so that it ends whatever becomes of its caller, and
//! under time limits of its own, so that it ends whatever becomes of this process. It locks
//! *fences* first: rows that stand for what it is about to change, some of which does not exist
//! yet. Rows of grants are written with the same comparison as a refresh uses, which locks nothing
//! while it waits.

use tokenward::{
    id::{ApplicationId, ConnectionKey, GrantId},
    time::StoreTime,
};
use tokio_postgres::{Row, Transaction};

use crate::{
    PostgresStore,
    fault::{Fault, Outcome},
    pool::Pool,
    sql::{NOW, Params, params},
};

/// How many fences there are for connections, grants and tokens; those of applications follow.
const FENCES: u64 = 256;
const APPLICATION_FENCES: u64 = 64;

/// A transaction under way.
pub(crate) struct Changing<'a>(Transaction<'a>);

/// One thing that a transaction may do; boxed, because it borrows from the transaction.
pub(crate) type Work<T> = Box<
    dyn for<'a> FnOnce(&'a Changing<'_>) -> futures_util::future::BoxFuture<'a, Outcome<T>> + Send,
>;

/// Runs `work` in a transaction and commits it. Nothing of it is done if there is an error, but
/// for [`Fault::Lost`], after which nobody knows.
pub(crate) async fn change<T: Send + 'static>(store: &PostgresStore, work: Work<T>) -> Outcome<T> {
    change_by(&store.pool, store, work).await
}

/// As [`change`], with a connection of other callers.
pub(crate) async fn change_by<T: Send + 'static>(
    pool: &Pool,
    store: &PostgresStore,
    work: Work<T>,
) -> Outcome<T> {
    let pool = pool.clone();
    let ended = store
        .pool
        .tasks()
        .spawn(async move {
            let mut lease = pool.lease().await?;
            let done = run(&mut lease, work).await;
            // Before the commit was asked for, an end of the connection has undone everything.
            if let Err(Fault::Lost(_) | Fault::Unreachable(_)) = &done {
                lease.spoil();
            }
            done
        })
        .await;
    let value =
        ended.map_err(|_| Fault::Refused("a transaction of the store panicked".to_owned()))??;
    store.hints.say();
    Ok(value)
}

async fn run<T>(lease: &mut crate::pool::Lease, work: Work<T>) -> Outcome<T> {
    let transaction =
        tokio::time::timeout(crate::pool::STATEMENT, lease.client_mut().transaction())
            .await
            .map_err(|_| Fault::Unreachable("PostgreSQL did not answer in time".to_owned()))?
            .map_err(|error| undone(Fault::of_statement(&error)))?;
    let changing = Changing(transaction);
    let before = async {
        changing
            .0
            .batch_execute(
                "SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '4s';
                 SET LOCAL idle_in_transaction_session_timeout = '6s'",
            )
            .await
            .map_err(|error| Fault::of_statement(&error))?;
        work(&changing).await
    };
    let value = tokio::time::timeout(crate::pool::STATEMENT * 2, before)
        .await
        .map_err(|_| Fault::Unreachable("PostgreSQL did not answer in time".to_owned()))?
        .map_err(undone)?;
    tokio::time::timeout(crate::pool::STATEMENT, changing.0.commit())
        .await
        .map_err(|_| Fault::Lost("PostgreSQL did not answer in time".to_owned()))?
        .map_err(|error| Fault::of_statement(&error))?;
    Ok(value)
}

/// A connection that is lost before the commit was asked for takes everything back.
fn undone(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(why) => Fault::Unreachable(why),
        other => other,
    }
}

/// What a fence stands for.
pub(crate) enum Fenced<'a> {
    Connection(&'a ConnectionKey),
    Grant(&'a GrantId),
    Token(&'a [u8; 32]),
}

impl Fenced<'_> {
    fn number(&self) -> i32 {
        match self {
            Self::Connection(key) => bucket(
                &[
                    key.application.as_str().as_bytes(),
                    key.consumer.as_str().as_bytes(),
                    key.unified_api.as_bytes(),
                    key.service.as_str().as_bytes(),
                ],
                FENCES,
            ),
            Self::Grant(id) => bucket(&[id.as_str().as_bytes()], FENCES),
            Self::Token(fingerprint) => bucket(&[fingerprint.as_slice()], FENCES),
        }
    }
}

impl<'a> Changing<'a> {
    pub(crate) fn transaction(&self) -> &Transaction<'a> {
        &self.0
    }

    pub(crate) async fn query(&self, sql: &str, params: Params<'_>) -> Outcome<Vec<Row>> {
        self.0
            .query_typed(sql, params)
            .await
            .map_err(|error| Fault::of_statement(&error))
    }

    /// Waits until nobody else changes the same, and sees from now on what they have changed.
    pub(crate) async fn fence(
        &self,
        application: &ApplicationId,
        fenced: &[Fenced<'_>],
    ) -> Outcome<()> {
        self.query(
            "SELECT 1 FROM tokenward.fences WHERE number = $1 FOR SHARE",
            params![INT4 application_fence(application)],
        )
        .await?;
        let mut numbers: Vec<i32> = fenced.iter().map(Fenced::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        // In one order, whoever asks.
        self.query(
            "SELECT 1 FROM tokenward.fences WHERE number = ANY($1) ORDER BY number FOR UPDATE",
            params![INT4_ARRAY numbers],
        )
        .await?;
        Ok(())
    }

    /// Waits until nobody else changes one thing.
    pub(crate) async fn fence_alone(&self, fenced: &Fenced<'_>) -> Outcome<()> {
        self.query(
            "SELECT 1 FROM tokenward.fences WHERE number = $1 FOR UPDATE",
            params![INT4 fenced.number()],
        )
        .await?;
        Ok(())
    }

    /// Waits until nobody makes or changes connections of an application, and keeps them away.
    pub(crate) async fn fence_application(&self, application: &ApplicationId) -> Outcome<()> {
        self.query(
            "SELECT 1 FROM tokenward.fences WHERE number = $1 FOR UPDATE",
            params![INT4 application_fence(application)],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn now(&self) -> Outcome<StoreTime> {
        let rows = self.query(&format!("SELECT {NOW}"), &[]).await?;
        let now = rows.first().and_then(|row| row.try_get(0).ok());
        now.map(StoreTime)
            .ok_or_else(|| Fault::Refused("PostgreSQL: the clock did not answer".to_owned()))
    }
}

fn application_fence(application: &ApplicationId) -> i32 {
    bucket(&[application.as_str().as_bytes()], APPLICATION_FENCES) + FENCES as i32
}

/// FNV-1a: the same in every version and on every machine.
fn bucket(parts: &[&[u8]], buckets: u64) -> i32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for &byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    // The low bits of the product know only the low bits of the input.
    ((hash >> 32) % buckets) as i32
}
