//! A few connections, for statements that are short and stand alone.
//!
//! What makes this little: no statement leaves anything behind in its session (there are no
//! transactions but a person's, which end in a task of their own; no prepared statements, so that
//! a pooler in transaction mode may stand between), so that a connection needs no reset, and one
//! whose caller has gone serves the next caller after it has answered.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokenward::store::{StoreError, StoreResult, Waiting};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Row};
use tokio_util::task::TaskTracker;

use crate::{
    fault::{Fault, Outcome},
    line::{Class, Line, TooBusy, Turn},
    options::Target,
    sql::Params,
};

/// How long a verb goes on trying while the database is away: a restart, a failover by the list
/// of hosts. Shorter than any caller's patience with a refresh.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one statement may take. Then its connection is given up.
pub(crate) const STATEMENT: Duration = Duration::from_secs(5);
/// How long connecting may take, all hosts together.
const CONNECT: Duration = Duration::from_secs(8);

/// The pool, as one class of callers sees it; clones are the same.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
    class: Class,
}

struct Inner {
    target: Target,
    line: Line,
    idle: Mutex<Vec<Client>>,
    /// Statements that were answered.
    answered: AtomicU64,
    /// What drives the connections, and transactions to their end.
    tasks: TaskTracker,
}

/// A connection for one verb.
pub(crate) struct Lease {
    client: Option<Client>,
    pool: Pool,
    /// Whether it has missed its time: its answers may never come.
    spoiled: AtomicBool,
    _turn: Turn,
}

impl Pool {
    pub(crate) fn new(target: Target, connections: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                target,
                line: Line::new(connections),
                idle: Mutex::default(),
                answered: AtomicU64::new(0),
                tasks: TaskTracker::new(),
            }),
            class: Class::Known,
        }
    }

    /// The same pool for other callers.
    pub(crate) fn of(&self, class: Class) -> Self {
        Self {
            inner: self.inner.clone(),
            class,
        }
    }

    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        self.inner.line.waiting()
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// A connection, made if no idle one lives.
    pub(crate) async fn lease(&self) -> Outcome<Lease> {
        let turn = self.inner.line.turn(self.class).await;
        let turn = turn.map_err(|TooBusy| Fault::Busy)?;
        let client = match self.idle() {
            Some(client) => client,
            None => {
                let (client, connection) = self.inner.target.connect().await?;
                self.inner.tasks.spawn(async move {
                    // Whoever waits for an answer is told of the same end.
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to PostgreSQL ended");
                    }
                });
                client
            }
        };
        Ok(Lease {
            client: Some(client),
            pool: self.clone(),
            spoiled: AtomicBool::new(false),
            _turn: turn,
        })
    }

    fn idle(&self) -> Option<Client> {
        let mut idle = self.locked();
        while let Some(client) = idle.pop() {
            if !client.is_closed() {
                return Some(client);
            }
        }
        None
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Client>> {
        self.inner
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many statements were answered, of any class.
    pub(crate) fn answered(&self) -> u64 {
        self.inner.answered.load(Ordering::Relaxed)
    }

    /// One statement that answers with any number of rows.
    pub(crate) async fn query(&self, sql: &str, params: Params<'_>) -> Outcome<Vec<Row>> {
        self.lease().await?.query(sql, params).await
    }

    /// Tries until it succeeds, is refused, or [`PATIENCE`] ends. A verb that is not `repeatable`
    /// is not tried again once it may have taken effect. The time in line for a connection does not
    /// count while the database answers those who are before us; the line has a patience of its own.
    pub(crate) async fn patiently<T, A: Future<Output = Outcome<T>>>(
        &self,
        repeatable: bool,
        attempt: impl Fn() -> A,
    ) -> StoreResult<T> {
        let last = Mutex::new(None);
        let failed = || last.lock().unwrap_or_else(PoisonError::into_inner);
        let trying = async {
            let mut pause = Duration::from_millis(5);
            loop {
                match attempt().await {
                    Err(fault) if fault.passes(repeatable) => {
                        let contended = matches!(fault, Fault::Contended);
                        *failed() = Some(fault);
                        // Who lost a race may try at once; a database that is away needs time.
                        if !contended {
                            sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_millis(500));
                        }
                    }
                    done => return done,
                }
            }
        };
        tokio::pin!(trying);
        loop {
            let answered = self.answered();
            if let Ok(done) = timeout(PATIENCE, &mut trying).await {
                return done.map_err(StoreError::from);
            }
            let others = answered != self.answered();
            match failed().take() {
                Some(Fault::Lost(why)) if others => return Err(StoreError::TimedOut(why)),
                Some(fault) => return Err(fault.into()),
                None if !others => return Err(no_answer()),
                None => {}
            }
        }
    }
}

fn no_answer() -> StoreError {
    StoreError::Away("PostgreSQL does not answer".to_owned())
}

impl Lease {
    pub(crate) async fn query(&self, sql: &str, params: Params<'_>) -> Outcome<Vec<Row>> {
        self.within(self.client().query_typed(sql, params)).await
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().expect("taken at the end only")
    }

    pub(crate) fn client_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("taken at the end only")
    }

    /// Waits for an answer, but not for ever: a host may be gone without a word.
    pub(crate) async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Outcome<T> {
        let fault = match timeout(STATEMENT, answer).await {
            Ok(Ok(value)) => {
                self.pool.inner.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(value);
            }
            Ok(Err(error)) => Fault::of_statement(&error),
            Err(_) => Fault::Lost("PostgreSQL did not answer in time".to_owned()),
        };
        if matches!(fault, Fault::Lost(_)) {
            self.spoil();
        }
        Err(fault)
    }

    /// The connection is given up, and those that idle with it: they lead to the same host.
    pub(crate) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
        self.pool.locked().clear();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && !self.spoiled.load(Ordering::Relaxed)
            && !client.is_closed()
        {
            self.pool.locked().push(client);
        }
    }
}

/// What drives a connection.
pub(crate) type Driver =
    tokio_postgres::Connection<tokio_postgres::Socket, crate::tls::Stream<tokio_postgres::Socket>>;

impl Target {
    pub(crate) async fn connect(&self) -> Outcome<(Client, Driver)> {
        match timeout(CONNECT, self.config.connect(self.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(Fault::of_connecting(&error)),
            Err(_) => Err(Fault::Unreachable(
                "PostgreSQL cannot be reached in time".to_owned(),
            )),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle", &self.locked().len())
            .finish_non_exhaustive()
    }
}
