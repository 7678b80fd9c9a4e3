//! Work for a thread that owns a database connection.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
};

use rusqlite::{Connection, ErrorCode};
use tokenward::store::{Freeze, StoreError, StoreResult};
use tokio::sync::oneshot;

/// Why a job failed, on its way to a [`StoreError`].
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite's word.
    Sqlite(rusqlite::Error),
    /// Ours: a row that makes no sense, a request that must be refused.
    Refused(String),
}

pub(crate) type Outcome<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sqlite(error) if error.to_string().contains(Freeze::WORDS) => Self::Frozen,
            Fault::Sqlite(error) => match error.sqlite_error_code() {
                // Another process holds the file's lock, and did so all the time that we waited.
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    Self::Busy(format!("SQLite: {error}"))
                }
                _ => Self::Refused(format!("SQLite: {error}")),
            },
            Fault::Refused(why) => Self::Refused(why),
        }
    }
}

/// Where verbs are left for a thread.
pub(crate) type Queue = mpsc::Sender<Box<dyn Job>>;

/// A verb that waits for its turn. It is run once and then answered once.
pub(crate) trait Job: Send {
    /// Runs inside a transaction; an error if its writes must be rolled back.
    fn run(&mut self, connection: &Connection) -> StoreResult<()>;
    /// Answers the caller: with the verb's own outcome, or with the error that undid it.
    fn answer(self: Box<Self>, undone: Option<&StoreError>);
}

struct Verb<F, T> {
    verb: Option<F>,
    outcome: Option<StoreResult<T>>,
    caller: oneshot::Sender<StoreResult<T>>,
}

/// Wraps a verb; the receiver gets its outcome.
pub(crate) fn job<T, F>(verb: F) -> (Box<dyn Job>, oneshot::Receiver<StoreResult<T>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (
        Box::new(Verb {
            verb: Some(verb),
            outcome: None,
            caller,
        }),
        answer,
    )
}

impl<T, F> Job for Verb<F, T>
where
    T: Send,
    F: FnOnce(&Connection) -> Outcome<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> StoreResult<()> {
        let Some(verb) = self.verb.take() else {
            return Ok(());
        };
        // A panic must not take the thread away from everybody else.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            verb(connection).map_err(StoreError::from)
        }))
        .unwrap_or_else(|_| {
            Err(StoreError::Refused(
                "a verb of the store panicked".to_owned(),
            ))
        });
        let done = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        self.outcome = Some(outcome);
        done
    }

    fn answer(self: Box<Self>, undone: Option<&StoreError>) {
        let outcome = match (undone, self.outcome) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(StoreError::Refused("the verb was not run".to_owned())),
        };
        // The caller may have left; what it asked for is done nevertheless.
        let _ = self.caller.send(outcome);
    }
}

impl fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}
