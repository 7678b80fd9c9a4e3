//! The port: each verb, tried as often as it makes sense.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokenward::{
    id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest,
    },
    store::{
        ApiKey, Application, ApplicationSettings, Authorize, Authorized, Changes, Clients,
        Connection, ConnectionPatch, Connections, Consumer, ConsumerDeletion, ConsumerFilter,
        Consumers, Deleted, Feed, Ledger, Lines, NewApiKey, OAuthClient, Stamped, StoreResult,
        Tenants, UnreadAnswer, UnreadAnswers, Values, Waiting, Whole,
    },
    time::StoreTime,
};

use crate::{
    PostgresStore, changes, connections, consumers,
    grants::{self, find},
    tenants,
    transaction::{Changing, change, change_by},
    unread,
};

/// Verbs that may be done twice without a difference that matters: reads, and what the ledger
/// recognises as done.
const REPEATABLE: bool = true;
/// Verbs of people, which are told that nobody knows.
const ONCE: bool = false;

/// A transaction of `$verb`, tried again while nothing of it was done.
macro_rules! changing {
    ($self:ident, |$changing:ident, $($held:ident),+| $verb:expr) => {
        $self.pool.patiently(ONCE, || {
            $(let $held = $held.clone();)+
            change($self, Box::new(move |$changing: &Changing<'_>| Box::pin(async move { $verb })))
        })
    };
}

#[async_trait]
impl Ledger for PostgresStore {
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>> {
        let Stamped { value, at } = self
            .ledger
            .patiently(REPEATABLE, || find(&self.ledger, id))
            .await?;
        Ok(Stamped {
            value: value.map(|read| read.row),
            at,
        })
    }

    async fn grants(&self, ids: &[GrantId]) -> StoreResult<Stamped<Vec<GrantRow>>> {
        self.ledger
            .patiently(REPEATABLE, || grants::those(&self.ledger, ids))
            .await
    }

    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        self.ledger
            .patiently(REPEATABLE, || grants::claim(self, &request))
            .await
    }

    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool> {
        self.ledger
            .patiently(REPEATABLE, || grants::extend(self, grant, epoch, ttl))
            .await
    }

    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        self.ledger
            .patiently(REPEATABLE, || grants::commit(self, &request))
            .await
    }

    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
        self.ledger
            .patiently(REPEATABLE, || grants::settle(self, &request))
            .await
    }

    async fn keep_alive_due(&self, limit: usize) -> StoreResult<Vec<GrantRow>> {
        self.pool
            .patiently(REPEATABLE, || grants::keep_alive_due(&self.pool, limit))
            .await
    }

    async fn reseal(&self, grant: &GrantId, version: u64, sealed: Vec<u8>) -> StoreResult<bool> {
        self.pool
            .patiently(REPEATABLE, || {
                grants::reseal(&self.pool, grant, version, &sealed)
            })
            .await
    }

    async fn grants_after(
        &self,
        after: Option<&GrantId>,
        limit: usize,
    ) -> StoreResult<Vec<GrantRow>> {
        self.pool
            .patiently(REPEATABLE, || grants::after(&self.pool, after, limit))
            .await
    }
}

#[async_trait]
impl Connections for PostgresStore {
    async fn connection(&self, key: &ConnectionKey) -> StoreResult<Option<Connection>> {
        self.pool
            .patiently(REPEATABLE, || connections::find(&self.pool, key))
            .await
    }

    async fn whole(&self, key: &ConnectionKey) -> StoreResult<Option<Whole>> {
        let pool = &self.pool;
        let connection = pool.patiently(REPEATABLE, || connections::find(pool, key));
        let Some(connection) = connection.await? else {
            return Ok(None);
        };
        let grant = match &connection.grant {
            // Not among the ledger's verbs, which go first.
            Some(id) => {
                let Stamped { value, at } = pool.patiently(REPEATABLE, || find(pool, id)).await?;
                let value = value.map(|read| read.row);
                Some(Stamped { value, at })
            }
            None => None,
        };
        Ok(Some(Whole {
            client: self.client(&key.application, &key.service).await?,
            grant,
            connection,
        }))
    }

    async fn connections(
        &self,
        application: &ApplicationId,
        consumer: Option<&ConsumerId>,
    ) -> StoreResult<Vec<Connection>> {
        self.pool
            .patiently(REPEATABLE, || {
                connections::of_application(&self.pool, application, consumer)
            })
            .await
    }

    async fn connections_after(
        &self,
        after: Option<&ConnectionKey>,
        limit: usize,
    ) -> StoreResult<Vec<Connection>> {
        self.pool
            .patiently(REPEATABLE, || connections::after(&self.pool, after, limit))
            .await
    }

