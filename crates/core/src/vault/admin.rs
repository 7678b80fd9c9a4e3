//! What people do to a vault: import, authorize, link, change and delete connections; set clients.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{Vault, provider::Whose};
use crate::{
    authorize::Account,
    connector::{
        Connector, GrantType, Revocation, RevocationScope, SettingError, validate_metadata,
        validate_settings,
    },
    id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    oauth::TokenSet,
    refresh::{
        ledger::{FreshGrant, GrantRow, Standing},
        schedule,
    },
    seal::Purpose,
    secret::Secret,
    store::{
        Authorize, Authorized, Change, Conflict, Connection, ConnectionPatch, Deleted, OAuthClient,
        Stamped, StoreError,
    },
    time::StoreTime,
};

/// Tokens that exist already, to be kept from now on.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// The access token.
    pub access_token: Option<Secret>,
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// When the access token was issued, in milliseconds since 1970.
    pub issued_at_ms: Option<i64>,
    /// Its lifetime from then.
    pub expires_in: Option<Duration>,
    /// Granted scopes, if known.
    pub scope: Vec<String>,
    /// Provider metadata, such as `instance_url`.
    pub token_metadata: BTreeMap<String, String>,
    /// Changes to the connection's settings.
    pub settings: Option<Map<String, Value>>,
    /// Changes to the connection's metadata.
    pub metadata: Option<Map<String, Value>>,
}

/// Why an administrative act was refused. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No file describes it.
    #[error("there is no connector `{0}`")]
    UnknownConnector(ConnectorId),
    /// The connector does not serve it.
    #[error(
        "connector `{connector}` does not belong to unified API `{unified_api}`, but to: {known}"
    )]
    WrongUnifiedApi {
        /// The connector.
        connector: ConnectorId,
        /// What was asked for.
        unified_api: String,
        /// What there is.
        known: String,
    },
    /// Nothing to import.
    #[error("neither an access token nor a refresh token was given")]
    NoTokens,
    /// A token that no header can carry.
    #[error("the {0} token holds control or non-ASCII characters, which no HTTP header may carry")]
    BadToken(&'static str),
    /// A setting that the connector does not declare, or not like this; or too much metadata.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An answer that is kept does not open.
    #[error("an answer that is kept of grant {0} cannot be opened: {1}")]
    SealedAnswer(String, String),
    /// There is no such connection.
    #[error("there is no connection {0}")]
    UnknownConnection(String),
    /// There is no such consumer.
    #[error("there is no consumer `{0}`")]
    UnknownConsumer(ConsumerId),
    /// Linking needs one provider.
    #[error(
        "connections {0} and {1} are of different applications or connectors and cannot share a grant"
    )]
    DifferentProviders(String, String),
    /// Somebody else is changing it.
    #[error("the connection is being changed by others; try again")]
    Conflict,
    /// A refresh has replaced this token: the provider would take it for stolen.
    #[error(
        "this refresh token is an old one: it was replaced here on {at}, and {holder} holds a newer \
         one; share that connection's grant, or authorize anew"
    )]
    ReplacedToken {
        /// When.
        at: StoreTime,
        /// The connection that holds a newer one.
        holder: String,
    },
    /// The connector has no such grant.
    #[error("connector `{0}` does not take client credentials")]
    NoClientCredentials(ConnectorId),
    /// Values that no key given opens. All others were sealed anew.
    #[error(
        "{unreadable} values cannot be opened with the keys given ({resealed} others were sealed anew): {first}"
    )]
    Unreadable {
        /// How many were sealed anew.
        resealed: usize,
        /// How many cannot be opened.
        unreadable: usize,
        /// The first few of them.
        first: String,
    },
    /// The store is down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What tokens are that somebody brings.
#[derive(Clone, Copy)]
pub(super) enum Given {
    /// A login of whoever it may be.
    New,
    /// Later ones of the same login.
    Later,
}

