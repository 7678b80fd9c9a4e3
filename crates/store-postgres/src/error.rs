//! Why a vault could not be opened.

use std::fmt;

use tokenward::store::StoreError;

/// Why a vault could not be opened. No variant repeats a URL or a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL cannot be used.
    #[error("the store's URL cannot be used: {0}")]
    Url(&'static str),
    /// A certificate or key cannot be used.
    #[error("TLS to the store: {0}")]
    Tls(String),
    /// The database was written by a newer version of this program.
    #[error(
        "this vault was written by a newer tokenward (schema {schema}); this one knows schemas up to {known}"
    )]
    Newer {
        /// Its schema.
        schema: i64,
        /// The newest one that this version knows.
        known: i64,
    },
    /// Another replica does not finish its migration.
    #[error("another replica has been migrating the vault for a minute; try again when it is done")]
    Locked,
    /// The database does not answer, or refuses.
    #[error(transparent)]
    Store(StoreError),
}

impl OpenError {
    pub(crate) fn tls(error: impl fmt::Display) -> Self {
        Self::Tls(error.to_string())
    }
}
