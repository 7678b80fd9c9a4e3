//! Opening the database.

use std::fmt;

use tokenward::store::StoreResult;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    changes::{self, Holes},
    error::OpenError,
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
