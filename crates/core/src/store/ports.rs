//! The ports: what the vault and the server ask of a store, by audience.
//!
//! [`Store`] is all of them. [`Attempts`], [`Tenants`], [`Consumers`], [`Moving`] and [`Lines`] have defaults,
//! so that a store for one application alone, which nobody moves and whose grants are imported, has
//! nothing to write for them.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{
    ApiKey, Application, ApplicationSettings, Authorize, Authorized, Changes, Connection,
    ConnectionPatch, Consumer, ConsumerDeletion, ConsumerFilter, Deleted, Freeze, NewApiKey,
    OAuthClient, Record, ReplacedToken, Stamped, StoreError, StoreResult, UnreadAnswer, Whole,
};
use crate::{
    authorize::AttemptRow,
    id::{ApplicationId, AttemptId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest,
    },
    time::StoreTime,
};

/// The vault's store: all ports.
pub trait Store:
    Ledger
    + UnreadAnswers
    + Connections
    + Attempts
    + Clients
    + Tenants
    + Consumers
    + Values
    + Feed
    + Moving
    + Lines
{
}

impl<T> Store for T where
    T: Ledger
        + UnreadAnswers
        + Connections
        + Attempts
        + Clients
        + Tenants
        + Consumers
        + Values
        + Feed
        + Moving
        + Lines
        + ?Sized
{
}

/// Grants: the protocol's verbs.
#[async_trait]
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Reads a grant.
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>>;
    /// Reads those of the grants that exist, in any order, at once.
    async fn grants(&self, ids: &[GrantId]) -> StoreResult<Stamped<Vec<GrantRow>>>;
    /// [`GrantRow::claim`].
    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>>;
    /// [`GrantRow::extend`]; `false` also when the grant is gone.
    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool>;
    /// [`GrantRow::commit`]. Durable when it returns. What it replaces is kept as a
    /// [`ReplacedToken`].
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
}

/// Answers of token endpoints that could not be read, beside the grants that they are for. They go
/// with their grant.
#[async_trait]
pub trait UnreadAnswers: Send + Sync + fmt::Debug {
    /// Keeps an answer, durably, in the place of one of the same epoch, and drops what is then too
    /// much ([`UnreadAnswer::surplus`]); `false` if there is no such grant.
    async fn keep_unread(&self, answer: UnreadAnswer) -> StoreResult<bool>;
    /// A grant's answers, oldest epoch first.
    async fn unread(&self, grant: &GrantId) -> StoreResult<Vec<UnreadAnswer>>;
    /// Everybody's answers by grant and epoch, after `after`, at most `limit`.
    async fn unread_after(
        &self,
        after: Option<(&GrantId, u64)>,
        limit: usize,
    ) -> StoreResult<Vec<UnreadAnswer>>;
    /// Replaces the seal of an answer, if it is still the one that was read.
    async fn reseal_unread(&self, read: &UnreadAnswer, sealed: Vec<u8>) -> StoreResult<bool>;
    /// Drops an answer; `false` if there was none.
    async fn remove_unread(&self, grant: &GrantId, epoch: u64) -> StoreResult<bool>;
}

/// Connections, and what touches a connection and its grant together.
#[async_trait]
pub trait Connections: Ledger + Clients {
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
    /// Everybody's connections in the order of their keys, after `after`, at most `limit`.
    async fn connections_after(
        &self,
        after: Option<&ConnectionKey>,
        limit: usize,
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
    /// Makes or re-authorizes a connection and its grant, as [`Authorize::decide`] says.
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
    /// Takes a connection's grant away; the connection stays. The grant goes if no other connection
    /// uses it.
    async fn unlink(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>>;
    /// Deletes a connection, and its grant if no other connection uses it.
    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>>;
}

/// Authorization attempts. By default: none are kept, and none can be begun.
#[async_trait]
pub trait Attempts: Send + Sync + fmt::Debug {
    /// Keeps a new attempt, stamped by [`AttemptRow::begin`]. What is then too much at its connection
    /// goes ([`AttemptRow::surplus`]); `None` if that is not enough.
    async fn begin_attempt(&self, _row: AttemptRow) -> StoreResult<Option<Stamped<AttemptRow>>> {
        Err(not_kept("authorization attempts"))
    }
    /// Reads an attempt.
    async fn attempt(&self, _id: &AttemptId) -> StoreResult<Stamped<Option<AttemptRow>>> {
        Err(not_kept("authorization attempts"))
    }
    /// The attempts at a connection, in any order.
    async fn attempts_at(&self, _key: &ConnectionKey) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        Err(not_kept("authorization attempts"))
    }
    /// Writes a row in the place of the one of its revision; `false` if that has moved. Of several who
    /// have read the same row one succeeds. Durable when it returns.
    async fn replace_attempt(&self, _row: AttemptRow) -> StoreResult<bool> {
        Err(not_kept("authorization attempts"))
    }
    /// Forgets an attempt of this revision; `false` if that has moved.
    async fn remove_attempt(&self, _id: &AttemptId, _revision: u64) -> StoreResult<bool> {
        Err(not_kept("authorization attempts"))
    }
    /// Attempts whose time has come ([`AttemptRow::due_at`]), the longest due first, at most `limit`.
    async fn attempts_due(&self, _limit: usize) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        Ok(Stamped {
            value: Vec::new(),
            at: StoreTime::default(),
        })
    }
    /// Everybody's attempts by id, after `after`, at most `limit`.
    async fn attempts_after(
        &self,
        _after: Option<&AttemptId>,
        _limit: usize,
    ) -> StoreResult<Vec<AttemptRow>> {
        Ok(Vec::new())
    }
}

