//! A store that forgets everything when it is dropped: for tests and simulators.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{
    ApiKey, Application, ApplicationSettings, Attempts, Authorize, Authorized, Change, Changes,
    Clients, Connection, ConnectionPatch, Connections, Consumer, ConsumerDeletion, ConsumerFilter,
    Consumers, Deleted, Feed, Freeze, Ledger, Lines, Moving, NewApiKey, OAuthClient, Present,
    Record, ReplacedToken, Stamped, StoreError, StoreResult, Tenants, UnreadAnswer, UnreadAnswers,
    Values,
};
use crate::{
    authorize::AttemptRow,
    id::{ApplicationId, AttemptId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
    refresh::ledger::{
        ClaimReply, ClaimRequest, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest,
        Standing,
    },
    time::{Clock, StoreTime},
};

/// Everything in one map each, behind one lock.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    down: bool,
    frozen: Option<Freeze>,
    silent: bool,
    grants: BTreeMap<GrantId, GrantRow>,
    connections: BTreeMap<ConnectionKey, Connection>,
    clients: BTreeMap<(ApplicationId, ConnectorId), OAuthClient>,
    applications: Vec<Application>,
    consumers: BTreeMap<(ApplicationId, ConsumerId), Consumer>,
    keys: Vec<ApiKey>,
    values: BTreeMap<String, Vec<u8>>,
    attempts: BTreeMap<AttemptId, AttemptRow>,
    unread: BTreeMap<(GrantId, u64), UnreadAnswer>,
    replaced: BTreeMap<(GrantId, u8), ReplacedToken>,
    changes: Vec<Change>,
}

impl MemoryStore {
    /// The store's clock begins at 2026-01-01 and runs with `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// Makes every verb fail, or work again.
    pub fn set_down(&self, down: bool) {
        self.state.lock().expect("no panic while locked").down = down;
    }

    /// Makes the writing verbs of refreshes hang, or go on.
    pub fn set_silent(&self, silent: bool) {
        self.state.lock().expect("no panic while locked").silent = silent;
    }