    async fn connection_of(&self, grant: &GrantId) -> StoreResult<Option<Connection>> {
        self.pool
            .patiently(REPEATABLE, || connections::of_grant(&self.pool, grant))
            .await
    }

    async fn grant_by_fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: &[u8; 32],
    ) -> StoreResult<Option<GrantRow>> {
        self.pool
            .patiently(REPEATABLE, || {
                grants::by_fingerprint(&self.pool, application, connector, fingerprint)
            })
            .await
    }

    async fn authorize(&self, request: Authorize) -> StoreResult<Stamped<Authorized>> {
        changing!(self, |changing, request| connections::authorize(
            changing, request
        )
        .await)
        .await
    }

    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection> {
        changing!(self, |changing, key, patch| connections::patch(
            changing, key, patch
        )
        .await)
        .await
    }

    async fn link(
        &self,
        key: &ConnectionKey,
        grant: &GrantId,
        patch: ConnectionPatch,
    ) -> StoreResult<Option<Connection>> {
        changing!(self, |changing, key, grant, patch| connections::link(
            changing, key, grant, patch
        )
        .await)
        .await
    }

    async fn unlink(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        changing!(self, |changing, key| connections::unlink(changing, &key)
            .await)
        .await
    }

    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        changing!(self, |changing, key| connections::delete(changing, &key)
            .await)
        .await
    }
}

#[async_trait]
impl Clients for PostgresStore {
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()> {
        self.pool
            .patiently(REPEATABLE, || tenants::put_client(&self.pool, &client))
            .await?;
        self.hints.say();
        Ok(())
    }

    async fn reseal_client(&self, read: &OAuthClient, sealed: Vec<u8>) -> StoreResult<bool> {
        self.pool
            .patiently(REPEATABLE, || {
                tenants::reseal_client(&self.pool, read, &sealed)
            })
            .await
    }

    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>> {
        self.pool
            .patiently(REPEATABLE, || {
                tenants::client(&self.pool, application, connector)
            })
            .await
    }

    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>> {
        self.pool
            .patiently(REPEATABLE, || tenants::clients(&self.pool, application))
            .await
    }

    async fn clients_after(
        &self,
        after: Option<(&ApplicationId, &ConnectorId)>,
        limit: usize,
    ) -> StoreResult<Vec<OAuthClient>> {
        self.pool
            .patiently(REPEATABLE, || {
                tenants::clients_after(&self.pool, after, limit)
            })
            .await
    }

    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool> {
        let deleted = self
            .pool
            .patiently(ONCE, || {
                tenants::delete_client(&self.pool, application, connector)
            })
            .await?;
        self.hints.say();
        Ok(deleted)
    }
}

#[async_trait]
impl Tenants for PostgresStore {
    async fn add_application(&self, id: &ApplicationId, name: &str) -> StoreResult<Application> {
        self.pool
            .patiently(ONCE, || tenants::add_application(&self.pool, id, name))
            .await
    }

    async fn applications(&self) -> StoreResult<Vec<Application>> {
        self.pool
            .patiently(REPEATABLE, || tenants::applications(&self.pool))
            .await
    }

    async fn application(&self, id: &ApplicationId) -> StoreResult<Option<Application>> {
        self.pool
            .patiently(REPEATABLE, || tenants::application(&self.pool, id))
            .await
    }

    async fn replace_settings(
        &self,
        id: &ApplicationId,
        read: &ApplicationSettings,
        settings: ApplicationSettings,
    ) -> StoreResult<bool> {
        changing!(self, |changing, id, read, settings| {
            tenants::replace_settings(changing, &id, &read, &settings).await
        })
        .await
    }

    async fn delete_application(&self, id: &ApplicationId) -> StoreResult<bool> {
        changing!(self, |changing, id| tenants::delete_application(
            changing, &id
        )
        .await)
        .await
    }

    async fn add_key(&self, key: NewApiKey) -> StoreResult<ApiKey> {
        let added = self
            .pool
            .patiently(ONCE, || tenants::add_key(&self.pool, &key))
            .await?;
        self.hints.say();
        Ok(added)
    }

    async fn key_by_digest(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        self.strangers
            .patiently(REPEATABLE, || {
                tenants::key_by_digest(&self.strangers, digest)
            })
            .await
    }

    async fn known_key(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        self.pool
            .patiently(REPEATABLE, || tenants::key_by_digest(&self.pool, digest))
            .await
    }

    fn answered(&self) -> u64 {
        self.pool.answered()
    }

    async fn keys_used(&self, digests: &[[u8; 32]]) -> StoreResult<()> {
        self.strangers
            .patiently(ONCE, || tenants::keys_used(&self.strangers, digests))
            .await
    }

    async fn keys(&self, application: &ApplicationId) -> StoreResult<Vec<ApiKey>> {
        self.pool
            .patiently(REPEATABLE, || tenants::keys(&self.pool, application))
            .await
    }