/// Applications' registrations at providers.
#[async_trait]
pub trait Clients: Send + Sync + fmt::Debug {
    /// Makes or replaces an OAuth client.
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()>;
    /// Replaces the seal of a client's secret with another seal of the same, if the secret is
    /// still the one that was read.
    async fn reseal_client(&self, read: &OAuthClient, sealed: Vec<u8>) -> StoreResult<bool>;
    /// Reads an OAuth client.
    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>>;
    /// An application's clients.
    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>>;
    /// Everybody's clients by application and connector, after `after`, at most `limit`.
    async fn clients_after(
        &self,
        after: Option<(&ApplicationId, &ConnectorId)>,
        limit: usize,
    ) -> StoreResult<Vec<OAuthClient>>;
    /// Deletes a client; `false` if there was none.
    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool>;
}

/// Applications and their API keys. By default: there are none, and none can be made.
#[async_trait]
pub trait Tenants: Send + Sync + fmt::Debug {
    /// Makes an application.
    async fn add_application(&self, _id: &ApplicationId, _name: &str) -> StoreResult<Application> {
        Err(not_kept("applications"))
    }
    /// All applications, oldest first.
    async fn applications(&self) -> StoreResult<Vec<Application>> {
        Ok(Vec::new())
    }
    /// An application.
    async fn application(&self, _id: &ApplicationId) -> StoreResult<Option<Application>> {
        Ok(None)
    }
    /// Replaces an application's settings if they are still those that were read; `false` if not, or if
    /// there is no such application.
    async fn replace_settings(
        &self,
        _id: &ApplicationId,
        _read: &ApplicationSettings,
        _settings: ApplicationSettings,
    ) -> StoreResult<bool> {
        Ok(false)
    }
    /// Deletes an application with its keys, clients and consumers; `Ok(false)` if there was none, an error
    /// if it still has connections.
    async fn delete_application(&self, _id: &ApplicationId) -> StoreResult<bool> {
        Ok(false)
    }
    /// Makes a key.
    async fn add_key(&self, _key: NewApiKey) -> StoreResult<ApiKey> {
        Err(not_kept("API keys"))
    }
    /// Finds a key. Anybody can make somebody ask: whoever else waits for the store is served
    /// first.
    async fn key_by_digest(&self, _digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        Ok(None)
    }
    /// As [`key_by_digest`](Self::key_by_digest), of a key that was found before: it is served with
    /// all that is known.
    async fn known_key(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        self.key_by_digest(digest).await
    }
    /// How many statements the store has answered, whoever asked: one that answers others is slow,
    /// and not away. By default: it does not say.
    fn answered(&self) -> u64 {
        0
    }
    /// Notes that keys were shown, those that exist, as of now. A key of which that was said within
    /// [`USE_NOTED_FOR`](super::USE_NOTED_FOR) may be passed over, and so may one that another
    /// process is writing: this is for people, and waits for nobody. Nobody is told.
    async fn keys_used(&self, _digests: &[[u8; 32]]) -> StoreResult<()> {
        Ok(())
    }
    /// An application's keys.
    async fn keys(&self, _application: &ApplicationId) -> StoreResult<Vec<ApiKey>> {
        Ok(Vec::new())
    }
    /// Deletes a key; `false` if there was none.
    async fn delete_key(&self, _application: &ApplicationId, _id: &str) -> StoreResult<bool> {
        Ok(false)
    }
}