    async fn answers(&self) {
        let silent = || self.state.lock().expect("no panic while locked").silent;
        while silent() {
            self.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    fn now(&self) -> StoreTime {
        StoreTime(1_767_225_600_000) + self.clock.now().0
    }

    fn state(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.state.lock().expect("no panic while locked");
        if state.down {
            Err(StoreError::Away("the store is down".to_owned()))
        } else {
            Ok(state)
        }
    }

    /// The state, to be written.
    fn changing(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.state()?;
        if let Some(Freeze::Writes | Freeze::Moved) = state.frozen {
            return Err(StoreError::Frozen);
        }
        Ok(state)
    }

    fn on_grant<T>(
        &self,
        id: &GrantId,
        missing: T,
        verb: impl FnOnce(&mut GrantRow, StoreTime) -> T,
    ) -> StoreResult<Stamped<T>> {
        let at = self.now();
        let mut state = self.changing()?;
        let Some(row) = state.grants.get_mut(id) else {
            return Ok(Stamped { value: missing, at });
        };
        let before = row.clone();
        let value = verb(row, at);
        let after = row.clone();
        if (before.version, &before.standing) != (after.version, &after.standing) {
            let change = Change::Grant(id.clone(), after.version);
            state.changes.push(change);
        }
        if let Some(replaced) = ReplacedToken::between(&before, &after, at) {
            let name = (replaced.grant.clone(), replaced.slot);
            state.replaced.insert(name, replaced);
        }
        Ok(Stamped { value, at })
    }
}

#[async_trait]
impl Ledger for MemoryStore {
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>> {
        Ok(Stamped {
            value: self.state()?.grants.get(id).cloned(),
            at: self.now(),
        })
    }

    async fn grants(&self, ids: &[GrantId]) -> StoreResult<Stamped<Vec<GrantRow>>> {
        let state = self.state()?;
        Ok(Stamped {
            value: ids
                .iter()
                .filter_map(|id| state.grants.get(id).cloned())
                .collect(),
            at: self.now(),
        })
    }

    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        if self.state()?.frozen == Some(Freeze::Claims) {
            return Err(StoreError::Frozen);
        }
        self.answers().await;
        self.on_grant(&request.grant, ClaimReply::Missing, |row, now| {
            row.claim(&request, now)
        })
    }

    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool> {
        self.answers().await;
        Ok(self
            .on_grant(grant, false, |row, now| row.extend(epoch, ttl, now))?
            .value)
    }

    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        self.answers().await;
        self.on_grant(&request.grant.clone(), CommitReply::Missing, |row, _| {
            row.commit(request)
        })
    }

    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
        self.answers().await;
        self.on_grant(&request.grant.clone(), SettleReply::Missing, |row, now| {
            row.settle(request, now)
        })
    }

    async fn keep_alive_due(&self, limit: usize) -> StoreResult<Vec<GrantRow>> {
        let now = self.now();
        let mut due: Vec<_> = self
            .state()?
            .grants
            .values()
            .filter(|row| {
                row.standing == Standing::Live
                    && row.keep_alive_at.is_some_and(|at| at <= now)
                    && row
                        .trouble
                        .as_ref()
                        .is_none_or(|trouble| trouble.retry_at <= now)
            })
            .cloned()
            .collect();
        due.sort_by_key(|row| row.keep_alive_at);
        due.truncate(limit);
        Ok(due)
    }

    async fn reseal(&self, grant: &GrantId, version: u64, sealed: Vec<u8>) -> StoreResult<bool> {
        let mut state = self.changing()?;
        match state.grants.get_mut(grant) {
            Some(row) if row.version == version => {
                row.sealed = sealed;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn grants_after(
        &self,
        after: Option<&GrantId>,
        limit: usize,
    ) -> StoreResult<Vec<GrantRow>> {
        let state = self.state()?;
        Ok(state
            .grants
            .values()
            .filter(|row| after.is_none_or(|after| row.id > *after))
            .take(limit)
            .cloned()
            .collect())
    }
}

#[async_trait]
impl Connections for MemoryStore {
    async fn connection(&self, key: &ConnectionKey) -> StoreResult<Option<Connection>> {
        Ok(self.state()?.connections.get(key).cloned())
    }

    async fn connections(
        &self,
        application: &ApplicationId,
        consumer: Option<&ConsumerId>,
    ) -> StoreResult<Vec<Connection>> {
        let state = self.state()?;
        Ok(state
            .connections
            .values()
            .filter(|c| {
                c.key.application == *application
                    && consumer.is_none_or(|consumer| c.key.consumer == *consumer)
            })
            .cloned()
            .collect())
    }

    async fn connections_after(
        &self,
        after: Option<&ConnectionKey>,
        limit: usize,
    ) -> StoreResult<Vec<Connection>> {
        let state = self.state()?;
        let later = state
            .connections
            .values()
            .filter(|connection| after.is_none_or(|after| connection.key > *after));
        Ok(later.take(limit).cloned().collect())
    }

    async fn connection_of(&self, grant: &GrantId) -> StoreResult<Option<Connection>> {
        Ok(self
            .state()?
            .connections
            .values()
            .find(|c| c.grant.as_ref() == Some(grant))
            .cloned())
    }

    async fn grant_by_fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: &[u8; 32],
    ) -> StoreResult<Option<GrantRow>> {
        let state = self.state()?;
        Ok(state
            .same_token(application, connector, Some(*fingerprint))
            .cloned())
    }

    async fn authorize(&self, request: Authorize) -> StoreResult<Stamped<Authorized>> {
        let at = self.now();
        let mut state = self.changing()?;
        let value = state.authorize(request, at);
        Ok(Stamped { value, at })
    }

    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection> {
        let now = self.now();
        let mut state = self.changing()?;
        let connection = state
            .connections
            .entry(key.clone())
            .or_insert_with(|| Connection::new(key.clone(), now));
        connection.apply(patch, now);
        let connection = connection.clone();
        state.consumer(&key.application, &key.consumer, now);
        state.changes.push(Change::Connection(key.clone()));
        Ok(connection)
    }

    async fn link(
        &self,
        key: &ConnectionKey,
        grant: &GrantId,
        patch: ConnectionPatch,
    ) -> StoreResult<Option<Connection>> {
        let now = self.now();
        let mut state = self.changing()?;
        if !state.grants.contains_key(grant) {
            return Ok(None);
        }
        let connection = state
            .connections
            .entry(key.clone())
            .or_insert_with(|| Connection::new(key.clone(), now));
        let before = connection.grant.replace(grant.clone());
        connection.apply(patch, now);
        let connection = connection.clone();
        state.consumer(&key.application, &key.consumer, now);
        state.changes.push(Change::Connection(key.clone()));
        state.drop_unused(before.as_ref());
        Ok(Some(connection))
    }

    async fn unlink(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let now = self.now();
        let mut state = self.changing()?;
        let Some(connection) = state.connections.get_mut(key) else {
            return Ok(None);
        };
        let before = connection.unlink(now);
        let connection = connection.clone();
        state.changes.push(Change::Connection(key.clone()));
        let grant = state.drop_unused(before.as_ref());
        Ok(Some(Deleted { connection, grant }))
    }

    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let mut state = self.changing()?;
        let Some(connection) = state.connections.remove(key) else {
            return Ok(None);
        };
        state.attempts.retain(|_, row| row.connection != *key);
        state.changes.push(Change::Connection(key.clone()));
        let grant = state.drop_unused(connection.grant.as_ref());
        Ok(Some(Deleted { connection, grant }))
    }
}

