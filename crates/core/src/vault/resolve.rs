//! From a connection's name to all that a request needs to know of it, cached.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::fence},
    time::Duration,
};

use super::{Inner, Vault, entry::GrantEntry, feed::CONFIRM_WAIT};
use crate::{
    connector::Connector,
    endpoint::Context,
    error::TokenError,
    id::{ApplicationId, ConnectionKey, ConnectionKeyRef, GrantId},
    refresh::ledger::GrantRow,
    store::{Stamped, StoreError, Whole},
    sync::{
        atomic::{AtomicU8, Ordering},
        lock,
    },
    time::Moment,
};

/// A connection with its connector and grant, as of the last change to either.
pub struct Resolved {
    /// Which connection.
    pub key: ConnectionKey,
    /// Its connector.
    pub connector: Arc<Connector>,
    pub(super) grant: Arc<GrantEntry>,
    /// Its settings as text, with the connector's defaults.
    settings: BTreeMap<String, String>,
    /// The operator's values, with the OAuth client.
    client_settings: BTreeMap<String, String>,
    /// What the embedder has found out about it.
    attachment: std::sync::OnceLock<Box<dyn Any + Send + Sync>>,
    /// [`NEW`], [`TRUSTED`] or [`DOUBTED`].
    trust: AtomicU8,
}

/// It is not known yet whether something was heard of before it was kept.
const NEW: u8 = 0;
/// It is kept where changes are looked for, and nothing was heard of before that.
const TRUSTED: u8 = 1;
/// It was trusted, and what happened to it since may have gone unheard.
const DOUBTED: u8 = 2;

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("key", &self.key)
            .field("grant", &self.grant.id)
            .finish_non_exhaustive()
    }
}

impl Resolved {
    pub(super) fn trusted(&self) -> bool {
        self.trust.load(Ordering::Acquire) == TRUSTED
    }

    fn doubted(&self) -> bool {
        self.trust.load(Ordering::Acquire) == DOUBTED
    }

    /// What happened to it may have gone unheard.
    pub(super) fn doubt(&self) {
        self.trust.store(DOUBTED, Ordering::Release);
    }

    /// Unless it has been doubted since it was made.
    fn begin_to_trust(&self) {
        let _ = self
            .trust
            .compare_exchange(NEW, TRUSTED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The grant's id.
    pub fn grant_id(&self) -> &GrantId {
        &self.grant.id
    }

    /// The connection's settings as text, with the connector's defaults.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// What the embedder keeps with the connection as long as nothing about it changes; made by
    /// the first call. `None` if that asked for another type.
    pub fn attached<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.attachment
            .get_or_init(|| Box::new(make()))
            .downcast_ref()
    }

    /// Values for the connector's templates. `token` is the provider's metadata.
    pub fn context<'a>(&'a self, token: Option<&'a BTreeMap<String, String>>) -> Context<'a> {
        Context {
            client: Some(&self.client_settings),
            settings: Some(&self.settings),
            token,
        }
    }
}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Vault {
    /// A connection that was found before; nothing is made and nobody is asked.
    pub fn resolved(
        &self,
        application: &str,
        consumer: &str,
        unified_api: &str,
        service: &str,
    ) -> Option<Arc<Resolved>> {
        let key = ConnectionKeyRef {
            application,
            consumer,
            unified_api,
            service,
        };
        let connections = self.inner.connections.pin();
        connections.get(&key).filter(|it| it.trusted()).cloned()
    }

    /// As [`resolve_within`](Self::resolve_within), within
    /// [`VaultConfig::wait`](super::VaultConfig::wait).
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub async fn resolve(&self, key: &ConnectionKey) -> Result<Arc<Resolved>, TokenError> {
        self.resolve_within(key, self.inner.config.wait).await
    }

    /// Finds a connection, from memory if it was found before.
    ///
    /// # Errors
    ///
    /// [`TokenError`] when it does not exist, is disabled or not authorized, its connector is
    /// not known, or the store does not answer; within `wait`.
    pub async fn resolve_within(
        &self,
        key: &ConnectionKey,
        wait: Duration,
    ) -> Result<Arc<Resolved>, TokenError> {
        self.resolve_by(key, self.inner.clock.now() + wait).await
    }

    pub(super) async fn resolve_by(
        &self,
        key: &ConnectionKey,
        deadline: Moment,
    ) -> Result<Arc<Resolved>, TokenError> {
        let known = self.inner.connections.pin().get(key).cloned();
        match known {
            Some(resolved) if resolved.trusted() => Ok(resolved),
            // Boxed, so that those who find it carry no room for the search.
            Some(resolved) if resolved.doubted() => {
                Box::pin(self.compare_copy(key, resolved, deadline)).await
            }
            _ => Box::pin(self.inner.within(deadline, self.find(key))).await,
        }
    }

    /// Compares a copy with the store, which may tell of something newer. While the store does
    /// not answer, the copy is served on: nothing says that it has been replaced.
    async fn compare_copy(
        &self,
        key: &ConnectionKey,
        copy: Arc<Resolved>,
        deadline: Moment,
    ) -> Result<Arc<Resolved>, TokenError> {
        let inner = &self.inner;
        let now = inner.clock.now();
        if lock(&inner.away).may_ask(now) {
            let found = inner.within(deadline.min(now + CONFIRM_WAIT), self.find(key));
            match found.await {
                Err(TokenError::Store(_) | TokenError::DeadlineExceeded { .. }) => {
                    lock(&inner.away).silent(inner.clock.now());
                }
                found => {
                    lock(&inner.away).answered();
                    if found.is_err() {
                        inner.connections.pin().remove(key);
                    }
                    return found;
                }
            }
        }
        // It may have been replaced meanwhile, or a change to it may have been heard of.
        let present = inner.connections.pin().get(key).cloned();
        match present {
            Some(present) if Arc::ptr_eq(&present, &copy) || present.trusted() => Ok(present),
            _ => inner.within(deadline, self.find(key)).await,
        }
    }

    /// Reads a connection, and keeps it.
    async fn find(&self, key: &ConnectionKey) -> Result<Arc<Resolved>, TokenError> {
        let heard = self.inner.heard.load(Ordering::SeqCst);
        let resolved = Arc::new(self.inner.look_up(key).await?);
        self.inner
            .connections
            .pin()
            .insert(resolved.key.clone(), resolved.clone());
        // A change may have been heard of between the reading and the keeping.
        if self.inner.heard_since(heard) {
            self.inner.connections.pin().remove(key);
        } else {
            resolved.begin_to_trust();
        }
        self.inner.mind_bounds();
        Ok(resolved)
    }
}

impl Inner {
    /// Something has changed. Called before the copies are looked through: a copy that is missed
    /// then, because it is only about to be kept, is checked by who keeps it.
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn heard_since(&self, heard: u64) -> bool {
        fence(Ordering::SeqCst);
        self.heard.load(Ordering::SeqCst) != heard
    }