impl Vault {
    /// Finds the connector of a key, and checks that it serves the key's unified API.
    ///
    /// # Errors
    ///
    /// [`AdminError::UnknownConnector`], [`AdminError::WrongUnifiedApi`].
    pub fn connector_of(&self, key: &ConnectionKey) -> Result<&Connector, AdminError> {
        let connector = self
            .catalogue()
            .find(key.service.as_str())
            .ok_or_else(|| AdminError::UnknownConnector(key.service.clone()))?;
        if !connector
            .unified_apis
            .iter()
            .any(|api| **api == *key.unified_api)
        {
            return Err(AdminError::WrongUnifiedApi {
                connector: key.service.clone(),
                unified_api: key.unified_api.to_string(),
                known: connector.unified_apis.join(", "),
            });
        }
        Ok(connector)
    }

    /// Settings and metadata come from strangers: every way in leads through here.
    async fn check_patch(
        &self,
        connector: &Connector,
        key: &ConnectionKey,
        patch: &ConnectionPatch,
    ) -> Result<(), AdminError> {
        if let Some(settings) = &patch.settings {
            validate_settings(connector, settings)?;
        }
        if patch.metadata.is_some() {
            // It is merged into what there is, and bounded as a whole.
            let present = self.inner.store.connection(key).await?;
            let now = StoreTime(0);
            let mut merged = present.unwrap_or_else(|| Connection::new(key.clone(), now));
            merged.apply(patch.clone(), now);
            validate_metadata(&merged.metadata)?;
        }
        Ok(())
    }

