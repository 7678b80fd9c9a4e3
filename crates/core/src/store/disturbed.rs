//! For tests: a memory store whose verbs something befalls.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{
    ApiKey, Application, ApplicationSettings, Authorize, Authorized, Changes, Connection,
    ConnectionPatch, Consumer, ConsumerDeletion, ConsumerFilter, Deleted, Freeze, MemoryStore,
    NewApiKey, OAuthClient, Record, ReplacedToken, Stamped, StoreResult, UnreadAnswer, ports,
};
use crate::{
    authorize::AttemptRow,
    id::{ApplicationId, AttemptId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest,
    },
};

/// What befalls each verb. Whoever implements this is a store.
#[async_trait]
pub(crate) trait Disturbed: Send + Sync + fmt::Debug {
    /// The store behind it.
    fn truth(&self) -> &MemoryStore;
    /// Before a verb takes effect.
    async fn before(&self);
    /// After it took effect.
    async fn after(&self) {}
}

impl<T: Disturbed> ports::Lines for T {}

macro_rules! disturbed {
    ($($port:ident { $($verb:ident($($name:ident: $type:ty),*) -> $reply:ty;)* })*) => {
        $(#[async_trait]
        impl<T: Disturbed> ports::$port for T {
            $(async fn $verb(&self, $($name: $type),*) -> StoreResult<$reply> {
                self.before().await;
                let reply = ports::$port::$verb(self.truth(), $($name),*).await;
                self.after().await;
                reply
            })*
        })*
    };
}

disturbed! {
    Ledger {
        grant(id: &GrantId) -> Stamped<Option<GrantRow>>;
        grants(ids: &[GrantId]) -> Stamped<Vec<GrantRow>>;
        claim(request: ClaimRequest) -> Stamped<ClaimReply>;
        extend(grant: &GrantId, epoch: u64, ttl: Duration) -> bool;
        commit(request: CommitRequest) -> Stamped<CommitReply>;
        settle(request: SettleRequest) -> Stamped<SettleReply>;
        keep_alive_due(limit: usize) -> Vec<GrantRow>;
        reseal(grant: &GrantId, version: u64, sealed: Vec<u8>) -> bool;
        grants_after(after: Option<&GrantId>, limit: usize) -> Vec<GrantRow>;
    }
    UnreadAnswers {
        keep_unread(answer: UnreadAnswer) -> bool;
        unread(grant: &GrantId) -> Vec<UnreadAnswer>;
        unread_after(after: Option<(&GrantId, u64)>, limit: usize) -> Vec<UnreadAnswer>;
        reseal_unread(read: &UnreadAnswer, sealed: Vec<u8>) -> bool;
        remove_unread(grant: &GrantId, epoch: u64) -> bool;
    }
    Connections {
        connection(key: &ConnectionKey) -> Option<Connection>;
        connections(application: &ApplicationId, consumer: Option<&ConsumerId>) -> Vec<Connection>;
        connections_after(after: Option<&ConnectionKey>, limit: usize) -> Vec<Connection>;
        connection_of(grant: &GrantId) -> Option<Connection>;
        grant_by_fingerprint(application: &ApplicationId, connector: &ConnectorId, fingerprint: &[u8; 32]) -> Option<GrantRow>;
        authorize(request: Authorize) -> Stamped<Authorized>;
        save_connection(key: &ConnectionKey, patch: ConnectionPatch) -> Connection;
        link(key: &ConnectionKey, grant: &GrantId, patch: ConnectionPatch) -> Option<Connection>;
        unlink(key: &ConnectionKey) -> Option<Deleted>;
        delete_connection(key: &ConnectionKey) -> Option<Deleted>;
    }
    Attempts {
        begin_attempt(row: AttemptRow) -> Option<Stamped<AttemptRow>>;
        attempt(id: &AttemptId) -> Stamped<Option<AttemptRow>>;
        attempts_at(key: &ConnectionKey) -> Stamped<Vec<AttemptRow>>;
        replace_attempt(row: AttemptRow) -> bool;
        remove_attempt(id: &AttemptId, revision: u64) -> bool;
        attempts_due(limit: usize) -> Stamped<Vec<AttemptRow>>;
        attempts_after(after: Option<&AttemptId>, limit: usize) -> Vec<AttemptRow>;
    }
    Clients {
        put_client(client: OAuthClient) -> ();
        reseal_client(read: &OAuthClient, sealed: Vec<u8>) -> bool;
        client(application: &ApplicationId, connector: &ConnectorId) -> Option<OAuthClient>;
        clients(application: &ApplicationId) -> Vec<OAuthClient>;
        clients_after(after: Option<(&ApplicationId, &ConnectorId)>, limit: usize) -> Vec<OAuthClient>;
        delete_client(application: &ApplicationId, connector: &ConnectorId) -> bool;
    }
    Values {
        value(name: &str) -> Option<Vec<u8>>;
        value_or_insert(name: &str, value: Vec<u8>) -> Vec<u8>;
        put_value(name: &str, value: Vec<u8>) -> ();
        replace_value(name: &str, read: &[u8], value: Vec<u8>) -> bool;
    }
    Feed {
        changes(since: Option<u64>) -> Changes;
    }
    Tenants {
        add_application(id: &ApplicationId, name: &str) -> Application;
        applications() -> Vec<Application>;
        application(id: &ApplicationId) -> Option<Application>;
        replace_settings(id: &ApplicationId, read: &ApplicationSettings, settings: ApplicationSettings) -> bool;
        delete_application(id: &ApplicationId) -> bool;
        add_key(key: NewApiKey) -> ApiKey;
        key_by_digest(digest: &[u8; 32]) -> Option<Stamped<ApiKey>>;
        keys_used(digests: &[[u8; 32]]) -> ();
        keys(application: &ApplicationId) -> Vec<ApiKey>;
        delete_key(application: &ApplicationId, id: &str) -> bool;
    }
    Consumers {
        save_consumer(application: &ApplicationId, id: &ConsumerId, metadata: Option<Map<String, Value>>) -> Consumer;
        consumer(application: &ApplicationId, id: &ConsumerId) -> Option<Consumer>;
        consumers(application: &ApplicationId, filter: &ConsumerFilter, after: Option<&ConsumerId>, limit: usize) -> Vec<Consumer>;
        consumer_services(application: &ApplicationId, consumers: &[ConsumerId]) -> Vec<(ConsumerId, ConnectorId)>;
        consumers_after(after: Option<(&ApplicationId, &ConsumerId)>, limit: usize) -> Vec<Consumer>;
        delete_consumer(application: &ApplicationId, id: &ConsumerId) -> ConsumerDeletion;
    }
    Moving {
        freeze(what: Freeze) -> ();
        frozen() -> Freeze;
        claims_in_force() -> u64;
        replaced_after(after: Option<(&GrantId, u8)>, limit: usize) -> Vec<ReplacedToken>;
        restore(records: Vec<Record>) -> ();
    }
}
