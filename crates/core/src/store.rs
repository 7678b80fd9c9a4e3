//! The port to the vault's store: one verb, one statement.
//!
//! The protocol's verbs are those of [`crate::refresh::ledger`]; each is atomic, short, and
//! durable when it returns. No verb is held open across a call to a provider. A dropped future
//! never leaves a transaction open; whether its statement took effect is then unknown, which the
//! verbs tolerate (a repeated claim or commit is recognised).

mod memory;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};

pub use memory::MemoryStore;

use crate::{
    id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, FreshGrant, GrantRow, SettleReply,
        SettleRequest,
    },
    time::StoreTime,
};

/// The store did not answer, or answered with an error of its own. Never means "held" or
/// "not found".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A verb's result.
pub type StoreResult<T> = Result<T, StoreError>;

/// A reply with the store's time at which it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The reply.
    pub value: T,
    /// When, on the store's clock.
    pub at: StoreTime,
}

/// A tenant of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Its name for people.
    pub name: String,
    /// When it was made.
    pub created_at: StoreTime,
}

/// An API key, as it is kept: its digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is not secret.
    pub id: String,
    /// Whose it is.
    pub application: ApplicationId,
    /// SHA-256 of the key. The key has 256 random bits, so that nothing slower is needed.
    pub digest: [u8; 32],
    /// Its first characters, by which people tell keys apart.
    pub hint: String,
    /// When it was made.
    pub created_at: StoreTime,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

/// An application's registration at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthClient {
    /// Whose it is.
    pub application: ApplicationId,
    /// At which provider.
    pub connector: ConnectorId,
    /// The public identifier.
    pub client_id: String,
    /// The sealed secret; `None` for a public client.
    pub sealed_secret: Option<Vec<u8>>,
    /// Values for `{client.NAME}` in the connector's templates.
    pub settings: BTreeMap<String, String>,
    /// Scopes beside the connector's own.
    pub scopes: Vec<String>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Which.
    pub key: ConnectionKey,
    /// The grant that it uses; several connections may use one.
    pub grant: Option<GrantId>,
    /// Switched off by the consumer.
    pub enabled: bool,
    /// Values for `{settings.NAME}`.
    pub settings: Map<String, Value>,
    /// The application's own.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: StoreTime,
    /// When it was last changed by a person; not by refreshes.
    pub updated_at: StoreTime,
}

/// A connection with what its use takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The connection.
    pub connection: Connection,
    /// The OAuth client of its application and connector.
    pub client: Option<OAuthClient>,
    /// Its grant's row, if it has a grant.
    pub grant: Option<Stamped<Option<GrantRow>>>,
}

/// A change to a connection's own values. `None` leaves a value as it is; maps are merged at
/// their first level, and a `null` in them removes the entry.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPatch {
    /// Switch on or off.
    pub enabled: Option<bool>,
    /// Merged into the settings.
    pub settings: Option<Map<String, Value>>,
    /// Merged into the metadata.
    pub metadata: Option<Map<String, Value>>,
}

impl Connection {
    /// A connection that nobody has touched yet.
    pub fn new(key: ConnectionKey, now: StoreTime) -> Self {
        Self {
            key,
            grant: None,
            enabled: true,
            settings: Map::new(),
            metadata: Map::new(),
            created_at: now,
            updated_at: now,
        }
    }

    /// Applies a patch.
    pub fn apply(&mut self, patch: ConnectionPatch, now: StoreTime) {
        fn merge(into: &mut Map<String, Value>, from: Option<Map<String, Value>>) {
            for (key, value) in from.into_iter().flatten() {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    into.insert(key, value);
                }
            }
        }
        self.enabled = patch.enabled.unwrap_or(self.enabled);
        merge(&mut self.settings, patch.settings);
        merge(&mut self.metadata, patch.metadata);
        self.updated_at = now;
    }
}

/// A new authorization (or import) for a connection, in one statement.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The connection; made if it does not exist.
    pub connection: ConnectionKey,
    /// Its grant: a new id, or the one that it has.
    pub grant: GrantId,
    /// The grant's version that was read; 0 for a new grant.
    pub expected: u64,
    /// The token set, sealed for the version after `expected`.
    pub fresh: FreshGrant,
    /// Changes to the connection's own values.
    pub patch: ConnectionPatch,
}

/// What became of an authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorized {
    /// Done.
    Done(Box<Connection>, Box<GrantRow>),
    /// The grant's version has moved, the connection has another grant, or another grant has the
    /// same refresh token: read again.
    Conflict,
}

/// What a deletion removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The connection.
    pub connection: Connection,
    /// Its grant, if no other connection used it: it is gone too.
    pub grant: Option<GrantRow>,
}

/// Something that other processes may hold a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A grant's row: a new version, which is named, or the death of that version. A copy of it, or
    /// of a later one, need not be read again.
    Grant(GrantId, u64),
    /// A connection.
    Connection(ConnectionKey),
    /// An application or its keys.
    Application(ApplicationId),
    /// An OAuth client.
    Client(ApplicationId, ConnectorId),
}