/// Applications' customers. What makes a connection makes its consumer too, in the same statement. By
/// default: nobody keeps them.
#[async_trait]
pub trait Consumers: Send + Sync + fmt::Debug {
    /// Makes a consumer, or merges metadata into what is there; `None` leaves that as it is.
    async fn save_consumer(
        &self,
        _application: &ApplicationId,
        _id: &ConsumerId,
        _metadata: Option<Map<String, Value>>,
    ) -> StoreResult<Consumer> {
        Err(not_kept("consumers"))
    }
    /// Reads a consumer.
    async fn consumer(
        &self,
        _application: &ApplicationId,
        _id: &ConsumerId,
    ) -> StoreResult<Option<Consumer>> {
        Ok(None)
    }
    /// An application's consumers by id, after `after`, at most `limit`.
    async fn consumers(
        &self,
        _application: &ApplicationId,
        _filter: &ConsumerFilter,
        _after: Option<&ConsumerId>,
        _limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        Ok(Vec::new())
    }
    /// Which services these consumers of an application have connections to, in the order of consumers and
    /// services.
    async fn consumer_services(
        &self,
        _application: &ApplicationId,
        _consumers: &[ConsumerId],
    ) -> StoreResult<Vec<(ConsumerId, ConnectorId)>> {
        Ok(Vec::new())
    }
    /// Everybody's consumers by application and id, after `after`, at most `limit`.
    async fn consumers_after(
        &self,
        _after: Option<(&ApplicationId, &ConsumerId)>,
        _limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        Ok(Vec::new())
    }
    /// Deletes a consumer that has no connection.
    async fn delete_consumer(
        &self,
        _application: &ApplicationId,
        _id: &ConsumerId,
    ) -> StoreResult<ConsumerDeletion> {
        Ok(ConsumerDeletion::Missing)
    }
}

/// The vault's own values.
#[async_trait]
pub trait Values: Send + Sync + fmt::Debug {
    /// The value, if there is one.
    async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>>;
    /// The value; the given one if there is none yet.
    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>>;
    /// Replaces a value.
    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()>;
    /// Replaces a value if it is still the one that was read.
    async fn replace_value(&self, name: &str, read: &[u8], value: Vec<u8>) -> StoreResult<bool>;
}

/// What other processes have changed.
#[async_trait]
pub trait Feed: Send + Sync + fmt::Debug {
    /// What has changed since a position; `None` asks for the present position only.
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes>;
    /// Returns when there may be something new in [`changes`](Self::changes): a hint for those who
    /// poll it, which may come in vain or not at all. A store that hears nothing never returns.
    async fn news(&self) {
        std::future::pending::<()>().await;
    }
}

/// Moving a vault to another store. By default: it cannot be moved.
#[async_trait]
pub trait Moving: Send + Sync + fmt::Debug {
    /// Refuses writes of every process, or takes them again. Reads are served. What is being
    /// written is waited for.
    async fn freeze(&self, _what: Freeze) -> StoreResult<()> {
        Err(not_kept("moves"))
    }
    /// What is refused at present.
    async fn frozen(&self) -> StoreResult<Freeze> {
        Ok(Freeze::Nothing)
    }
    /// How many claims are in force.
    async fn claims_in_force(&self) -> StoreResult<u64> {
        Err(not_kept("moves"))
    }
    /// Replaced tokens by grant and slot, after `after`, at most `limit`.
    async fn replaced_after(
        &self,
        _after: Option<(&GrantId, u8)>,
        _limit: usize,
    ) -> StoreResult<Vec<ReplacedToken>> {
        Err(not_kept("moves"))
    }
    /// Writes rows as they stand, over those of the same name. Durable when it returns; if it
    /// fails, none of them is there.
    async fn restore(&self, _records: Vec<Record>) -> StoreResult<()> {
        Err(not_kept("moves"))
    }
}

/// What can be seen of those who wait for the store. By default: nothing.
pub trait Lines: Send + Sync + fmt::Debug {
    /// The lines, each with what it has seen since the store was opened.
    fn lines(&self) -> Vec<Waiting> {
        Vec::new()
    }
}

/// A line before the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who stands in it: `ledger`, `lookup`, `api_key`.
    pub line: &'static str,
    /// How many do at present.
    pub waiting: u64,
    /// How many verbs were let through.
    pub served: u64,
    /// How many were told that the store is busy.
    pub refused: u64,
    /// How long they have waited, all together.
    pub waited: Duration,
}

fn not_kept(what: &str) -> StoreError {
    StoreError::Refused(format!("this store knows no {what}"))
}
