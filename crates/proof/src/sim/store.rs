//! One replica's way to the shared store: latency, lost requests, lost replies, outages.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokenward::{
    ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId,
    id::OwnerId,
    refresh::{
        ledger::{
            ClaimReply, ClaimRequest, CommitReply, CommitRequest, FailureKind, GrantRow, Need,
            SettleReply, SettleRequest, Verdict,
        },
        replay::ReplayPolicy,
    },
    seal::Purpose,
    store::{
        self, ApiKey, Application, ApplicationSettings, Authorize, Authorized, Changes, Connection,
        ConnectionPatch, Consumer, ConsumerDeletion, ConsumerFilter, Deleted, Freeze, NewApiKey,
        OAuthClient, Record, ReplacedToken, Stamped, StoreError, StoreResult, UnreadAnswer,
        prelude::*,
    },
};

use super::{
    scenario::{Broken, SECOND, SLOWEST_STORE, Trouble},
    time::Life,
    world::World,
};

pub(super) struct SimStore {
    pub(super) world: Arc<World>,
    pub(super) life: Arc<Life>,
    /// The number of the replica's present life.
    pub(super) number: usize,
    pub(super) replica: usize,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStore").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The statement does not reach the store.
    Before,
    /// It takes effect, and the reply is lost.
    After,
}

impl SimStore {
    fn latency(&self) -> Duration {
        let rng = &self.world.rng;
        let slow = self
            .world
            .scenario
            .troubles(self.world.now())
            .any(|trouble| trouble == Trouble::StoreSlow);
        if slow {
            rng.between(SECOND / 20, SLOWEST_STORE)
        } else {
            rng.between(Duration::from_micros(50), Duration::from_millis(3))
        }
    }

    fn down(&self) -> bool {
        self.world
            .scenario
            .troubles(self.world.now())
            .any(|trouble| {
                trouble == Trouble::StoreDown || trouble == Trouble::Partition(self.replica)
            })
    }

    fn fault(&self) -> Option<Fault> {
        let World { scenario, rng, .. } = &*self.world;
        if self.world.now() < scenario.length && rng.chance(scenario.store_fault) {
            Some(if rng.chance(0.5) {
                Fault::Before
            } else {
                Fault::After
            })
        } else {
            None
        }
    }

