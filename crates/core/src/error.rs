//! Why a caller gets no token.

use crate::{refresh::ledger::FailureKind, time::StoreTime};

/// Why [`Vault::token`](crate::Vault::token) has no token to give. Messages are for people and
/// hold no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is no such connection.
    #[error("there is no connection {0}")]
    UnknownConnection(String),
    /// The connection exists but nobody has authorized it.
    #[error("connection {0} is not authorized yet")]
    NotAuthorized(String),
    /// The connection is switched off.
    #[error("connection {0} is disabled")]
    Disabled(String),
    /// No file describes the connection's connector.
    #[error("there is no connector `{0}`")]
    UnknownConnector(String),
    /// The application has no OAuth client for the connector.
    #[error("no OAuth client is set for connector `{0}`")]
    NoClient(String),
    /// The provider has ended the grant.
    #[error("the provider ended the grant at {at}: {reason}. Re-authorize the connection")]
    Dead {
        /// When it said so.
        at: StoreTime,
        /// Its words.
        reason: String,
    },
    /// No access token lives, and there is nothing to refresh with.
    #[error(
        "the access token has expired and the provider gave no refresh token. Re-authorize the connection"
    )]
    NoRefreshToken,
    /// The provider's last answer had no access token that can be sent.
    #[error(
        "the provider's answer to the last refresh had no usable access token; its refresh token was saved, and the next request asks again"
    )]
    UnusableToken,
    /// An answer was lost and the replay policy forbids to ask again yet.
    #[error(
        "the provider's answer to a refresh was lost at {lost_at}: {why}. It is not asked again before {retry_at}, because reuse would revoke the grant"
    )]
    AnswerLost {
        /// When it was lost.
        lost_at: StoreTime,
        /// How.
        why: String,
        /// When it will be tried again.
        retry_at: StoreTime,
    },
    /// It failed for now.
    #[error("the refresh failed: {message}")]
    Failed {
        /// In which way.
        kind: FailureKind,
        /// In words.
        message: String,
        /// When the provider may be asked again.
        retry_at: StoreTime,
    },
    /// The token endpoint's breaker or the provider's wish holds all refreshes back.
    #[error(
        "refreshes of this client are paused after failures of the token endpoint; next try in {retry_in_ms} ms"
    )]
    Paused {
        /// Milliseconds until the next try.
        retry_in_ms: u64,
    },
    /// The caller's own deadline passed before the provider or the store had answered. What was
    /// begun goes on.
    #[error("there is no token after {waited_ms} ms; what is under way goes on")]
    DeadlineExceeded {
        /// Milliseconds waited.
        waited_ms: u64,
    },
    /// The vault's own store does not answer.
    #[error("the vault's store is unavailable: {0}")]
    Store(String),
    /// What is stored does not open.
    #[error("the stored tokens cannot be opened: {0}")]
    Seal(#[from] crate::seal::SealError),
    /// The vault is shutting down.
    #[error("the vault is shutting down")]
    ShuttingDown,
}
