//! The port: each verb, on the thread that it belongs to.

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
    SqliteStore, changes, connections, consumers,
    grants::{self, now, on_grant},
    tenants, unread,
};

#[async_trait]
impl Ledger for SqliteStore {
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>> {
        let id = id.clone();
        self.read(move |db| {
            Ok(Stamped {
                value: grants::find(db, &id)?,
                at: now(),
            })
        })
        .await
    }

    async fn grants(&self, ids: &[GrantId]) -> StoreResult<Stamped<Vec<GrantRow>>> {
        let ids = ids.to_vec();
        self.read(move |db| grants::those(db, &ids)).await
    }

    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        self.write(move |db| {
            on_grant(db, &request.grant, ClaimReply::Missing, |row, now| {
                row.claim(&request, now)
            })
        })
        .await
    }

    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool> {
        let grant = grant.clone();
        self.write(move |db| {
            Ok(on_grant(db, &grant, false, |row, now| row.extend(epoch, ttl, now))?.value)
        })
        .await
    }

    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        let grant = request.grant.clone();
        self.write(move |db| {
            on_grant(db, &grant, CommitReply::Missing, |row, _| {
                row.commit(request)
            })
        })
        .await
    }

    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
        let grant = request.grant.clone();
        self.write(move |db| {
            on_grant(db, &grant, SettleReply::Missing, |row, now| {
                row.settle(request, now)
            })
        })
        .await
    }

    async fn keep_alive_due(&self, limit: usize) -> StoreResult<Vec<GrantRow>> {
        self.read(move |db| grants::keep_alive_due(db, limit)).await
    }

    async fn reseal(&self, grant: &GrantId, version: u64, sealed: Vec<u8>) -> StoreResult<bool> {
        let grant = grant.clone();
        self.write(move |db| grants::reseal(db, &grant, version, &sealed))
            .await
    }

    async fn grants_after(
        &self,
        after: Option<&GrantId>,
        limit: usize,
    ) -> StoreResult<Vec<GrantRow>> {
        let after = after.cloned();
        self.read(move |db| grants::after(db, after.as_ref(), limit))
            .await
    }
}

#[async_trait]
impl Connections for SqliteStore {
    async fn connection(&self, key: &ConnectionKey) -> StoreResult<Option<Connection>> {
        let key = key.clone();
        self.read(move |db| connections::find(db, &key)).await
    }

    async fn whole(&self, key: &ConnectionKey) -> StoreResult<Option<Whole>> {
        let key = key.clone();
        self.read(move |db| {
            let Some(connection) = connections::find(db, &key)? else {
                return Ok(None);
            };
            let grant = match &connection.grant {
                Some(grant) => Some(Stamped {
                    value: grants::find(db, grant)?,
                    at: now(),
                }),
                None => None,
            };
            Ok(Some(Whole {
                client: tenants::client(db, &key.application, &key.service)?,
                grant,
                connection,
            }))
        })
        .await
    }

    async fn connections(
        &self,
        application: &ApplicationId,
        consumer: Option<&ConsumerId>,
    ) -> StoreResult<Vec<Connection>> {
        let (application, consumer) = (application.clone(), consumer.cloned());
        self.read(move |db| connections::of_application(db, &application, consumer.as_ref()))
            .await
    }

    async fn connections_after(
        &self,
        after: Option<&ConnectionKey>,
        limit: usize,
    ) -> StoreResult<Vec<Connection>> {
        let after = after.cloned();
        self.read(move |db| connections::after(db, after.as_ref(), limit))
            .await
    }

    async fn connection_of(&self, grant: &GrantId) -> StoreResult<Option<Connection>> {
        let grant = grant.clone();
        self.read(move |db| connections::of_grant(db, &grant)).await
    }