    async fn look_up(&self, key: &ConnectionKey) -> Result<Resolved, TokenError> {
        let asked = self.asked();
        let Whole {
            connection,
            client,
            grant,
        } = self
            .store
            .whole(key)
            .await?
            .ok_or_else(|| TokenError::UnknownConnection(key.to_string()))?;
        if !connection.enabled {
            return Err(TokenError::Disabled(key.to_string()));
        }
        let connector = self
            .catalogue
            .find(key.service.as_str())
            .ok_or_else(|| TokenError::UnknownConnector(key.service.to_string()))?
            .clone();
        let not_authorized = || TokenError::NotAuthorized(key.to_string());
        let id = connection.grant.ok_or_else(not_authorized)?;
        let entry = match (self.known(&id), grant) {
            (Some(entry), _) => Some(entry),
            (None, Some(row)) => self.keep(row, &connector, asked).await?,
            (None, None) => None,
        };
        Ok(Resolved {
            key: ConnectionKey {
                application: ApplicationId::new(self.shared(key.application.as_str())),
                consumer: key.consumer.clone(),
                unified_api: self.shared(&key.unified_api),
                service: connector.id.clone(),
            },
            grant: entry.ok_or_else(not_authorized)?,
            settings: connector.settings_text(&connection.settings),
            client_settings: client.map(|client| client.settings).unwrap_or_default(),
            attachment: std::sync::OnceLock::new(),
            trust: AtomicU8::new(NEW),
            connector,
        })
    }

    /// One copy of a name that many have. There are as many as applications and unified APIs.
    fn shared(&self, name: &str) -> Arc<str> {
        let mut names = lock(&self.names);
        match names.get(name) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = name.into();
                names.insert(name.clone());
                name
            }
        }
    }

    /// The entry of a grant in memory, if it is as new as what was heard.
    fn known(&self, id: &GrantId) -> Option<Arc<GrantEntry>> {
        let grants = self.grants.pin();
        grants.get(id).filter(|entry| entry.trusted()).cloned()
    }

    fn asked(&self) -> Asked {
        Asked {
            heard: self.heard.load(Ordering::SeqCst),
            at: self.clock.now(),
        }
    }

    /// Keeps a grant's row that was asked for then.
    async fn keep(
        &self,
        stamped: Stamped<Option<GrantRow>>,
        connector: &Arc<Connector>,
        asked: Asked,
    ) -> Result<Option<Arc<GrantEntry>>, TokenError> {
        let Some(mut row) = stamped.value else {
            return Ok(None);
        };
        let present = self.grants.pin().get(&row.id).cloned();
        let entry = match present {
            Some(entry) => entry,
            None => {
                row.application = ApplicationId::new(self.shared(row.application.as_str()));
                let snapshot = self.read(&row, connector, stamped.at, asked.at)?;
                let entry = Arc::new(GrantEntry::new(&row, connector.clone(), snapshot));
                // Two who read at once: the first one's entry stands.
                let grants = self.grants.pin();
                grants.get_or_insert(row.id.clone(), entry).clone()
            }
        };
        self.adopt(&entry, &row, stamped.at, asked.at)?;
        // Until this is known, others see the entry and read for themselves: this task may be slow
        // here, fail, or be dropped.
        let mut heard = asked.heard;
        if self.heard_since(heard) {
            heard = self.heard.load(Ordering::SeqCst);
            self.reload(&entry).await?;
        }
        entry.trust();
        if self.heard_since(heard) {
            entry.doubt();
        }
        self.plan_ahead(&entry, &entry.snapshot());
        Ok(Some(entry))
    }
}

/// The state of things before something was read: what was heard by then, and our time.
#[derive(Clone, Copy)]
struct Asked {
    heard: u64,
    at: Moment,
}