/// Changes since a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where to go on.
    pub next: u64,
    /// What changed, oldest first.
    pub changes: Vec<Change>,
    /// Older changes are gone: every copy must be read anew.
    pub gap: bool,
}

/// A row, as a move from one store to another carries it: with all that it holds, and sealed as
/// it is.
#[derive(Clone, Debug)]
pub enum Record {
    /// A value of the vault's own.
    Value(String, Vec<u8>),
    /// A tenant.
    Application(Application),
    /// A key.
    Key(ApiKey),
    /// An OAuth client.
    Client(OAuthClient),
    /// A grant.
    Grant(Box<GrantRow>),
    /// A connection.
    Connection(Box<Connection>),
}

/// What a store that is being moved refuses, to all processes, until it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// New claims: no refresh begins, those under way are saved.
    Claims,
    /// Every write.
    Writes,
    /// Nothing.
    Nothing,
}

/// The vault's store.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Reads a grant.
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>>;
    /// [`GrantRow::claim`].
    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>>;
    /// [`GrantRow::extend`]; `false` also when the grant is gone.
    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool>;
    /// [`GrantRow::commit`]. Durable when it returns.
    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>>;
    /// [`GrantRow::settle`].
    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>>;
    /// Live grants whose refresh token wants keeping alive, at most `limit`, most urgent first.
    async fn keep_alive_due(&self, limit: usize) -> StoreResult<Vec<GrantRow>>;
    /// Replaces the seal of a version with another seal of the same; `false` if it has moved.
    async fn reseal(&self, grant: &GrantId, version: u64, sealed: Vec<u8>) -> StoreResult<bool>;
    /// Grants by id, after `after`, at most `limit`.
    async fn grants_after(
        &self,
        after: Option<&GrantId>,
        limit: usize,
    ) -> StoreResult<Vec<GrantRow>>;

    /// Reads a connection.
    async fn connection(&self, key: &ConnectionKey) -> StoreResult<Option<Connection>>;
    /// Reads a connection, its client and its grant: at once, where that costs less.
    async fn whole(&self, key: &ConnectionKey) -> StoreResult<Option<Whole>> {
        let Some(connection) = self.connection(key).await? else {
            return Ok(None);
        };
        let client = self.client(&key.application, &key.service).await?;
        let grant = match &connection.grant {
            Some(grant) => Some(self.grant(grant).await?),
            None => None,
        };
        Ok(Some(Whole {
            connection,
            client,
            grant,
        }))
    }
    /// An application's connections, of one consumer or of all, in the order of their keys.
    async fn connections(
        &self,
        application: &ApplicationId,
        consumer: Option<&ConsumerId>,
    ) -> StoreResult<Vec<Connection>>;
    /// Some connection that uses a grant; which one does not matter.
    async fn connection_of(&self, grant: &GrantId) -> StoreResult<Option<Connection>>;
    /// The grant of an application and connector with this refresh token.
    async fn grant_by_fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: &[u8; 32],
    ) -> StoreResult<Option<GrantRow>>;
    /// Makes or re-authorizes a connection and its grant.
    async fn authorize(&self, request: Authorize) -> StoreResult<Stamped<Authorized>>;
    /// Makes or changes a connection without touching its grant's tokens.
    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection>;
    /// Makes a connection use another one's grant, or a connection that does; `None` if there is
    /// no such grant. The grant that it used before goes with its last connection.
    async fn link(
        &self,
        key: &ConnectionKey,
        grant: &GrantId,
        patch: ConnectionPatch,
    ) -> StoreResult<Option<Connection>>;
    /// Deletes a connection, and its grant if no other connection uses it.
    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>>;

    /// Makes or replaces an OAuth client.
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()>;
    /// Reads an OAuth client.
    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>>;
    /// An application's clients.
    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>>;
    /// Deletes a client; `false` if there was none.
    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool>;

    /// Makes an application.
    async fn add_application(&self, id: &ApplicationId, name: &str) -> StoreResult<Application>;
    /// All applications, oldest first.
    async fn applications(&self) -> StoreResult<Vec<Application>>;
    /// Deletes an application with its keys and clients; `Ok(false)` if there was none, an error
    /// if it still has connections.
    async fn delete_application(&self, id: &ApplicationId) -> StoreResult<bool>;
    /// Makes a key; `created_at` is set by the store.
    async fn add_key(&self, key: ApiKey) -> StoreResult<()>;
    /// Finds a key.
    async fn key_by_digest(&self, digest: &[u8; 32]) -> StoreResult<Option<ApiKey>>;
    /// An application's keys.
    async fn keys(&self, application: &ApplicationId) -> StoreResult<Vec<ApiKey>>;
    /// Deletes a key; `false` if there was none.
    async fn delete_key(&self, application: &ApplicationId, id: &str) -> StoreResult<bool>;

    /// The vault's own value; the given one if there is none yet.
    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>>;
    /// Replaces a value of the vault's own.
    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()>;
    /// What has changed since a position; `None` asks for the present position only.
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes>;
    /// Returns when there may be something new in [`changes`](Self::changes): a hint for those who
    /// poll it, which may come in vain or not at all. A store that hears nothing never returns.
    async fn news(&self) {
        std::future::pending::<()>().await;
    }
}