    /// A statement on its way there and back. `effect` is instantaneous.
    async fn call<T>(
        &self,
        verb: &'static str,
        grant: Option<&GrantId>,
        effect: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        let world = &self.world;
        self.life.goes_on().await;
        let fault = self.fault();
        // A statement that is under way when its sender dies may take effect or not.
        let outlives = world.rng.chance(0.5);
        world.time.sleep(self.latency()).await;
        if !outlives {
            self.life.goes_on().await;
        }
        world.books().counts.statements += 1;
        let failed = |what: &'static str| {
            let mut books = world.books();
            books.counts.fault(what);
            if verb != "changes" {
                books.lives[self.number].in_vain = Some(world.now());
            }
            if let Some(grant) = grant {
                books.failed(grant, self.number, world.now());
            }
            let number = grant.and_then(|grant| books.number(grant));
            let replica = self.replica;
            books.note(
                world.now(),
                number,
                format_args!("r{replica} {verb}: {what}"),
            );
            StoreError::Away(format!("{verb}: {what}"))
        };
        if self.down() {
            let error = failed("store: down");
            self.life.goes_on().await;
            return Err(error);
        }
        if fault == Some(Fault::Before) {
            let error = failed("store: request lost");
            self.life.goes_on().await;
            return Err(error);
        }
        let result = effect.await;
        world.time.sleep(self.latency()).await;
        let error = (fault == Some(Fault::After)).then(|| failed("store: reply lost"));
        self.life.goes_on().await;
        match error {
            Some(error) => Err(error),
            None => result,
        }
    }

    fn connection_number(&self, key: &ConnectionKey) -> usize {
        let number = key.consumer.as_str()[1..].parse();
        number.expect("consumers are numbered")
    }

    async fn claim_now(&self, mut request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        let truth = &self.world.store;
        if self.world.broken(Broken::AttemptForgotten)
            && let Some(row) = truth.grant(&request.grant).await?.value
            && row.attempt.is_some()
            && let Some(claim) = &row.claim
            && claim.owner != request.owner
            && !row.held(truth.grant(&request.grant).await?.at)
        {
            truth.settle(release(&row)).await?;
        }
        let reply = truth.claim(request.clone()).await?;
        if self.world.broken(Broken::ClaimIgnoresHolder)
            && let ClaimReply::Held(row) = &reply.value
        {
            truth.settle(release(row)).await?;
            request.seen = row.version;
            return truth.claim(request).await;
        }
        Ok(reply)
    }

    async fn commit_now(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        let truth = &self.world.store;
        let reply = truth.commit(request.clone()).await?;
        if self.world.broken(Broken::CommitIgnoresVersion)
            && let CommitReply::Superseded(row) | CommitReply::Reauthorized(row) = &reply.value
        {
            let tokens = self
                .world
                .tokens(&request.grant, request.base + 1, &request.sealed)
                .expect("sealed by a replica");
            let purpose = Purpose::TokenSet {
                grant: &request.grant,
                version: row.version + 1,
            };
            let sealed = self.world.keyring.seal(purpose, &tokens.to_plain());
            let base = row.version;
            return truth
                .commit(CommitRequest {
                    base,
                    sealed,
                    ..request
                })
                .await;
        }
        Ok(reply)
    }

    async fn settle_now(&self, mut request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
        let truth = &self.world.store;
        if self.world.broken(Broken::AttemptForgotten)
            && let Verdict::Failed { kind, .. } = &mut request.verdict
            && *kind == FailureKind::Unknown
        {
            *kind = FailureKind::NotSent;
        }
        let reply = truth.settle(request.clone()).await?;
        if self.world.broken(Broken::SettleIgnoresEpoch)
            && let SettleReply::Superseded(row) = &reply.value
        {
            request.base = row.version;
            request.epoch = match &row.claim {
                Some(claim) => claim.epoch,
                None => {
                    let claim = ClaimRequest {
                        grant: row.id.clone(),
                        seen: row.version,
                        owner: OwnerId::new("a superseded owner"),
                        ttl: SECOND,
                        need: Need::Forced,
                        policy: ReplayPolicy::Harmless,
                        pardoned: None,
                    };
                    truth.claim(claim).await?;
                    row.epoch + 1
                }
            };
            return truth.settle(request).await;
        }
        Ok(reply)
    }
}

fn release(row: &GrantRow) -> SettleRequest {
    SettleRequest {
        grant: row.id.clone(),
        base: row.version,
        epoch: row.claim.as_ref().map_or(0, |claim| claim.epoch),
        verdict: Verdict::Released,
    }
}

/// A port whose verbs nothing befalls.
macro_rules! undisturbed {
    ($($port:ident { $($verb:ident($($name:ident: $type:ty),*) -> $reply:ty;)* })*) => {
        $(#[async_trait]
        impl store::$port for SimStore {
            $(async fn $verb(&self, $($name: $type),*) -> StoreResult<$reply> {
                self.world.store.$verb($($name),*).await
            })*
        })*
    };
}

impl store::Lines for SimStore {}

impl store::Attempts for SimStore {}

