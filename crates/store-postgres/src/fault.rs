//! Why a statement failed, on its way to a [`StoreError`], and whether to try again.

use std::error::Error as _;

use tokenward::store::{Freeze, StoreError};
use tokio_postgres::error::SqlState;

use crate::tls;

/// Why an attempt failed. The texts never hold a value, a parameter or a URL.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There is no connection: nothing was sent.
    Unreachable(String),
    /// The line for a connection is too long, or did not move: nothing was sent.
    Busy,
    /// The connection broke, or no answer came: whether the statement took effect is unknown.
    Lost(String),
    /// Somebody else was faster, or the engine asks to try again: nothing was done.
    Contended,
    /// The database's word, or ours: a row that makes no sense, a request that must be refused.
    Refused(String),
}

pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// Of a statement that was sent.
    pub(crate) fn of_statement(error: &tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            return if error.is_closed()
                || error
                    .source()
                    .is_some_and(<dyn std::error::Error + 'static>::is::<std::io::Error>)
            {
                Self::Lost(without_values(error))
            } else {
                Self::Refused(without_values(error))
            };
        };
        let code = said.code();
        let text = format!("PostgreSQL: {} ({})", said.message(), code.code());
        if *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::LOCK_NOT_AVAILABLE
        {
            Self::Contended
        } else if leaves(code) {
            Self::Lost(text)
        } else {
            Self::Refused(text)
        }
    }

    /// Of an attempt to connect.
    pub(crate) fn of_connecting(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // A server that starts, stops, or is full; the others are the operator's to mend.
            Some(said) if leaves(said.code()) || *said.code() == SqlState::TOO_MANY_CONNECTIONS => {
                Self::Unreachable(format!(
                    "PostgreSQL: {} ({})",
                    said.message(),
                    said.code().code()
                ))
            }
            Some(said) => Self::Refused(format!(
                "PostgreSQL: {} ({})",
                said.message(),
                said.code().code()
            )),
            None if lacks_tls(error) => Self::Refused(without_values(error)),
            None if let Some(why) = tls_error(error) => {
                Self::Refused(format!("PostgreSQL: {}", tls::explain(why)))
            }
            None => Self::Unreachable(without_values(error)),
        }
    }

    /// Whether another attempt may go better. What may have taken effect is done again only by
    /// verbs that recognise it.
    pub(crate) fn passes(&self, repeatable: bool) -> bool {
        match self {
            Self::Unreachable(_) | Self::Contended => true,
            Self::Lost(_) => repeatable,
            Self::Busy | Self::Refused(_) => false,
        }
    }
}

/// Whether the server ends the session, or cannot write in it: another session is needed.
fn leaves(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            // A primary that has become a standby.
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(code)
}

/// Whether the server does not speak TLS. Time does not mend it.
fn lacks_tls(error: &tokio_postgres::Error) -> bool {
    error
        .source()
        .is_some_and(|cause| cause.to_string().contains("does not support TLS"))
}

/// Why the handshake failed, for a reason that time does not mend: a certificate.
fn tls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let cause = error.source()?.downcast_ref::<std::io::Error>()?;
    cause.get_ref()?.downcast_ref()
}

/// The client's own errors name the step and the system's word, nothing else.
fn without_values(error: &tokio_postgres::Error) -> String {
    let mut text = format!("PostgreSQL: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) if why.contains(Freeze::WORDS) => Self::Frozen,
            Fault::Refused(why) => Self::Refused(why),
            Fault::Unreachable(why) | Fault::Lost(why) => Self::Away(why),
            Fault::Busy => Self::Busy("others wait for a connection to PostgreSQL".to_owned()),
            Fault::Contended => Self::Busy("PostgreSQL: too many writers at once".to_owned()),
        }
    }
}
