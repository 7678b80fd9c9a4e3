//! The engine: drives the pure protocol through the ports.
//!
//! [`Vault::token`] is the one verb that everybody calls. A fresh token is answered from memory;
//! for a stale one, callers join the grant's flight, a task of its own that no caller's departure
//! cancels.

mod admin;
mod entry;
mod keeper;
mod landing;
mod pilot;
mod provider;
mod resolve;
mod spooling;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use admin::{AdminError, Import};
pub use entry::{Held, Token};
pub use resolve::Resolved;

use self::entry::{GrantEntry, Joined, Landing, Snapshot};
use crate::{
    connector::Catalogue,
    error::TokenError,
    id::{ApplicationId, ConnectionKey, ConnectorId, GrantId},
    observe::{Observer, Served, Signal},
    refresh::{gate::Gate, ledger::Need, schedule},
    seal::{Keyring, Purpose, SealError, random_bytes},
    spool::Spool,
    store::{Store, StoreError},
    sync::{Mutex, TaskTracker, atomic::AtomicU64},
    time::{Chance, Clock, Moment},
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
    /// How much longer a caller waits for a second try after a failure.
    pub retry_wait: Duration,
    /// How often a claim that another process holds is looked at.
    pub claim_poll: Duration,
    /// How often the store is asked for changes by other processes.
    pub change_poll: Duration,
    /// How often idle grants are looked for that want keeping alive, and the spool is adopted.
    pub upkeep_every: Duration,
    /// Whether grants in use are refreshed before they are stale.
    pub refresh_ahead: bool,
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
            retry_wait: Duration::from_secs(5),
            claim_poll: Duration::from_millis(20),
            change_poll: Duration::from_millis(100),
            upkeep_every: Duration::from_secs(60),
            refresh_ahead: true,
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
    keyring: Keyring,
    transport: Arc<dyn Transport>,
    spool: Arc<dyn Spool>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    catalogue: Catalogue,
    config: VaultConfig,
    /// Keys the digests of refresh tokens.
    pepper: [u8; 32],
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
    gates: Mutex<HashMap<(ApplicationId, ConnectorId), Gate>>,
    agenda: Mutex<keeper::Agenda>,
    /// Spool entries whose flights are still at it.
    spooling: Mutex<HashSet<String>>,
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
        let pepper = pepper
            .as_slice()
            .try_into()
            .map_err(|_| wrong(SealError::Malformed))?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                keyring,
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
                gates: Mutex::default(),
                agenda: Mutex::default(),
                spooling: Mutex::default(),
                tracker: TaskTracker::new(),
                closing: CancellationToken::new(),
            }),
        })
    }

    /// A live access token for a connection, refreshed first if it is stale.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within [`VaultConfig::wait`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait only; a refresh that is under way goes on.
    pub async fn token(&self, connection: &ConnectionKey) -> Result<Held, TokenError> {
        // Looked at where it lies: counting references to it would be a write.
        if let Some(resolved) = self.inner.connections.pin().get(connection)
            && resolved.trusted()
            && let Ok(token) = self.inner.at_hand(resolved)
        {
            return Ok(token);
        }
        let wait = self.inner.config.wait;
        // Boxed, so that those who need not wait carry no room for it.
        let search = async {
            self.token_for(&*self.resolve(connection).await?, wait)
                .await
        };
        Box::pin(search).await
    }

    /// As [`token`](Self::token), for a connection that was resolved before, and with the
    /// caller's own patience.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within `wait`.
    pub async fn token_for(&self, resolved: &Resolved, wait: Duration) -> Result<Held, TokenError> {
        let seen = match self.inner.at_hand(resolved) {
            Ok(token) => return Ok(token),
            Err(stale) => stale,
        };
        let deadline = self.inner.clock.now() + wait;
        // Boxed, so that those who need not wait carry no room for it.
        Box::pin(self.obtain(&resolved.grant, Need::Stale, seen, deadline)).await
    }

    /// The access token if it is fresh: nobody is asked, and nothing waited for.
    pub fn fresh(&self, resolved: &Resolved) -> Option<Held> {
        self.inner.at_hand(resolved).ok()
    }

    /// Forces one refresh, whatever the expiry, and answers with the new token. Joins a refresh
    /// that is under way; one that others began after this call arrived satisfies it.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within [`VaultConfig::wait`].
    pub async fn validate(&self, connection: &ConnectionKey) -> Result<Held, TokenError> {
        let resolved = self.resolve(connection).await?;
        // What other processes have committed before this call does not satisfy it.
        self.inner.reload(&resolved.grant).await?;
        let seen = resolved.grant.snapshot().version;
        let deadline = self.inner.clock.now() + self.inner.config.wait;
        self.obtain(&resolved.grant, Need::Forced, seen, deadline)
            .await
    }

    /// A better token than one that the API has rejected as expired: the newer one if there is
    /// one by now, else one refresh for all who ask.
    ///
    /// `Ok(None)`: the rejected token was granted so recently that expiry cannot be the reason;
    /// the API's answer stands.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within `wait`.
    pub async fn rejected(
        &self,
        resolved: &Resolved,
        token: &Token,
        wait: Duration,
    ) -> Result<Option<Held>, TokenError> {
        let now = self.inner.clock.now();
        let snapshot = resolved.grant.snapshot();
        if snapshot.version == token.version()
            && (!snapshot.refreshable
                || snapshot
                    .refreshed
                    .is_some_and(|at| now < at + snapshot.margin))
        {
            return Ok(None);
        }
        drop(snapshot);
        self.obtain(&resolved.grant, Need::Rejected, token.version(), now + wait)
            .await
            .map(Some)
    }

    /// Waits for a version newer than `seen`, flying as needed.
    async fn obtain(
        &self,
        entry: &Arc<GrantEntry>,
        need: Need,
        seen: u64,
        deadline: Moment,
    ) -> Result<Held, TokenError> {
        let Inner {
            clock,
            config,
            observer,
            ..
        } = &*self.inner;
        entry.note_use();
        let begun = clock.now();
        let mut landings = 0;
        let serve = |token, served| {
            observer.observe(&Signal::Served(served));
            Ok(token)
        };
        loop {
            let enough = |newer: &Snapshot| {
                let now = clock.now();
                newer.fresh(now) || landings >= ENOUGH_LANDINGS && newer.good_since(begun, now)
            };
            let waiter = match self.inner.join(entry, need, seen, enough)? {
                Joined::Newer(token) => return serve(token, Served::Joined),
                Joined::Flight(waiter) => waiter,
            };
            let now = clock.now();
            // Somebody who can be served with the old token need not wait for ever.
            let alive = |now| {
                let snapshot = entry.snapshot();
                match need.of(seen, snapshot.version) {
                    Need::Stale if snapshot.alive(now) => Held::of(snapshot),
                    _ => None,
                }
            };
            let patience = match alive(now) {
                Some(_) => deadline.min(begun + config.stale_wait),
                None => deadline,
            };
            let landing = tokio::select! {
                biased;
                landing = waiter.landed() => Some(landing),
                () = clock.sleep(now.until(patience)) => None,
            };
            let now = clock.now();
            let (error, retry_at) = match landing {
                Some(Landing::Newer) => {
                    landings += 1;
                    continue;
                }
                Some(Landing::Failed { error, retry_at }) => (error, retry_at),
                // The old token was worth waiting a little for, and has died meanwhile: now the
                // whole of the caller's patience counts.
                None if now < deadline && alive(now).is_none() => continue,
                None => {
                    let waited_ms = u64::try_from(begun.until(now).as_millis()).unwrap_or(u64::MAX);
                    (TokenError::DeadlineExceeded { waited_ms }, None)
                }
            };
            if let Some(token) = alive(now) {
                return serve(token, Served::Stale);
            }
            match retry_at.filter(|at| *at < deadline && *at < begun + config.retry_wait) {
                Some(at) => clock.sleep(now.until(at)).await,
                None => {
                    observer.observe(&Signal::Served(Served::Failed));
                    return Err(error);
                }
            }
        }
    }

    /// What is known of providers.
    pub fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The keyring.
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
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

impl Inner {
    /// The token in memory, if it is fresh: no lock, no allocation, nobody is waited for.
    ///
    /// The version that is stale and the token that is fresh are of one look: with a second one a
    /// token that was granted in between would be called stale, and refreshed.
    fn at_hand(&self, resolved: &Resolved) -> Result<Held, u64> {
        let snapshot = resolved.grant.snapshot();
        let version = snapshot.version;
        if !snapshot.fresh(self.clock.now()) {
            return Err(version);
        }
        resolved.grant.note_use();
        self.observer.observe(&Signal::Served(Served::Fresh));
        Held::of(snapshot).ok_or(version)
    }
}

/// After this many new versions a caller takes one that is stale: a provider may grant tokens that
/// are stale from the start.
const ENOUGH_LANDINGS: u32 = 2;

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod schedules;
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests;