    /// Takes over existing tokens. On a connection that has some, this is a re-authorization: a
    /// refresh that is under way with the old ones is void. Tokens that another connection of
    /// the application has already are not copied: both connections share that grant.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn import(
        &self,
        key: &ConnectionKey,
        import: Import,
    ) -> Result<Connection, AdminError> {
        let connector = self.connector_of(key)?;
        if import.access_token.is_none() && import.refresh_token.is_none() {
            return Err(AdminError::NoTokens);
        }
        for (name, token) in [
            ("access", &import.access_token),
            ("refresh", &import.refresh_token),
        ] {
            if token
                .as_ref()
                .is_some_and(|token| token.expose().bytes().any(|b| !b.is_ascii_graphic()))
            {
                return Err(AdminError::BadToken(name));
            }
        }
        let patch = ConnectionPatch {
            enabled: None,
            settings: import.settings.clone(),
            metadata: import.metadata.clone(),
        };
        let tokens = TokenSet {
            access_token: import.access_token.clone(),
            refresh_token: import.refresh_token.clone(),
            scope: import.scope.clone(),
            metadata: import.token_metadata.clone(),
            client_credentials: false,
        };
        self.check_patch(connector, key, &patch).await?;
        let keep_alive = connector.idle_lifetime();
        let life = move |now| remaining_life(&import, now);
        let (vault, key) = (self.clone(), key.clone());
        self.to_its_end(async move {
            vault
                .authorize(&key, &tokens, patch, keep_alive, life, Given::New)
                .await
        })
        .await
    }

    /// Makes a connection whose tokens come from the client credentials grant (RFC 6749 section
    /// 4.4). The first token is minted when it is first asked for.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn add_client_credentials(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> Result<Connection, AdminError> {
        let connector = self.connector_of(key)?;
        if !connector
            .token
            .grant_types
            .contains(&GrantType::ClientCredentials)
        {
            return Err(AdminError::NoClientCredentials(key.service.clone()));
        }
        self.check_patch(connector, key, &patch).await?;
        let tokens = TokenSet {
            access_token: None,
            refresh_token: None,
            scope: Vec::new(),
            metadata: BTreeMap::new(),
            client_credentials: true,
        };
        let (vault, key) = (self.clone(), key.clone());
        self.to_its_end(async move {
            let no_life = |_| (Some(Duration::ZERO), None);
            vault
                .authorize(&key, &tokens, patch, None, no_life, Given::New)
                .await
        })
        .await
    }

    pub(super) async fn authorize(
        &self,
        key: &ConnectionKey,
        tokens: &TokenSet,
        patch: ConnectionPatch,
        refresh_lifetime: Option<Duration>,
        life: impl Fn(StoreTime) -> (Option<Duration>, Option<Duration>),
        what: Given,
    ) -> Result<Connection, AdminError> {
        let inner = &self.inner;
        let fingerprint = inner.fingerprint(&key.application, &key.service, tokens);
        for _ in 0..8 {
            let present = inner
                .store
                .connection(key)
                .await?
                .and_then(|connection| connection.grant);
            if let Some(fingerprint) = &fingerprint
                && let Some(twin) = inner
                    .store
                    .grant_by_fingerprint(&key.application, &key.service, fingerprint)
                    .await?
                && present.as_ref() != Some(&twin.id)
            {
                // The same login: it is shared, never copied. A dead one is then authorized anew
                // with what was given, by the next turn of this loop.
                let dead = twin.standing != Standing::Live;
                match inner.store.link(key, &twin.id, patch.clone()).await? {
                    Some(connection) if !dead => {
                        self.apply(&[Change::Connection(key.clone())]).await;
                        return Ok(connection);
                    }
                    _ => continue,
                }
            }
            let grant = present.unwrap_or_else(|| GrantId::new(uuid::Uuid::now_v7().to_string()));
            let stamped = inner.store.grant(&grant).await?;
            let held = stamped.value.as_ref().map(|_| grant.clone());
            let expected = stamped.value.as_ref().map_or(0, |row| row.version);
            let consent = match what {
                Given::Later => stamped.value.and_then(|row| row.consent),
                Given::New => None,
            };
            let (expires_in, lifetime) = life(stamped.at);
            let purpose = Purpose::TokenSet {
                grant: &grant,
                version: expected + 1,
            };
            let fresh = FreshGrant {
                counted_from: Some(stamped.at),
                sealed: inner.keyring().seal(purpose, &tokens.to_plain()),
                expires_in,
                lifetime,
                keep_alive: refresh_lifetime
                    .filter(|_| tokens.refresh_token.is_some())
                    .map(|rest| schedule::keep_alive(rest, inner.chance.fraction())),
                fingerprint,
                consent,
            };
            let request = Authorize {
                connection: key.clone(),
                held,
                grant,
                expected,
                // Whoever imports has seen to it.
                account: Account::Any,
                fresh,
                patch: patch.clone(),
                attempt: None,
            };
            let asked = inner.clock.now();
            let Stamped { value, at } = inner.store.authorize(request).await?;
            match value {
                Authorized::Done(connection, row) => {
                    let entry = inner.grants.pin().get(&row.id).cloned();
                    if let Some(entry) = entry {
                        // One that does not open is withdrawn, and the next who needs it is told why.
                        let _ = inner.adopt(&entry, &row, at, asked);
                    }
                    self.apply(&[Change::Connection(key.clone())]).await;
                    return Ok(*connection);
                }
                Authorized::Conflict(Conflict::Replaced { grant, at }) => {
                    let holder = inner.store.connection_of(&grant).await?;
                    let holder = holder.map_or_else(
                        || "a connection that is being changed".to_owned(),
                        |holder| format!("connection {}", holder.key),
                    );
                    return Err(AdminError::ReplacedToken { at, holder });
                }
                // The next turn finds what is there now.
                Authorized::Conflict(
                    Conflict::Moved | Conflict::Twin(_) | Conflict::OtherAccount(..),
                ) => {}
            }
        }
        Err(AdminError::Conflict)
    }

    /// Lets a connection use another one's grant: one login, several organisations.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn link(
        &self,
        key: &ConnectionKey,
        other: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> Result<Connection, AdminError> {
        let connector = self.connector_of(key)?;
        self.check_patch(connector, key, &patch).await?;
        if key.application != other.application || key.service != other.service {
            return Err(AdminError::DifferentProviders(
                key.to_string(),
                other.to_string(),
            ));
        }
        let grant = self
            .inner
            .store
            .connection(other)
            .await?
            .and_then(|connection| connection.grant)
            .ok_or_else(|| AdminError::UnknownConnection(other.to_string()))?;
        let (vault, key) = (self.clone(), key.clone());
        let linked = self.to_its_end(async move {
            let linked = vault.inner.store.link(&key, &grant, patch).await?;
            vault.apply(&[Change::Connection(key)]).await;
            Ok(linked)
        });
        linked
            .await?
            .ok_or_else(|| AdminError::UnknownConnection(other.to_string()))
    }

    /// Makes or changes a connection without touching its tokens.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn update(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> Result<Connection, AdminError> {
        let connector = self.connector_of(key)?;
        self.check_patch(connector, key, &patch).await?;
        let (vault, key) = (self.clone(), key.clone());
        self.to_its_end(async move {
            let connection = vault.inner.store.save_connection(&key, patch).await?;
            vault.apply(&[Change::Connection(key)]).await;
            Ok(connection)
        })
        .await
    }

    /// Deletes a connection, and its grant if no other connection uses it. The grant is then
    /// revoked at the provider, as far as that can be done, before this returns; a refresh that
    /// is under way is void, and its answer is revoked when it comes.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    ///
    /// # Cancellation
    ///
    /// As with all that changes a connection: dropping the future ends the wait only. Once it was
    /// polled the deletion goes on, and the revocation with it: afterwards nobody has the tokens.
    pub async fn delete(&self, key: &ConnectionKey) -> Result<(), AdminError> {
        let (vault, key) = (self.clone(), key.clone());
        self.to_its_end(async move { vault.delete_and_revoke(&key).await })
            .await
    }

    pub(super) async fn delete_and_revoke(&self, key: &ConnectionKey) -> Result<(), AdminError> {
        let inner = &self.inner;
        let deleted = inner
            .store
            .delete_connection(key)
            .await?
            .ok_or_else(|| AdminError::UnknownConnection(key.to_string()))?;
        self.revoke_removed(key, deleted).await;
        Ok(())
    }

    /// Takes a connection's grant away; the connection stays, with its settings. The grant is revoked at
    /// the provider as with [`delete`](Self::delete).
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    ///
    /// # Cancellation
    ///
    /// As with [`delete`](Self::delete).
    pub async fn disconnect(&self, key: &ConnectionKey) -> Result<Connection, AdminError> {
        let (vault, key) = (self.clone(), key.clone());
        self.to_its_end(async move {
            let unlinked = vault.inner.store.unlink(&key).await?;
            let unlinked =
                unlinked.ok_or_else(|| AdminError::UnknownConnection(key.to_string()))?;
            let connection = unlinked.connection.clone();
            vault.revoke_removed(&key, unlinked).await;
            Ok(connection)
        })
        .await
    }

    async fn revoke_removed(&self, key: &ConnectionKey, deleted: Deleted) {
        let inner = &self.inner;
        self.apply(&[Change::Connection(key.clone())]).await;
        let Some(row) = deleted.grant else { return };
        inner.grants.pin().remove(&row.id);
        let connector = self.catalogue().find(row.connector.as_str()).cloned();
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let opened = inner.unseal(purpose, &row.sealed);
        let tokens = opened.ok().and_then(|plain| TokenSet::from_plain(&plain));
        match (connector, tokens) {
            (Some(connector), Some(tokens)) => {
                let whose = Whose {
                    grant: Some(&row.id),
                    application: &row.application,
                    connector: &connector,
                    settings: Some(&deleted.connection.settings),
                };
                if self.ends_others(&row, &connector).await {
                    tracing::info!(grant = %row.id, "a removed grant is not revoked at the provider: others of the same user would end with it");
                } else {
                    inner.revoke_void(whose, &tokens, false).await;
                }
            }
            _ => {
                tracing::warn!(grant = %row.id, "a deleted grant is not revoked at the provider: its tokens or its connector cannot be read");
            }
        }
    }

    /// Whether revoking a grant may end others: where a provider revokes by user, those of the same user
    /// at the same client, and those of whom nobody knows whose they are.
    async fn ends_others(&self, row: &GrantRow, connector: &Connector) -> bool {
        let by_user = |it: &Revocation| it.scope == RevocationScope::User;
        if !connector.revocation.as_ref().is_some_and(by_user) {
            return false;
        }
        let subject = |row: &GrantRow| {
            let consent = row.consent.as_ref()?;
            consent.identity.subject.clone()
        };
        let ours = subject(row);
        let store = &self.inner.store;
        let Ok(connections) = store.connections(&row.application, None).await else {
            return true;
        };
        let others = connections
            .into_iter()
            .filter(|it| it.key.service == row.connector)
            .filter_map(|it| it.grant.filter(|grant| *grant != row.id));
        let others: Vec<GrantId> = others.collect();
        for page in others.chunks(500) {
            let Ok(rows) = store.grants(page).await else {
                return true;
            };
            let alive = rows.value.iter().filter(|it| it.standing == Standing::Live);
            if alive
                .map(subject)
                .any(|it| it.is_none() || ours.is_none() || it == ours)
            {
                return true;
            }
        }
        false
    }

    /// Does something to its end, whether or not the caller waits for it.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        act: impl Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<T, AdminError> {
        let (done, outcome) = oneshot::channel();
        self.inner.tracker.spawn(async move {
            // Nobody may be waiting any more.
            let _ = done.send(act.await);
        });
        let ended = || StoreError::Away("the task that saw to it ended unexpectedly".to_owned());
        outcome.await.map_err(|_| ended())?
    }

    /// Makes or replaces an application's OAuth client.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn set_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        client_id: &str,
        secret: Option<&Secret>,
        settings: BTreeMap<String, String>,
        scopes: Vec<String>,
    ) -> Result<(), AdminError> {
        if self.catalogue().find(connector.as_str()).is_none() {
            return Err(AdminError::UnknownConnector(connector.clone()));
        }
        let purpose = Purpose::ClientSecret {
            application: application.as_str(),
            connector: connector.as_str(),
        };
        let client = OAuthClient {
            application: application.clone(),
            connector: connector.clone(),
            client_id: client_id.to_owned(),
            sealed_secret: secret.map(|secret| {
                self.inner
                    .keyring()
                    .seal(purpose, secret.expose().as_bytes())
            }),
            settings,
            scopes,
        };
        let vault = self.clone();
        self.to_its_end(async move {
            let change = Change::Client(client.application.clone(), client.connector.clone());
            vault.inner.store.put_client(client).await?;
            vault.apply(&[change]).await;
            Ok(())
        })
        .await
    }
}

/// How much life an imported access token has left, and its whole lifetime.
///
/// Without `issued_at` or `expires_in` it counts as expired (Apideck: "queued for refresh"),
/// unless there is no refresh token: then it is used until the API rejects it.
fn remaining_life(import: &Import, now: StoreTime) -> (Option<Duration>, Option<Duration>) {
    if import.access_token.is_none() {
        return (Some(Duration::ZERO), import.expires_in);
    }
    match (import.issued_at_ms, import.expires_in) {
        (Some(issued), Some(lifetime)) => {
            // A clock that is ahead of ours must not make the token live longer than it does.
            let issued = StoreTime(issued).min(now);
            (Some(now.until(issued + lifetime)), Some(lifetime))
        }
        (_, lifetime) if import.refresh_token.is_some() => (Some(Duration::ZERO), lifetime),
        _ => (None, None),
    }
}