    async fn grant_by_fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: &[u8; 32],
    ) -> StoreResult<Option<GrantRow>> {
        let (application, connector, fingerprint) =
            (application.clone(), connector.clone(), *fingerprint);
        self.read(move |db| grants::by_fingerprint(db, &application, &connector, &fingerprint))
            .await
    }

    async fn authorize(&self, request: Authorize) -> StoreResult<Stamped<Authorized>> {
        self.write(move |db| connections::authorize(db, request))
            .await
    }

    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection> {
        let key = key.clone();
        self.write(move |db| connections::patch(db, key, patch))
            .await
    }

    async fn link(
        &self,
        key: &ConnectionKey,
        grant: &GrantId,
        patch: ConnectionPatch,
    ) -> StoreResult<Option<Connection>> {
        let (key, grant) = (key.clone(), grant.clone());
        self.write(move |db| connections::link(db, key, grant, patch))
            .await
    }

    async fn unlink(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let key = key.clone();
        self.write(move |db| connections::unlink(db, &key)).await
    }

    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let key = key.clone();
        self.write(move |db| connections::delete(db, &key)).await
    }
}

#[async_trait]
impl Clients for SqliteStore {
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()> {
        self.write(move |db| tenants::put_client(db, &client)).await
    }

    async fn reseal_client(&self, read: &OAuthClient, sealed: Vec<u8>) -> StoreResult<bool> {
        let read = read.clone();
        self.write(move |db| tenants::reseal_client(db, &read, &sealed))
            .await
    }

    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>> {
        let (application, connector) = (application.clone(), connector.clone());
        self.read(move |db| tenants::client(db, &application, &connector))
            .await
    }

    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>> {
        let application = application.clone();
        self.read(move |db| tenants::clients(db, &application))
            .await
    }

    async fn clients_after(
        &self,
        after: Option<(&ApplicationId, &ConnectorId)>,
        limit: usize,
    ) -> StoreResult<Vec<OAuthClient>> {
        let after = after.map(|(application, connector)| (application.clone(), connector.clone()));
        self.read(move |db| tenants::clients_after(db, after.as_ref(), limit))
            .await
    }

    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool> {
        let (application, connector) = (application.clone(), connector.clone());
        self.write(move |db| tenants::delete_client(db, application, connector))
            .await
    }
}

#[async_trait]
impl Tenants for SqliteStore {
    async fn add_application(&self, id: &ApplicationId, name: &str) -> StoreResult<Application> {
        let (id, name) = (id.clone(), name.to_owned());
        self.write(move |db| tenants::add_application(db, id, name))
            .await
    }

    async fn applications(&self) -> StoreResult<Vec<Application>> {
        self.read(tenants::applications).await
    }

    async fn application(&self, id: &ApplicationId) -> StoreResult<Option<Application>> {
        let id = id.clone();
        self.read(move |db| tenants::application(db, &id)).await
    }

    async fn replace_settings(
        &self,
        id: &ApplicationId,
        read: &ApplicationSettings,
        settings: ApplicationSettings,
    ) -> StoreResult<bool> {
        let (id, read) = (id.clone(), read.clone());
        self.write(move |db| tenants::replace_settings(db, &id, &read, &settings))
            .await
    }

    async fn delete_application(&self, id: &ApplicationId) -> StoreResult<bool> {
        let id = id.clone();
        self.write(move |db| tenants::delete_application(db, id))
            .await
    }

    async fn add_key(&self, key: NewApiKey) -> StoreResult<ApiKey> {
        self.write(move |db| tenants::add_key(db, key)).await
    }

    async fn key_by_digest(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        let digest = *digest;
        self.read_for_a_stranger(move |db| tenants::key_by_digest(db, &digest))
            .await
    }

    async fn known_key(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        let digest = *digest;
        self.read(move |db| tenants::key_by_digest(db, &digest))
            .await
    }

    fn answered(&self) -> u64 {
        self.reads.waiting().iter().map(|line| line.served).sum()
    }

    async fn keys_used(&self, digests: &[[u8; 32]]) -> StoreResult<()> {
        let digests = digests.to_vec();
        self.write(move |db| tenants::keys_used(db, &digests)).await
    }

    async fn keys(&self, application: &ApplicationId) -> StoreResult<Vec<ApiKey>> {
        let application = application.clone();
        self.read(move |db| tenants::keys(db, &application)).await
    }

    async fn delete_key(&self, application: &ApplicationId, id: &str) -> StoreResult<bool> {
        let (application, id) = (application.clone(), id.to_owned());
        self.write(move |db| tenants::delete_key(db, application, &id))
            .await
    }
}

