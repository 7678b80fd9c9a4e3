//! The port to the vault's store: one verb, one statement.
//!
//! The protocol's verbs are those of [`crate::refresh::ledger`]; each is atomic, short, and
//! durable when it returns. No verb is held open across a call to a provider. A dropped future
//! never leaves a transaction open; whether its statement took effect is then unknown, which the
//! verbs tolerate (a repeated claim or commit is recognised).
//!
//! What an implementation decides, it decides with the functions of this crate: a store reads rows,
//! applies a pure function, and writes rows.

mod api_key;
mod authorize;
#[cfg(test)]
pub(crate) mod disturbed;
mod feed;
mod memory;
mod ports;
mod records;
mod settings;
mod unread;

pub use api_key::{ApiKey, NewApiKey, Scope, Scopes, USE_NOTED_FOR, UnknownScope};
pub use authorize::{Authorize, Authorized, Conflict, Present, ReplacedToken};
pub use feed::{Change, ChangeColumns, Changes, Gap};
pub use memory::MemoryStore;
pub use ports::{
    Attempts, Clients, Connections, Consumers, Feed, Ledger, Lines, Moving, Store, Tenants,
    UnreadAnswers, Values, Waiting,
};
pub use records::{
    Application, Connection, ConnectionPatch, Consumer, ConsumerDeletion, ConsumerFilter, Deleted,
    Freeze, OAuthClient, Record, Whole,
};
pub use settings::{ApplicationSettings, RedirectError, Theme, check_redirect_url};
pub use unread::UnreadAnswer;

use crate::time::StoreTime;

/// The ports, for whoever calls a store by its own type.
pub mod prelude {
    pub use super::ports::{
        Attempts as _, Clients as _, Connections as _, Consumers as _, Feed as _, Ledger as _,
        Lines as _, Moving as _, Store as _, Tenants as _, UnreadAnswers as _, Values as _,
    };
}

/// Why a verb failed. Never means "held" or "not found".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store works, but not fast enough for all who ask: this verb was given up while it
    /// waited for its turn, and nothing of it was done. Slow is not away.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// The store did not answer this verb in time, while it answered others. Whether the verb took
    /// effect is not known.
    #[error("the store is slow: {0}")]
    TimedOut(String),
    /// There was no answer, or there is no way to the store. Whether the verb took effect is not
    /// known.
    #[error("{0}")]
    Away(String),
    /// The store has answered, with an error of its own.
    #[error("{0}")]
    Refused(String),
    /// The vault takes no writes, because of a [`Freeze`].
    #[error("{}", Freeze::WORDS)]
    Frozen,
}

impl StoreError {
    /// Whether the store works, and is only slow: what it said a moment ago may be asked again, and
    /// nothing may be believed on as if it were away.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::TimedOut(_))
    }
}

/// A verb's result.
pub type StoreResult<T> = Result<T, StoreError>;

/// A reply with the store's time at which it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The reply.
    pub value: T,
    /// When, on the store's clock.
    pub at: StoreTime,
}