#[async_trait]
impl Attempts for MemoryStore {
    async fn begin_attempt(&self, mut row: AttemptRow) -> StoreResult<Option<Stamped<AttemptRow>>> {
        let at = self.now();
        let mut state = self.changing()?;
        row.begin(at);
        let Some(surplus) = AttemptRow::surplus(&state.attempts_at(&row.connection), at) else {
            return Ok(None);
        };
        for id in surplus {
            state.attempts.remove(&id);
        }
        state.attempts.insert(row.id.clone(), row.clone());
        Ok(Some(Stamped { value: row, at }))
    }

    async fn attempt(&self, id: &AttemptId) -> StoreResult<Stamped<Option<AttemptRow>>> {
        Ok(Stamped {
            value: self.state()?.attempts.get(id).cloned(),
            at: self.now(),
        })
    }

    async fn attempts_at(&self, key: &ConnectionKey) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        Ok(Stamped {
            value: self.state()?.attempts_at(key),
            at: self.now(),
        })
    }

    async fn replace_attempt(&self, row: AttemptRow) -> StoreResult<bool> {
        Ok(self.changing()?.replace_attempt(row))
    }

    async fn remove_attempt(&self, id: &AttemptId, revision: u64) -> StoreResult<bool> {
        let mut state = self.changing()?;
        let known = state.attempts.get(id);
        if known.is_none_or(|row| row.revision != revision) {
            return Ok(false);
        }
        Ok(state.attempts.remove(id).is_some())
    }

    async fn attempts_due(&self, limit: usize) -> StoreResult<Stamped<Vec<AttemptRow>>> {
        let at = self.now();
        let state = self.state()?;
        let due = state.attempts.values().filter(|row| row.due_at() <= at);
        let mut value: Vec<_> = due.cloned().collect();
        value.sort_by_key(AttemptRow::due_at);
        value.truncate(limit);
        Ok(Stamped { value, at })
    }

    async fn attempts_after(
        &self,
        after: Option<&AttemptId>,
        limit: usize,
    ) -> StoreResult<Vec<AttemptRow>> {
        let state = self.state()?;
        let later = state.attempts.values();
        let later = later.filter(|row| after.is_none_or(|after| row.id > *after));
        Ok(later.take(limit).cloned().collect())
    }
}

#[async_trait]
impl Clients for MemoryStore {
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()> {
        let mut state = self.changing()?;
        let key = (client.application.clone(), client.connector.clone());
        state
            .changes
            .push(Change::Client(key.0.clone(), key.1.clone()));
        state.clients.insert(key, client);
        Ok(())
    }

