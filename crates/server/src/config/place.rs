//! Where a vault's rows lie: the embedded SQLite, or a PostgreSQL that replicas share.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Args;
use tokenward::{Secret, store::Store};
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_store_sqlite::SqliteStore;

/// Options of the store.
#[derive(Clone, Debug, Default, Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these are help texts, printed as they stand"
)]
#[command(next_help_heading = "Store options")]
pub struct StoreOptions {
    /// Where the vault's rows lie: `sqlite` (in the data folder), or postgres://USER@HOST/DATABASE?sslmode=verify-full [default: sqlite]
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_STORE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub store: Option<StoreUrl>,
    /// Where to listen for other replicas' changes, if --store leads to a pooler in transaction mode
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_STORE_LISTEN",
        value_name = "URL",
        hide_env_values = true,
        conflicts_with = "store_poll_only"
    )]
    pub store_listen: Option<StoreUrl>,
    /// Do not use LISTEN and NOTIFY, which some PostgreSQL-compatible engines lack
    #[arg(long, global = true, env = "TOKENWARD_STORE_POLL_ONLY")]
    pub store_poll_only: bool,
    /// The most connections to PostgreSQL that one process holds, beside the one that listens
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_STORE_CONNECTIONS",
        default_value_t = 8,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub store_connections: u16,
}

/// A URL that may hold a password: shown nowhere.
#[derive(Clone, Debug)]
pub struct StoreUrl(Secret);

impl From<String> for StoreUrl {
    fn from(url: String) -> Self {
        Self(Secret::new(url))
    }
}

impl StoreUrl {
    /// The URL itself.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// A store that was opened.
#[derive(Debug)]
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where it is, in words that hold no password.
    pub shown: String,
    /// Whether anything was ever sealed for it.
    pub used: bool,
}

/// A store as what it is.
pub(crate) enum Place {
    Sqlite {
        store: SqliteStore,
        /// Whether its file existed.
        used: bool,
    },
    Postgres(PostgresStore),
}

impl Place {
    pub(crate) fn store(&self) -> &dyn Store {
        match self {
            Self::Sqlite { store, .. } => store,
            Self::Postgres(store) => store,
        }
    }
}

impl StoreOptions {
    /// Whether a PostgreSQL is wanted that this command is to start by itself.
    pub fn wants_cluster(&self) -> bool {
        self.named() == Some("postgres")
    }

    /// Whether the rows are kept in the data folder.
    pub fn is_embedded(&self) -> bool {
        matches!(self.named(), None | Some("" | "sqlite"))
    }

    /// A PostgreSQL at a URL.
    #[must_use]
    pub fn at(url: String) -> Self {
        Self {
            store: Some(url.into()),
            store_connections: 8,
            ..Self::default()
        }
    }

    fn named(&self) -> Option<&str> {
        self.store.as_ref().map(StoreUrl::expose)
    }

    /// The same options for another place.
    #[must_use]
    pub fn elsewhere(&self, url: StoreUrl) -> Self {
        Self {
            store: Some(url),
            store_listen: None,
            ..self.clone()
        }
    }

    /// Opens the store, made if it does not exist.
    ///
    /// # Errors
    ///
    /// With cause and way out; never with the URL.
    pub async fn open(&self, data_dir: &Path) -> anyhow::Result<OpenStore> {
        let (place, shown) = self.place(data_dir).await?;
        Ok(match place {
            Place::Sqlite { store, used } => OpenStore {
                store: Arc::new(store),
                shown,
                used,
            },
            Place::Postgres(store) => {
                let used = store
                    .used()
                    .await
                    .with_context(|| format!("the vault {shown}"))?;
                OpenStore {
                    store: Arc::new(store),
                    shown,
                    used,
                }
            }
        })
    }

    /// Opens the store as what it is.
    pub(crate) async fn place(&self, data_dir: &Path) -> anyhow::Result<(Place, String)> {
        match self.named() {
            None | Some("" | "sqlite") => {
                let database = data_dir.join("vault.db");
                let used = database.exists();
                let shown = database.display().to_string();
                let store =
                    SqliteStore::open(&database).with_context(|| format!("the vault {shown}"))?;
                Ok((Place::Sqlite { store, used }, shown))
            }
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                self.place_in_postgres(url).await
            }
            Some("postgres") => bail!(
                "only the demo starts a PostgreSQL by itself; give --store postgres://USER@HOST/DATABASE"
            ),
            Some(_) => bail!("--store is `sqlite` or a URL that begins with postgres://"),
        }
    }

    async fn place_in_postgres(&self, url: &str) -> anyhow::Result<(Place, String)> {
        let mut options =
            PostgresOptions::parse(url)?.connections(usize::from(self.store_connections));
        if let Some(listen) = &self.store_listen {
            options = options
                .listening_at(listen.expose())
                .context("--store-listen")?;
        }
        if self.store_poll_only {
            options = options.polling_only();
        }
        let shown = options.to_string();
        let store = PostgresStore::open(options)
            .await
            .with_context(|| format!("the vault {shown}"))?;
        Ok((Place::Postgres(store), shown))
    }
}