undisturbed! {
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

#[async_trait]
impl store::Ledger for SimStore {
    async fn grant(&self, id: &GrantId) -> StoreResult<Stamped<Option<GrantRow>>> {
        self.call("grant", Some(id), self.world.store.grant(id))
            .await
    }

    async fn grants(&self, ids: &[GrantId]) -> StoreResult<Stamped<Vec<GrantRow>>> {
        self.call("grants", None, self.world.store.grants(ids))
            .await
    }

    async fn claim(&self, request: ClaimRequest) -> StoreResult<Stamped<ClaimReply>> {
        let grant = request.grant.clone();
        let effect = async {
            let reply = self.claim_now(request).await?;
            self.world.claimed(self.number, &grant, &reply.value);
            if let ClaimReply::Claimed(_) = reply.value {
                self.world.tempt(self.replica, None);
            }
            Ok(reply)
        };
        self.call("claim", Some(&grant), effect).await
    }

    async fn extend(&self, grant: &GrantId, epoch: u64, ttl: Duration) -> StoreResult<bool> {
        let effect = self.world.store.extend(grant, epoch, ttl);
        self.call("extend", Some(grant), effect).await
    }

    async fn commit(&self, request: CommitRequest) -> StoreResult<Stamped<CommitReply>> {
        let grant = request.grant.clone();
        let effect = async {
            let reply = self.commit_now(request.clone()).await?;
            self.world
                .committed(self.number, &request, &reply.value)
                .await;
            self.world.tempt(self.replica, None);
            Ok(reply)
        };
        let reply = self.call("commit", Some(&grant), effect).await?;
        if let CommitReply::Committed { row, .. }
        | CommitReply::Superseded(row)
        | CommitReply::Reauthorized(row) = &reply.value
        {
            let mut books = self.world.books();
            let own = books.lives[self.number].own.entry(grant).or_default();
            *own = row.version.max(*own);
        }
        Ok(reply)
    }

    async fn settle(&self, request: SettleRequest) -> StoreResult<Stamped<SettleReply>> {
        let grant = request.grant.clone();
        let effect = async {
            let reply = self.settle_now(request.clone()).await?;
            self.world.settled(self.number, &request, &reply.value);
            Ok(reply)
        };
        self.call("settle", Some(&grant), effect).await
    }

    async fn keep_alive_due(&self, limit: usize) -> StoreResult<Vec<GrantRow>> {
        let effect = self.world.store.keep_alive_due(limit);
        self.call("keep_alive_due", None, effect).await
    }

    async fn reseal(&self, grant: &GrantId, version: u64, sealed: Vec<u8>) -> StoreResult<bool> {
        self.world.store.reseal(grant, version, sealed).await
    }

    async fn grants_after(
        &self,
        after: Option<&GrantId>,
        limit: usize,
    ) -> StoreResult<Vec<GrantRow>> {
        self.world.store.grants_after(after, limit).await
    }
}

#[async_trait]
impl store::UnreadAnswers for SimStore {
    async fn keep_unread(&self, answer: UnreadAnswer) -> StoreResult<bool> {
        let grant = answer.grant.clone();
        let effect = self.world.store.keep_unread(answer);
        self.call("keep_unread", Some(&grant), effect).await
    }

    async fn unread(&self, grant: &GrantId) -> StoreResult<Vec<UnreadAnswer>> {
        let effect = self.world.store.unread(grant);
        self.call("unread", Some(grant), effect).await
    }

    async fn unread_after(
        &self,
        after: Option<(&GrantId, u64)>,
        limit: usize,
    ) -> StoreResult<Vec<UnreadAnswer>> {
        self.world.store.unread_after(after, limit).await
    }

    async fn reseal_unread(&self, read: &UnreadAnswer, sealed: Vec<u8>) -> StoreResult<bool> {
        self.world.store.reseal_unread(read, sealed).await
    }

    async fn remove_unread(&self, grant: &GrantId, epoch: u64) -> StoreResult<bool> {
        let effect = self.world.store.remove_unread(grant, epoch);
        self.call("remove_unread", Some(grant), effect).await
    }
}

#[async_trait]
impl store::Connections for SimStore {
    async fn connection(&self, key: &ConnectionKey) -> StoreResult<Option<Connection>> {
        self.call("connection", None, self.world.store.connection(key))
            .await
    }

    async fn connections(
        &self,
        application: &ApplicationId,
        consumer: Option<&ConsumerId>,
    ) -> StoreResult<Vec<Connection>> {
        self.world.store.connections(application, consumer).await
    }

    async fn connections_after(
        &self,
        after: Option<&ConnectionKey>,
        limit: usize,
    ) -> StoreResult<Vec<Connection>> {
        self.world.store.connections_after(after, limit).await
    }

    async fn connection_of(&self, grant: &GrantId) -> StoreResult<Option<Connection>> {
        let effect = self.world.store.connection_of(grant);
        self.call("connection_of", None, effect).await
    }

    async fn grant_by_fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        fingerprint: &[u8; 32],
    ) -> StoreResult<Option<GrantRow>> {
        let truth = &self.world.store;
        let effect = truth.grant_by_fingerprint(application, connector, fingerprint);
        self.call("grant_by_fingerprint", None, effect).await
    }

    async fn authorize(&self, request: Authorize) -> StoreResult<Stamped<Authorized>> {
        let number = self.connection_number(&request.connection);
        let effect = async {
            let reply = self.world.store.authorize(request).await?;
            self.world.authorized(number, &reply.value).await;
            Ok(reply)
        };
        self.call("authorize", None, effect).await
    }

    async fn save_connection(
        &self,
        key: &ConnectionKey,
        patch: ConnectionPatch,
    ) -> StoreResult<Connection> {
        let effect = async {
            let saved = self.world.store.save_connection(key, patch).await?;
            self.world.saved(self.connection_number(key), &saved).await;
            Ok(saved)
        };
        self.call("save_connection", None, effect).await
    }

    async fn link(
        &self,
        key: &ConnectionKey,
        grant: &GrantId,
        patch: ConnectionPatch,
    ) -> StoreResult<Option<Connection>> {
        let effect = async {
            let linked = self.world.store.link(key, grant, patch).await?;
            if let Some(linked) = &linked {
                self.world.saved(self.connection_number(key), linked).await;
            }
            Ok(linked)
        };
        self.call("link", None, effect).await
    }

    async fn unlink(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        self.world.store.unlink(key).await
    }

    async fn delete_connection(&self, key: &ConnectionKey) -> StoreResult<Option<Deleted>> {
        let effect = async {
            let deleted = self.world.store.delete_connection(key).await?;
            if let Some(deleted) = &deleted {
                self.world
                    .deleted(self.connection_number(key), deleted)
                    .await;
            }
            Ok(deleted)
        };
        self.call("delete_connection", None, effect).await
    }
}

