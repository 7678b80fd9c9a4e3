//! A store that forgets everything when it is dropped: for tests and simulators.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    ApiKey, Application, Authorize, Authorized, Change, Changes, Connection, ConnectionPatch,
    Deleted, OAuthClient, Stamped, Store, StoreError, StoreResult,
};
use crate::{
    id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId},
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
    grants: BTreeMap<GrantId, GrantRow>,
    connections: BTreeMap<ConnectionKey, Connection>,
    clients: BTreeMap<(ApplicationId, ConnectorId), OAuthClient>,
    applications: Vec<Application>,
    keys: Vec<ApiKey>,
    values: BTreeMap<String, Vec<u8>>,
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

    fn now(&self) -> StoreTime {
        StoreTime(1_767_225_600_000) + self.clock.now().0
    }

    fn state(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.state.lock().expect("no panic while locked");
        if state.down {
            Err(StoreError("the store is down".to_owned()))
        } else {
            Ok(state)
        }
    }

    fn on_grant<T>(
        &self,
        id: &GrantId,
        missing: T,
        verb: impl FnOnce(&mut GrantRow, StoreTime) -> T,
    ) -> StoreResult<Stamped<T>> {
        let at = self.now();
        let mut state = self.state()?;
        let Some(row) = state.grants.get_mut(id) else {
            return Ok(Stamped { value: missing, at });
        };
        let before = (row.version, row.standing.clone());
        let value = verb(row, at);
        if before != (row.version, row.standing.clone()) {
            let change = Change::Grant(id.clone(), row.version);
            state.changes.push(change);
        }
        Ok(Stamped { value, at })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>> {
        Ok(Stamped {
            value: self.state()?.grants.get(id).cloned(),
            at: self.now(),
        })
    }

    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        self.on_grant(&request.grant, ClaimReply::Missing, |row, now| {
            row.claim(&request, now)
        })
    }

    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool> {
        Ok(self
            .on_grant(grant, false, |row, now| row.extend(epoch, ttl, now))?
            .value)
    }

    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        self.on_grant(&request.grant.clone(), CommitReply::Missing, |row, _| {
            row.commit(request)
        })
    }

    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
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
        let mut state = self.state()?;
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
        let mut state = self.state()?;
        let value = state.authorize(request, at);
        Ok(Stamped { value, at })
    }

    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection> {
        let now = self.now();
        let mut state = self.state()?;
        let connection = state
            .connections
            .entry(key.clone())
            .or_insert_with(|| Connection::new(key.clone(), now));
        connection.apply(patch, now);
        let connection = connection.clone();
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
        let mut state = self.state()?;
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
        state.changes.push(Change::Connection(key.clone()));
        state.drop_unused(before.as_ref());
        Ok(Some(connection))
    }

    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let mut state = self.state()?;
        let Some(connection) = state.connections.remove(key) else {
            return Ok(None);
        };
        state.changes.push(Change::Connection(key.clone()));
        let grant = state.drop_unused(connection.grant.as_ref());
        Ok(Some(Deleted { connection, grant }))
    }

    async fn put_client(&self, client: OAuthClient) -> StoreResult<()> {
        let mut state = self.state()?;
        let key = (client.application.clone(), client.connector.clone());
        state
            .changes
            .push(Change::Client(key.0.clone(), key.1.clone()));
        state.clients.insert(key, client);
        Ok(())
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

    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool> {
        let mut state = self.state()?;
        state
            .changes
            .push(Change::Client(application.clone(), connector.clone()));
        Ok(state
            .clients
            .remove(&(application.clone(), connector.clone()))
            .is_some())
    }

    async fn add_application(&self, id: &ApplicationId, name: &str) -> StoreResult<Application> {
        let application = Application {
            id: id.clone(),
            name: name.to_owned(),
            created_at: self.now(),
        };
        let mut state = self.state()?;
        if state.applications.iter().any(|other| other.id == *id) {
            return Err(StoreError(format!("application {id} exists already")));
        }
        state.applications.push(application.clone());
        Ok(application)
    }

    async fn applications(&self) -> StoreResult<Vec<Application>> {
        Ok(self.state()?.applications.clone())
    }

    async fn delete_application(&self, id: &ApplicationId) -> StoreResult<bool> {
        let mut state = self.state()?;
        if state.connections.keys().any(|key| key.application == *id) {
            return Err(StoreError(format!(
                "application {id} still has connections"
            )));
        }
        let before = state.applications.len();
        state
            .applications
            .retain(|application| application.id != *id);
        state.keys.retain(|key| key.application != *id);
        state
            .clients
            .retain(|(application, _), _| application != id);
        state.changes.push(Change::Application(id.clone()));
        Ok(state.applications.len() < before)
    }

    async fn add_key(&self, mut key: ApiKey) -> StoreResult<()> {
        key.created_at = self.now();
        let mut state = self.state()?;
        state
            .changes
            .push(Change::Application(key.application.clone()));
        state.keys.push(key);
        Ok(())
    }

    async fn key_by_digest(&self, digest: &[u8; 32]) -> StoreResult<Option<ApiKey>> {
        Ok(self
            .state()?
            .keys
            .iter()
            .find(|key| key.digest == *digest)
            .cloned())
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
        let mut state = self.state()?;
        let before = state.keys.len();
        state
            .keys
            .retain(|key| !(key.application == *application && key.id == id));
        state.changes.push(Change::Application(application.clone()));
        Ok(state.keys.len() < before)
    }

    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>> {
        Ok(self
            .state()?
            .values
            .entry(name.to_owned())
            .or_insert(value)
            .clone())
    }

    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()> {
        self.state()?.values.insert(name.to_owned(), value);
        Ok(())
    }

    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes> {
        let state = self.state()?;
        let next = state.changes.len() as u64;
        let since = since.unwrap_or(next).min(next);
        Ok(Changes {
            next,
            changes: state.changes[since as usize..].to_vec(),
            gap: false,
        })
    }
}

impl State {
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
        self.changes.push(Change::Grant(grant.clone(), row.version));
        Some(row)
    }

    fn authorize(&mut self, request: Authorize, now: StoreTime) -> Authorized {
        let Authorize {
            connection: key,
            grant,
            expected,
            fresh,
            patch,
        } = request;
        let twin = self.same_token(&key.application, &key.service, fresh.fingerprint);
        if twin.is_some_and(|row| row.id != grant) {
            return Authorized::Conflict;
        }
        let present = self
            .connections
            .get(&key)
            .and_then(|connection| connection.grant.clone());
        if self.grants.get(&grant).map_or(0, |row| row.version) != expected
            || (expected > 0 && present.as_ref() != Some(&grant))
            || (expected == 0 && present.is_some_and(|present| self.grants.contains_key(&present)))
        {
            return Authorized::Conflict;
        }
        let row = match self.grants.remove(&grant) {
            Some(mut row) => {
                row.authorize(fresh, now);
                row
            }
            None => fresh.into_row(
                grant.clone(),
                key.application.clone(),
                key.service.clone(),
                now,
            ),
        };
        self.grants.insert(grant.clone(), row.clone());
        let connection = self
            .connections
            .entry(key.clone())
            .or_insert_with(|| Connection::new(key.clone(), now));
        connection.grant = Some(grant.clone());
        connection.apply(patch, now);
        let connection = connection.clone();
        self.changes
            .extend([Change::Grant(grant, row.version), Change::Connection(key)]);
        Authorized::Done(Box::new(connection), Box::new(row))
    }
}