#[async_trait]
impl Consumers for SqliteStore {
    async fn save_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
        metadata: Option<Map<String, Value>>,
    ) -> StoreResult<Consumer> {
        // Most are there already, as they are meant to be: nobody waits for the writer.
        if let Some(mut present) = self.consumer(application, id).await?
            && !present.merge(metadata.clone().unwrap_or_default(), StoreTime(0))
        {
            return Ok(present);
        }
        let (application, id) = (application.clone(), id.clone());
        self.write(move |db| consumers::merge(db, application, id, metadata))
            .await
    }

    async fn consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<Option<Consumer>> {
        let (application, id) = (application.clone(), id.clone());
        self.read(move |db| consumers::find(db, &application, &id))
            .await
    }

    async fn consumers(
        &self,
        application: &ApplicationId,
        filter: &ConsumerFilter,
        after: Option<&ConsumerId>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        let (application, filter, after) = (application.clone(), filter.clone(), after.cloned());
        self.read(move |db| {
            consumers::of_application(db, &application, &filter, after.as_ref(), limit)
        })
        .await
    }

    async fn consumer_services(
        &self,
        application: &ApplicationId,
        consumers: &[ConsumerId],
    ) -> StoreResult<Vec<(ConsumerId, ConnectorId)>> {
        let (application, consumers) = (application.clone(), consumers.to_vec());
        self.read(move |db| consumers::services(db, &application, &consumers))
            .await
    }

    async fn consumers_after(
        &self,
        after: Option<(&ApplicationId, &ConsumerId)>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        let after = after.map(|(application, id)| (application.clone(), id.clone()));
        self.read(move |db| consumers::after(db, after.as_ref(), limit))
            .await
    }

    async fn delete_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<ConsumerDeletion> {
        let (application, id) = (application.clone(), id.clone());
        self.write(move |db| consumers::delete(db, &application, &id))
            .await
    }
}

#[async_trait]
impl Values for SqliteStore {
    async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        let name = name.to_owned();
        self.read(move |db| tenants::value(db, &name)).await
    }

    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>> {
        let name = name.to_owned();
        self.write(move |db| tenants::value_or_insert(db, &name, value))
            .await
    }

    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()> {
        let name = name.to_owned();
        self.write(move |db| tenants::put_value(db, &name, &value))
            .await
    }

    async fn replace_value(&self, name: &str, read: &[u8], value: Vec<u8>) -> StoreResult<bool> {
        let (name, read) = (name.to_owned(), read.to_vec());
        self.write(move |db| tenants::replace_value(db, &name, &read, &value))
            .await
    }
}

#[async_trait]
impl Feed for SqliteStore {
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes> {
        self.read(move |db| changes::since(db, since)).await
    }
}

impl Lines for SqliteStore {
    fn lines(&self) -> Vec<Waiting> {
        self.reads.waiting().to_vec()
    }
}

#[async_trait]
impl UnreadAnswers for SqliteStore {
    async fn keep_unread(&self, answer: UnreadAnswer) -> StoreResult<bool> {
        self.write(move |db| unread::keep(db, &answer)).await
    }

    async fn unread(&self, grant: &GrantId) -> StoreResult<Vec<UnreadAnswer>> {
        let grant = grant.clone();
        self.read(move |db| unread::of_grant(db, &grant)).await
    }

    async fn unread_after(
        &self,
        after: Option<(&GrantId, u64)>,
        limit: usize,
    ) -> StoreResult<Vec<UnreadAnswer>> {
        let after = after.map(|(grant, epoch)| (grant.clone(), epoch));
        self.read(move |db| unread::after(db, after.as_ref(), limit))
            .await
    }

    async fn reseal_unread(&self, read: &UnreadAnswer, sealed: Vec<u8>) -> StoreResult<bool> {
        let read = read.clone();
        self.write(move |db| unread::reseal(db, &read, &sealed))
            .await
    }

    async fn remove_unread(&self, grant: &GrantId, epoch: u64) -> StoreResult<bool> {
        let grant = grant.clone();
        self.write(move |db| unread::remove(db, &grant, epoch))
            .await
    }
}
