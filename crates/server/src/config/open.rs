//! A vault from command-line options: where it lies, which key opens it, what it may reach.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokenward::{
    Vault, VaultConfig,
    connector::Catalogue,
    observe::Observer,
    spool::FolderSpool,
    time::{Clock, SeededChance, SystemClock},
    vault::VaultParts,
};

use crate::{
    config::{
        egress::EgressOptions,
        place::{OpenStore, StoreOptions},
    },
    egress::{Connector, HttpTransport},
};

/// Options of every command that opens a vault.
#[derive(Clone, Debug, Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these are help texts, printed as they stand"
)]
#[command(next_help_heading = "Vault options")]
pub struct VaultOptions {
    /// The vault's folder: its key, connectors and spool, and its rows unless --store says otherwise [default: $XDG_DATA_HOME/tokenward or ~/.local/share/tokenward]
    #[arg(long, global = true, env = "TOKENWARD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A folder of connector files (*.toml) beside the shipped ones [default: DATA_DIR/connectors]
    #[arg(long, global = true, env = "TOKENWARD_CONNECTORS", value_name = "DIR")]
    pub connectors: Option<PathBuf>,
    /// The file with the vault's key(s); the first seals, all open. Or give the key itself in the environment variable TOKENWARD_KEY [default: DATA_DIR/key]
    #[arg(long, global = true, env = "TOKENWARD_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreOptions,
    #[command(flatten)]
    pub egress: EgressOptions,
}

/// A vault and what was made to open it.
#[derive(Debug)]
pub struct Opened {
    /// The vault.
    pub vault: Vault,
    /// Its folder: key, connectors, spool, and the rows if they are kept on this machine.
    pub data_dir: PathBuf,
    /// Where its rows lie.
    pub store: String,
    /// How providers are reached.
    pub connector: Connector,
    /// The file of a key that was just made.
    pub new_key: Option<PathBuf>,
}

impl VaultOptions {
    /// The data folder.
    ///
    /// # Errors
    ///
    /// Without a home folder to put it in.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        match (set("XDG_DATA_HOME"), set("HOME")) {
            (Some(data), _) => Ok(data.join("tokenward")),
            (None, Some(home)) => Ok(home.join(".local/share/tokenward")),
            (None, None) => bail!("there is no HOME to keep the vault in; give --data-dir"),
        }
    }

    /// The connectors: the shipped ones and those that were dropped in.
    ///
    /// # Errors
    ///
    /// A file that cannot be used, with file, line and key.
    pub fn catalogue(&self) -> anyhow::Result<Catalogue> {
        let mut catalogue = Catalogue::shipped();
        match &self.connectors {
            Some(folder) => catalogue.add_folder(folder)?,
            None => {
                let folder = self.folder().map(|folder| folder.join("connectors"));
                if let Some(folder) = folder.ok().filter(|folder| folder.is_dir()) {
                    catalogue.add_folder(&folder)?;
                }
            }
        }
        Ok(catalogue)
    }

    /// Opens the vault, made if it does not exist.
    ///
    /// # Errors
    ///
    /// With cause and way out: folder, key, store, connectors.
    pub async fn open(
        &self,
        config: VaultConfig,
        observer: Arc<dyn Observer>,
    ) -> anyhow::Result<Opened> {
        self.open_or_make(config, observer, true).await
    }

    /// Opens a vault that exists: for those who only want to look into it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and if there is none. Nothing is made then.
    pub async fn open_existing(
        &self,
        config: VaultConfig,
        observer: Arc<dyn Observer>,
    ) -> anyhow::Result<Opened> {
        let folder = self.folder()?;
        if self.store.is_embedded() && !folder.join("vault.db").exists() {
            bail!(no_vault(&folder.display().to_string()));
        }
        self.open_or_make(config, observer, false).await
    }

    async fn open_or_make(
        &self,
        config: VaultConfig,
        observer: Arc<dyn Observer>,
        make: bool,
    ) -> anyhow::Result<Opened> {
        let catalogue = self.catalogue()?;
        let connector = self.egress.connector()?;
        let data_dir = self.folder()?;
        make_private_folder(&data_dir).with_context(|| {
            format!(
                "the data folder {} cannot be made; give another with --data-dir",
                data_dir.display()
            )
        })?;
        let OpenStore { store, shown, used } = self.store.open(&data_dir).await?;
        if !used && !make {
            bail!(no_vault(&shown));
        }
        let (keyring, new_key) = self.keyring(&data_dir, used)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let transport = HttpTransport::new(connector.clone(), clock.clone());
        let vault = Vault::open(VaultParts {
            store,
            keyring,
            transport: Arc::new(transport),
            spool: Arc::new(FolderSpool::new(data_dir.join("spool"))),
            observer,
            clock,
            chance: Arc::new(SeededChance::from_entropy()),
            catalogue,
            config,
        })
        .await?;
        // A token that could not be saved by an earlier process comes before any new refresh.
        vault.adopt_spool().await;
        Ok(Opened {
            vault,
            data_dir,
            store: shown,
            connector,
            new_key,
        })
    }
}

fn no_vault(place: &str) -> String {
    format!(
        "there is no vault in {place} yet; `tokenward applications create NAME` makes one, --data-dir and --store lead \
         to another"
    )
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