#[async_trait]
impl store::Clients for SimStore {
    async fn put_client(&self, client: OAuthClient) -> StoreResult<()> {
        self.world.store.put_client(client).await
    }

    async fn reseal_client(&self, read: &OAuthClient, sealed: Vec<u8>) -> StoreResult<bool> {
        self.world.store.reseal_client(read, sealed).await
    }

    async fn client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<Option<OAuthClient>> {
        let effect = self.world.store.client(application, connector);
        self.call("client", None, effect).await
    }

    async fn clients(&self, application: &ApplicationId) -> StoreResult<Vec<OAuthClient>> {
        self.world.store.clients(application).await
    }

    async fn clients_after(
        &self,
        after: Option<(&ApplicationId, &ConnectorId)>,
        limit: usize,
    ) -> StoreResult<Vec<OAuthClient>> {
        self.world.store.clients_after(after, limit).await
    }

    async fn delete_client(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
    ) -> StoreResult<bool> {
        self.world.store.delete_client(application, connector).await
    }
}

#[async_trait]
impl store::Values for SimStore {
    async fn value_or_insert(&self, name: &str, value: Vec<u8>) -> StoreResult<Vec<u8>> {
        let effect = self.world.store.value_or_insert(name, value);
        self.call("value_or_insert", None, effect).await
    }

    async fn put_value(&self, name: &str, value: Vec<u8>) -> StoreResult<()> {
        self.world.store.put_value(name, value).await
    }

    async fn value(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        self.call("value", None, self.world.store.value(name)).await
    }

    async fn replace_value(&self, name: &str, read: &[u8], value: Vec<u8>) -> StoreResult<bool> {
        self.world.store.replace_value(name, read, value).await
    }
}

#[async_trait]
impl store::Feed for SimStore {
    async fn changes(&self, since: Option<u64>) -> StoreResult<Changes> {
        {
            // Whoever asks again has digested what it was told before.
            let mut books = self.world.books();
            let life = &mut books.lives[self.number];
            if let Some(told) = life.told.take() {
                life.known = life.known.max(told);
            }
        }
        let effect = async {
            let mut changes = self.world.store.changes(since).await?;
            let mut troubles = self.world.scenario.troubles(self.world.now());
            if let Some(since) = since
                && troubles.any(|trouble| trouble == Trouble::Deaf(self.replica))
            {
                // Delayed: they come when the trouble is over.
                self.world.books().counts.fault("changes: delayed");
                changes.next = since;
                changes.changes.clear();
            }
            if self.world.broken(Broken::ChangesDropped) && self.world.rng.chance(0.3) {
                changes.changes.clear();
            }
            Ok(changes)
        };
        let changes = self.call("changes", None, effect).await?;
        let mut books = self.world.books();
        let life = &mut books.lives[self.number];
        life.told = Some(changes.next);
        if since.is_none() || changes.gap.is_some() {
            life.unsure = changes.next;
        }
        drop(books);
        Ok(changes)
    }
}