    async fn reseal_client(&self, read: &OAuthClient, sealed: Vec<u8>) -> StoreResult<bool> {
        let key = (read.application.clone(), read.connector.clone());
        match self.changing()?.clients.get_mut(&key) {
            Some(client) if client.sealed_secret == read.sealed_secret => {
                client.sealed_secret = Some(sealed);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>> {
        Ok(self
            .state()?
            .clients
            .get(&(application.clone(), connector.clone()))
            .cloned())
    }

    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>> {
        Ok(self
            .state()?
            .clients
            .values()
            .filter(|client| client.application == *application)
            .cloned()
            .collect())
    }

    async fn clients_after(
        &self,
        after: Option<(&ApplicationId, &ConnectorId)>,
        limit: usize,
    ) -> StoreResult<Vec<OAuthClient>> {
        let state = self.state()?;
        let later = state.clients.values().filter(|client| {
            after.is_none_or(|after| (&client.application, &client.connector) > after)
        });
        Ok(later.take(limit).cloned().collect())
    }

    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool> {
        let mut state = self.changing()?;
        state
            .changes
            .push(Change::Client(application.clone(), connector.clone()));
        Ok(state
            .clients
            .remove(&(application.clone(), connector.clone()))
            .is_some())
    }
}

#[async_trait]
impl Tenants for MemoryStore {
    async fn add_application(&self, id: &ApplicationId, name: &str) -> StoreResult<Application> {
        let application = Application {
            id: id.clone(),
            name: name.to_owned(),
            created_at: self.now(),
            settings: ApplicationSettings::default(),
        };
        let mut state = self.changing()?;
        if state.applications.iter().any(|other| other.id == *id) {
            return Err(StoreError::Refused(format!(
                "application {id} exists already"
            )));
        }
        state.applications.push(application.clone());
        Ok(application)
    }

    async fn applications(&self) -> StoreResult<Vec<Application>> {
        Ok(self.state()?.applications.clone())
    }

    async fn application(&self, id: &ApplicationId) -> StoreResult<Option<Application>> {
        let state = self.state()?;
        Ok(state.applications.iter().find(|it| it.id == *id).cloned())
    }

    async fn replace_settings(
        &self,
        id: &ApplicationId,
        read: &ApplicationSettings,
        settings: ApplicationSettings,
    ) -> StoreResult<bool> {
        let mut state = self.changing()?;
        match state.applications.iter_mut().find(|it| it.id == *id) {
            Some(application) if application.settings == *read => {
                application.settings = settings;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn delete_application(&self, id: &ApplicationId) -> StoreResult<bool> {
        let mut state = self.changing()?;
        if state.connections.keys().any(|key| key.application == *id) {
            return Err(StoreError::Refused(format!(
                "application {id} still has connections"
            )));
        }
        let before = state.applications.len();
        state
            .applications
            .retain(|application| application.id != *id);
        state.keys.retain(|key| key.application != *id);
        state
            .attempts
            .retain(|_, row| row.connection.application != *id);
        state
            .clients
            .retain(|(application, _), _| application != id);
        state.consumers.retain(|(of, _), _| of != id);
        state.changes.push(Change::Application(id.clone()));
        Ok(state.applications.len() < before)
    }

    async fn add_key(&self, key: NewApiKey) -> StoreResult<ApiKey> {
        let key = key.made(self.now());
        let mut state = self.changing()?;
        state
            .changes
            .push(Change::Application(key.application.clone()));
        state.keys.push(key.clone());
        Ok(key)
    }

    async fn key_by_digest(&self, digest: &[u8; 32]) -> StoreResult<Option<Stamped<ApiKey>>> {
        let state = self.state()?;
        let found = state.keys.iter().find(|key| key.digest == *digest);
        Ok(found.map(|key| Stamped {
            value: key.clone(),
            at: self.now(),
        }))
    }

    async fn keys_used(&self, digests: &[[u8; 32]]) -> StoreResult<()> {
        let now = self.now();
        let mut state = self.changing()?;
        for key in &mut state.keys {
            if digests.contains(&key.digest) {
                key.last_used_at = Some(now);
            }
        }
        Ok(())
    }

    async fn keys(&self, application: &ApplicationId) -> StoreResult<Vec<ApiKey>> {
        Ok(self
            .state()?
            .keys
            .iter()
            .filter(|key| key.application == *application)
            .cloned()
            .collect())
    }

    async fn delete_key(&self, application: &ApplicationId, id: &str) -> StoreResult<bool> {
        let mut state = self.changing()?;
        let before = state.keys.len();
        state
            .keys
            .retain(|key| !(key.application == *application && key.id == id));
        state.changes.push(Change::Application(application.clone()));
        Ok(state.keys.len() < before)
    }
}

#[async_trait]
impl Consumers for MemoryStore {
    async fn save_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
        metadata: Option<Map<String, Value>>,
    ) -> StoreResult<Consumer> {
        let now = self.now();
        let mut state = self.changing()?;
        let consumer = state.consumer(application, id, now);
        if let Some(metadata) = metadata {
            consumer.merge(metadata, now);
        }
        Ok(consumer.clone())
    }

    async fn consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<Option<Consumer>> {
        let name = (application.clone(), id.clone());
        Ok(self.state()?.consumers.get(&name).cloned())
    }

    async fn consumers(
        &self,
        application: &ApplicationId,
        filter: &ConsumerFilter,
        after: Option<&ConsumerId>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        let state = self.state()?;
        let those = state.consumers.values().filter(|consumer| {
            consumer.application == *application
                && after.is_none_or(|after| consumer.id > *after)
                && filter.admits(&consumer.id)
        });
        Ok(those.take(limit).cloned().collect())
    }

    async fn consumer_services(
        &self,
        application: &ApplicationId,
        consumers: &[ConsumerId],
    ) -> StoreResult<Vec<(ConsumerId, ConnectorId)>> {
        let state = self.state()?;
        let keys = state.connections.keys();
        let those: BTreeSet<_> = keys
            .filter(|key| key.application == *application && consumers.contains(&key.consumer))
            .map(|key| (key.consumer.clone(), key.service.clone()))
            .collect();
        Ok(those.into_iter().collect())
    }

    async fn consumers_after(
        &self,
        after: Option<(&ApplicationId, &ConsumerId)>,
        limit: usize,
    ) -> StoreResult<Vec<Consumer>> {
        let state = self.state()?;
        let later = state
            .consumers
            .iter()
            .filter(|((application, id), _)| after.is_none_or(|after| (application, id) > after));
        Ok(later.take(limit).map(|(_, it)| it.clone()).collect())
    }

    async fn delete_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> StoreResult<ConsumerDeletion> {
        let mut state = self.changing()?;
        let mut keys = state.connections.keys();
        if keys.any(|key| key.application == *application && key.consumer == *id) {
            return Ok(ConsumerDeletion::InUse);
        }
        let theirs = |key: &ConnectionKey| key.application == *application && key.consumer == *id;
        state.attempts.retain(|_, row| !theirs(&row.connection));
        let gone = state.consumers.remove(&(application.clone(), id.clone()));
        Ok(match gone {
            Some(_) => ConsumerDeletion::Deleted,
            None => ConsumerDeletion::Missing,
        })
    }
}

#[async_trait]
impl Values for MemoryStore {
    async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.state()?.values.get(name).cloned())
    }

    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>> {
        let present = self.state()?.values.get(name).cloned();
        if let Some(present) = present {
            return Ok(present);
        }
        let mut state = self.changing()?;
        Ok(state.values.entry(name.to_owned()).or_insert(value).clone())
    }

    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()> {
        self.changing()?.values.insert(name.to_owned(), value);
        Ok(())
    }

    async fn replace_value(&self, name: &str, read: &[u8], value: Vec<u8>) -> StoreResult<bool> {
        match self.changing()?.values.get_mut(name) {
            Some(present) if present == read => {
                *present = value;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

#[async_trait]
impl Feed for MemoryStore {
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes> {
        let state = self.state()?;
        let next = state.changes.len() as u64;
        let since = since.unwrap_or(next).min(next);
        Ok(Changes {
            next,
            changes: state.changes[since as usize..].to_vec(),
            gap: None,
        })
    }
}

#[async_trait]
impl UnreadAnswers for MemoryStore {
    async fn keep_unread(&self, answer: UnreadAnswer) -> StoreResult<bool> {
        self.answers().await;
        let mut state = self.changing()?;
        let grant = answer.grant.clone();
        if !state.grants.contains_key(&grant) {
            return Ok(false);
        }
        state.unread.insert((grant.clone(), answer.epoch), answer);
        for epoch in UnreadAnswer::surplus(&state.unread_of(&grant)) {
            state.unread.remove(&(grant.clone(), epoch));
        }
        Ok(true)
    }

    async fn unread(&self, grant: &GrantId) -> StoreResult<Vec<UnreadAnswer>> {
        Ok(self.state()?.unread_of(grant))
    }

    async fn unread_after(
        &self,
        after: Option<(&GrantId, u64)>,
        limit: usize,
    ) -> StoreResult<Vec<UnreadAnswer>> {
        let state = self.state()?;
        let later = state
            .unread
            .iter()
            .filter(|((grant, epoch), _)| after.is_none_or(|after| (grant, *epoch) > after));
        Ok(later
            .take(limit)
            .map(|(_, answer)| answer.clone())
            .collect())
    }

    async fn reseal_unread(&self, read: &UnreadAnswer, sealed: Vec<u8>) -> StoreResult<bool> {
        let name = (read.grant.clone(), read.epoch);
        match self.changing()?.unread.get_mut(&name) {
            Some(answer) if answer == read => {
                answer.sealed = sealed;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn remove_unread(&self, grant: &GrantId, epoch: u64) -> StoreResult<bool> {
        let name = (grant.clone(), epoch);
        Ok(self.changing()?.unread.remove(&name).is_some())
    }
}

#[async_trait]
impl Moving for MemoryStore {
    async fn freeze(&self, what: Freeze) -> StoreResult<()> {
        self.state()?.frozen = Some(what);
        Ok(())
    }

    async fn frozen(&self) -> StoreResult<Freeze> {
        Ok(self.state()?.frozen.unwrap_or(Freeze::Nothing))
    }

    async fn claims_in_force(&self) -> StoreResult<u64> {
        let now = self.now();
        let state = self.state()?;
        let held = state.grants.values().filter(|row| row.held(now));
        Ok(held.count() as u64)
    }

    async fn replaced_after(
        &self,
        after: Option<(&GrantId, u8)>,
        limit: usize,
    ) -> StoreResult<Vec<ReplacedToken>> {
        let state = self.state()?;
        let later = state
            .replaced
            .iter()
            .filter(|((grant, slot), _)| after.is_none_or(|after| (grant, *slot) > after));
        Ok(later.take(limit).map(|(_, token)| token.clone()).collect())
    }

    async fn restore(&self, records: Vec<Record>) -> StoreResult<()> {
        let mut state = self.changing()?;
        for record in records {
            state.restore(record);
        }
        Ok(())
    }
}

impl Lines for MemoryStore {}

impl State {
    fn attempts_at(&self, key: &ConnectionKey) -> Vec<AttemptRow> {
        let at = self.attempts.values().filter(|row| row.connection == *key);
        at.cloned().collect()
    }

    fn replace_attempt(&mut self, mut row: AttemptRow) -> bool {
        match self.attempts.get_mut(&row.id) {
            Some(present) if present.revision == row.revision => {
                row.revision += 1;
                *present = row;
                true
            }
            _ => false,
        }
    }

    fn unread_of(&self, grant: &GrantId) -> Vec<UnreadAnswer> {
        let of = self.unread.iter().filter(|((of, _), _)| of == grant);
        of.map(|(_, answer)| answer.clone()).collect()
    }

    /// The consumer, made if there is none.
    fn consumer(
        &mut self,
        application: &ApplicationId,
        id: &ConsumerId,
        now: StoreTime,
    ) -> &mut Consumer {
        self.consumers
            .entry((application.clone(), id.clone()))
            .or_insert_with(|| Consumer::new(application.clone(), id.clone(), now))
    }

    fn save(&mut self, connection: Connection) {
        let key = &connection.key;
        self.consumer(&key.application, &key.consumer, connection.created_at);
        self.connections.insert(key.clone(), connection);
    }

    fn same_token(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: Option<[u8; 32]>,
    ) -> Option<&GrantRow> {
        self.grants.values().find(|row| {
            fingerprint.is_some()
                && row.application == *application
                && row.connector == *connector
                && row.fingerprint == fingerprint
        })
    }

    /// Removes a grant that no connection uses any more.
    fn drop_unused(&mut self, grant: Option<&GrantId>) -> Option<GrantRow> {
        let grant = grant?;
        if self
            .connections
            .values()
            .any(|connection| connection.grant.as_ref() == Some(grant))
        {
            return None;
        }
        let row = self.grants.remove(grant)?;
        self.forget(grant);
        self.changes.push(Change::Grant(grant.clone(), row.version));
        Some(row)
    }

    fn authorize(&mut self, request: Authorize, now: StoreTime) -> Authorized {
        let (key, grant) = (request.connection.clone(), request.grant.clone());
        let fingerprint = request.fresh.fingerprint;
        let (before, attempt) = (request.held.clone(), request.attempt.clone());
        let of_provider =
            |row: &GrantRow| row.application == key.application && row.connector == key.service;
        let connection = self.connections.get(&key).cloned();
        let used = connection.as_ref().and_then(|c| c.grant.as_ref());
        let present = Present {
            row: self.grants.get(&grant).cloned(),
            used: used.and_then(|used| self.grants.get(used)).cloned(),
            attempt: request
                .attempt
                .as_ref()
                .and_then(|attempt| self.attempts.get(&attempt.id))
                .map(|attempt| attempt.revision),
            twin: self
                .same_token(&key.application, &key.service, fingerprint)
                .map(|row| row.id.clone()),
            replaced: self
                .replaced
                .values()
                .find(|replaced| {
                    Some(replaced.fingerprint) == fingerprint
                        && self.grants.get(&replaced.grant).is_some_and(of_provider)
                })
                .cloned(),
            connection,
        };
        match request.decide(present, now) {
            Err(conflict) => Authorized::Conflict(conflict),
            Ok((connection, row)) => {
                self.grants.insert(grant.clone(), row.clone());
                if let Some(attempt) = attempt {
                    self.replace_attempt(*attempt);
                }
                self.save(connection.clone());
                self.drop_unused(before.as_ref());
                self.changes
                    .extend([Change::Grant(grant, row.version), Change::Connection(key)]);
                Authorized::Done(Box::new(connection), Box::new(row))
            }
        }
    }

    /// What belongs to a grant goes with it.
    fn forget(&mut self, grant: &GrantId) {
        self.unread.retain(|(of, _), _| of != grant);
        self.replaced.retain(|(of, _), _| of != grant);
    }

    fn restore(&mut self, record: Record) {
        match record {
            Record::Value(name, value) => {
                self.values.insert(name, value);
            }
            Record::Application(application) => {
                self.applications.retain(|other| other.id != application.id);
                self.applications.push(application);
            }
            Record::Key(key) => {
                self.keys
                    .retain(|other| (&other.application, &other.id) != (&key.application, &key.id));
                self.keys.push(key);
            }
            Record::Client(client) => {
                let name = (client.application.clone(), client.connector.clone());
                self.clients.insert(name, client);
            }
            Record::Grant(row) => {
                self.grants.insert(row.id.clone(), *row);
            }
            Record::Connection(connection) => self.save(*connection),
            Record::Consumer(consumer) => {
                let name = (consumer.application.clone(), consumer.id.clone());
                self.consumers.insert(name, consumer);
            }
            Record::Attempt(row) => {
                self.attempts.insert(row.id.clone(), *row);
            }
            Record::Unread(answer) => {
                let name = (answer.grant.clone(), answer.epoch);
                self.unread.insert(name, answer);
            }
            Record::Replaced(token) => {
                let name = (token.grant.clone(), token.slot);
                self.replaced.insert(name, token);
            }
        }
    }
}
