//! Opening the database.

use std::fmt;

use tokenward::store::{StoreError, StoreResult};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    changes::{self, Holes},
    grants::Claims,
    hints::{self, Hints},
    line::Class,
    migrate,
    options::PostgresOptions,
    pool::Pool,
};

/// A vault in a PostgreSQL database, shared by any number of processes.
///
/// When the store is dropped, its connections are closed as soon as what they were asked is done.
pub struct PostgresStore {
    shown: String,
    pub(crate) pool: Pool,
    /// The same for the ledger's verbs, and for strangers.
    pub(crate) ledger: Pool,
    pub(crate) strangers: Pool,
    pub(crate) hints: Hints,
    /// The rows of claims that this process holds.
    pub(crate) claims: Claims,
    /// Numbers of changes that were missed.
    pub(crate) holes: Holes,
    _ends: DropGuard,
}

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
        "this vault was written by a newer tokenward (schema {schema}); this one knows schemas up to {}",
        migrate::SCHEMA
    )]
    Newer {
        /// Its schema.
        schema: i64,
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

impl PostgresStore {
    /// Opens a vault, and makes its tables if there are none. Waits while another replica does.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let shown = options.to_string();
        let pool = Pool::new(options.main, options.connections);
        migrate::migrate(&pool).await?;
        let holes = Holes::new(&pool).await;
        let ends = CancellationToken::new();
        let hints = Hints::default();
        let tasks = pool.tasks();
        if let Some(target) = options.listener {
            hints.will_be_heard();
            tasks.spawn(ends.clone().run_until_cancelled_owned(hints::listen(
                target,
                hints.clone(),
                tasks.clone(),
            )));
            tasks.spawn(
                ends.clone().run_until_cancelled_owned(hints::announce(
                    pool.of(Class::Ledger),
                    hints.clone(),
                )),
            );
        }
        tasks.spawn(
            ends.clone()
                .run_until_cancelled_owned(changes::prune(pool.clone())),
        );
        Ok(Self {
            shown,
            ledger: pool.of(Class::Ledger),
            strangers: pool.of(Class::Stranger),
            pool,
            hints,
            claims: Claims::default(),
            holes,
            _ends: ends.drop_guard(),
        })
    }

    /// Whether anything was ever sealed for this vault, so that it has a key already.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn used(&self) -> StoreResult<bool> {
        let any = "SELECT 1 FROM tokenward.vault_values LIMIT 1";
        let rows = self
            .pool
            .patiently(true, || self.pool.query(any, &[]))
            .await?;
        Ok(!rows.is_empty())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("at", &self.shown)
            .finish_non_exhaustive()
    }
}
