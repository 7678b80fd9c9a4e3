//! The engine: drives the pure protocol through the ports.
//!
//! [`Vault::token`] is the one verb that everybody calls. A fresh token is answered from memory;
//! for a stale one, callers join the grant's flight, a task of its own that no caller's departure
//! cancels.

mod admin;
mod agenda;
mod cache;
mod connect;
mod consumers;
mod derived;
mod entry;
mod feed;
mod join;
mod keep_alive;
mod keys;
mod landing;
mod obtain;
mod pilot;
mod provider;
mod readiness;
mod reseal;
mod resolve;
mod spooling;
pub mod state;
mod token;
mod unread;
mod upkeep;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use admin::{AdminError, Import};
pub use connect::{Arrived, Attempt, Begin, Begun, ConnectError, Landed, Told};
pub use derived::DerivedKey;
pub use keys::ReloadError;
pub use readiness::NotReady;
pub use resolve::Resolved;
pub use token::{Held, Token};
pub use unread::{Recovered, Unread};

use self::entry::GrantEntry;
use crate::{
    connector::Catalogue,
    id::{ApplicationId, ConnectionKey, ConnectorId, GrantId},
    observe::{Blind, Observer},
    refresh::{gate::Gate, schedule},
    seal::{Key, KeyId, Keyring, Purpose, SealError, random_bytes},
    spool::{NoSpool, Spool},
    store::{MemoryStore, Store, StoreError},
    sync::{
        ArcSwap, Mutex, Notify, TaskTracker,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    time::{Chance, Clock, SeededChance, TokioClock},
    transport::Transport,
};

/// The engine's settings. [`VaultConfig::default`] suits production.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// A token with less than this left is stale (bounded by a quarter of its lifetime).
    pub margin: Duration,
    /// A claim's length; it is extended while the provider is waited for. A dead owner is
    /// taken over after this.
    pub claim_ttl: Duration,
    /// For DNS, connect and TLS to a token endpoint. At most half of `claim_ttl`.
    pub connect_timeout: Duration,
    /// For a token endpoint's answer.
    pub answer_timeout: Duration,
    /// How long a caller waits that names no deadline.
    pub wait: Duration,
    /// How long a caller waits for a flight while the old token still lives.
    pub stale_wait: Duration,
    /// How long the store may take to confirm an answer before the spool keeps it as well.
    pub confirm_within: Duration,
    /// How often a claim that another process holds is looked at.
    pub claim_poll: Duration,
    /// How often the store is asked for changes by other processes.
    pub change_poll: Duration,
    /// How often idle grants are looked for that want keeping alive, and the spool is adopted.
    pub upkeep_every: Duration,
    /// Whether grants in use are refreshed before they are stale.
    pub refresh_ahead: bool,
    /// How many grants, and how many connections, are kept in memory. Beyond that, those that
    /// were not used lately are forgotten, and read again when they are.
    pub cached_grants: usize,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            margin: schedule::DEFAULT_MARGIN,
            claim_ttl: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(8),
            answer_timeout: Duration::from_secs(60),
            wait: Duration::from_secs(28),
            stale_wait: Duration::from_secs(5),
            confirm_within: Duration::from_millis(100),
            claim_poll: Duration::from_millis(20),
            change_poll: Duration::from_millis(100),
            upkeep_every: Duration::from_secs(60),
            refresh_ahead: true,
            cached_grants: 1_000_000,
        }
    }
}

/// What a vault is made of.
#[derive(Debug)]
pub struct VaultParts {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// What seals it.
    pub keyring: Keyring,
    /// The way to providers.
    pub transport: Arc<dyn Transport>,
    /// Where answers wait while the store is down.
    pub spool: Arc<dyn Spool>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub chance: Arc<dyn Chance>,
    /// What is known of providers.
    pub catalogue: Catalogue,
    /// Settings.
    pub config: VaultConfig,
}

impl VaultParts {
    /// A vault on this store, with the real clock and chance, without connectors, and with nobody
    /// who watches. Its spool forgets: give it one that does not wherever tokens matter.
    pub fn new(store: Arc<dyn Store>, keyring: Keyring, transport: Arc<dyn Transport>) -> Self {
        Self {
            store,
            keyring,
            transport,
            spool: Arc::new(NoSpool),
            observer: Arc::new(Blind),
            clock: Arc::new(TokioClock::default()),
            chance: Arc::new(SeededChance::from_entropy()),
            catalogue: Catalogue::default(),
            config: VaultConfig::default(),
        }
    }

    /// A vault that is forgotten with its process, sealed with a key that nobody else has: for
    /// tests of what uses one.
    pub fn in_memory(transport: Arc<dyn Transport>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let keyring = Keyring::new(vec![Key::generate()]).expect("there is a key");
        Self {
            clock: clock.clone(),
            ..Self::new(Arc::new(MemoryStore::new(clock)), keyring, transport)
        }
    }
}