    async fn delete_key(&self, application: &ApplicationId, id: &str) -> StoreResult<bool> {
        let deleted = self
            .pool
            .patiently(ONCE, || tenants::delete_key(&self.pool, application, id))
            .await?;
        self.hints.say();
        Ok(deleted)
    }
}

#[async_trait]
impl Consumers for PostgresStore {
    async fn save_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
        metadata: Option<Map<String, Value>>,
    ) -> StoreResult<Consumer> {
        // Most are there already, as they are meant to be.
        if let Some(mut present) = self.consumer(application, id).await?
            && !present.merge(metadata.clone().unwrap_or_default(), StoreTime(0))
        {
            return Ok(present);
        }
        changing!(self, |changing, application, id, metadata| {
            consumers::merge(changing, application, id, metadata).await
        })
        .await
    }

    async fn consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<Option<Consumer>> {
        self.pool
            .patiently(REPEATABLE, || consumers::find(&self.pool, application, id))
            .await
    }

    async fn consumers(
        &self,
        application: &ApplicationId,
        filter: &ConsumerFilter,
        after: Option<&ConsumerId>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        self.pool
            .patiently(REPEATABLE, || {
                consumers::of_application(&self.pool, application, filter, after, limit)
            })
            .await
    }

    async fn consumer_services(
        &self,
        application: &ApplicationId,
        consumers: &[ConsumerId],
    ) -> StoreResult<Vec<(ConsumerId, ConnectorId)>> {
        self.pool
            .patiently(REPEATABLE, || {
                consumers::services(&self.pool, application, consumers)
            })
            .await
    }

    async fn consumers_after(
        &self,
        after: Option<(&ApplicationId, &ConsumerId)>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        self.pool
            .patiently(REPEATABLE, || consumers::after(&self.pool, after, limit))
            .await
    }

    async fn delete_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<ConsumerDeletion> {
        changing!(self, |changing, application, id| {
            consumers::delete(changing, &application, &id).await
        })
        .await
    }
}

#[async_trait]
impl Values for PostgresStore {
    async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        self.pool
            .patiently(REPEATABLE, || tenants::value(&self.pool, name))
            .await
    }

    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>> {
        self.pool
            .patiently(REPEATABLE, || {
                tenants::value_or_insert(&self.pool, name, &value)
            })
            .await
    }

    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()> {
        self.pool
            .patiently(REPEATABLE, || tenants::put_value(&self.pool, name, &value))
            .await
    }

    async fn replace_value(&self, name: &str, read: &[u8], value: Vec<u8>) -> StoreResult<bool> {
        self.pool
            .patiently(REPEATABLE, || {
                tenants::replace_value(&self.pool, name, read, &value)
            })
            .await
    }
}

#[async_trait]
impl Feed for PostgresStore {
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes> {
        self.ledger
            .patiently(REPEATABLE, || {
                changes::since(&self.ledger, &self.holes, since)
            })
            .await
    }

    async fn news(&self) {
        self.hints.hear().await;
    }
}

impl Lines for PostgresStore {
    fn lines(&self) -> Vec<Waiting> {
        self.pool.waiting()
    }
}

#[async_trait]
impl UnreadAnswers for PostgresStore {
    async fn keep_unread(&self, answer: UnreadAnswer) -> StoreResult<bool> {
        // What is kept twice is kept once. It may be all that is left of a grant.
        self.ledger
            .patiently(REPEATABLE, || {
                let answer = answer.clone();
                change_by(
                    &self.ledger,
                    self,
                    Box::new(move |changing: &Changing<'_>| {
                        Box::pin(async move { unread::keep(changing, &answer).await })
                    }),
                )
            })
            .await
    }

    async fn unread(&self, grant: &GrantId) -> StoreResult<Vec<UnreadAnswer>> {
        self.pool
            .patiently(REPEATABLE, || unread::of_grant(&self.pool, grant))
            .await
    }

    async fn unread_after(
        &self,
        after: Option<(&GrantId, u64)>,
        limit: usize,
    ) -> StoreResult<Vec<UnreadAnswer>> {
        self.pool
            .patiently(REPEATABLE, || unread::after(&self.pool, after, limit))
            .await
    }

    async fn reseal_unread(&self, read: &UnreadAnswer, sealed: Vec<u8>) -> StoreResult<bool> {
        self.pool
            .patiently(REPEATABLE, || unread::reseal(&self.pool, read, &sealed))
            .await
    }

    async fn remove_unread(&self, grant: &GrantId, epoch: u64) -> StoreResult<bool> {
        self.pool
            .patiently(ONCE, || unread::remove(&self.pool, grant, epoch))
            .await
    }
}