/// Why a vault does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key is not the vault's.
    #[error(
        "this vault was {0}. Give the key that it was made with (the keys given are: {1}); without it the stored tokens cannot be read"
    )]
    WrongKey(SealError, String),
}

/// The engine. Cloning is cheap; all clones are the same vault.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

/// For names: seeded anew in each process, and a fraction of the standard one's price.
type Hasher = foldhash::quality::RandomState;

pub(crate) struct Inner {
    store: Arc<dyn Store>,
    keyring: ArcSwap<Keyring>,
    /// Keys that stored values name and that were not given.
    missing_keys: Mutex<BTreeSet<KeyId>>,
    key_missing: Notify,
    transport: Arc<dyn Transport>,
    spool: Arc<dyn Spool>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    catalogue: Catalogue,
    config: VaultConfig,
    /// Keys the digests of refresh tokens.
    pepper: Zeroizing<[u8; 32]>,
    /// This process's name in claims.
    name: String,
    flights: AtomicU64,
    grants: papaya::HashMap<GrantId, Arc<GrantEntry>, Hasher>,
    connections: papaya::HashMap<ConnectionKey, Arc<Resolved>, Hasher>,
    /// One copy of each name that many connections have.
    names: Mutex<HashSet<Arc<str>>>,
    /// Grows with all that is heard of changes: what was read before and is kept after it may be
    /// out of date.
    heard: AtomicU64,
    gates: Mutex<HashMap<(ApplicationId, ConnectorId), Gate, Hasher>>,
    /// Whether a connection has gone whose grant may still be in memory.
    orphans: AtomicBool,
    /// Whether the cache is being looked through.
    sweeping: AtomicBool,
    /// Changes of applications and of their keys that were heard of.
    tenants_heard: AtomicU64,
    /// When the store is asked again to confirm a copy, while it does not answer.
    away: Mutex<feed::Away>,
    agenda: Mutex<agenda::Agenda>,
    /// Spool entries whose flights are still at it.
    spooling: Mutex<HashSet<String>>,
    /// How many others were left in the spool when it was last adopted.
    spool_rest: AtomicUsize,
    /// Told when the trouble of a token endpoint, or of a client, is over.
    recovered: Notify,
    tracker: TaskTracker,
    closing: CancellationToken,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens a vault: checks that the keyring is the store's.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a wrong key is never taken for "no credential".
    pub async fn open(parts: VaultParts) -> Result<Self, OpenError> {
        let VaultParts {
            store,
            keyring,
            transport,
            spool,
            observer,
            clock,
            chance,
            catalogue,
            config,
        } = parts;
        let pepper_purpose = Purpose::Vault { name: "pepper" };
        let fresh = keyring.seal(pepper_purpose, &random_bytes::<32>());
        let sealed = store.value_or_insert("pepper", fresh).await?;
        let wrong = |error| {
            let ids: Vec<_> = keyring.ids().map(ToString::to_string).collect();
            OpenError::WrongKey(error, ids.join(", "))
        };
        let pepper = keyring.open(pepper_purpose, &sealed).map_err(wrong)?;
        let pepper: [u8; 32] = pepper
            .as_slice()
            .try_into()
            .map_err(|_| wrong(SealError::Malformed))?;
        let pepper = Zeroizing::new(pepper);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                keyring: ArcSwap::from_pointee(keyring),
                missing_keys: Mutex::default(),
                key_missing: Notify::new(),
                transport,
                spool,
                observer,
                clock,
                chance,
                catalogue,
                config,
                pepper,
                name: uuid::Uuid::now_v7().simple().to_string(),
                flights: AtomicU64::new(0),
                grants: papaya::HashMap::default(),
                connections: papaya::HashMap::default(),
                names: Mutex::default(),
                heard: AtomicU64::new(0),
                orphans: AtomicBool::new(false),
                sweeping: AtomicBool::new(false),
                tenants_heard: AtomicU64::new(0),
                away: Mutex::default(),
                gates: Mutex::default(),
                agenda: Mutex::default(),
                spooling: Mutex::default(),
                spool_rest: AtomicUsize::new(0),
                recovered: Notify::new(),
                tracker: TaskTracker::new(),
                closing: CancellationToken::new(),
            }),
        })
    }

    /// What is known of providers.
    pub fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The settings.
    pub fn config(&self) -> &VaultConfig {
        &self.inner.config
    }

    /// The process's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Ends the upkeep and waits until no refresh is under way, at most `patience`.
    /// `false`: some were; their grants are taken over by the next who asks.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.inner.closing.cancel();
        self.inner.tracker.close();
        tokio::select! {
            biased;
            () = self.inner.tracker.wait() => true,
            () = self.inner.clock.sleep(patience) => false,
        }
    }
}

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod schedules;
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests;
