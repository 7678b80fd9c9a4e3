//! A store that can stop answering, without an error.

use super::*;
use crate::{
    id::{ApplicationId, ConnectorId, ConsumerId},
    refresh::ledger::{CommitReply, GrantRow, SettleReply, SettleRequest},
    store::{
        ApiKey, Application, Authorize, Authorized, Changes, Connection, Deleted, OAuthClient,
        Stamped, StoreResult,
    },
};

#[derive(Debug)]
pub(super) struct Hanging {
    pub(super) store: Arc<MemoryStore>,
    pub(super) hangs: AtomicBool,
}

macro_rules! hanging {
    ($($verb:ident($($name:ident: $type:ty),*) -> $reply:ty;)*) => {
        #[async_trait]
        impl Store for Hanging {
            $(async fn $verb(&self, $($name: $type),*) -> StoreResult<$reply> {
                if self.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                self.store.$verb($($name),*).await
            })*
        }
    };
}

hanging! {
    grant(id: &GrantId) -> Stamped<Option<GrantRow>>;
    claim(request: ClaimRequest) -> Stamped<ClaimReply>;
    extend(grant: &GrantId, epoch: u64, ttl: Duration) -> bool;
    commit(request: CommitRequest) -> Stamped<CommitReply>;
    settle(request: SettleRequest) -> Stamped<SettleReply>;
    keep_alive_due(limit: usize) -> Vec<GrantRow>;
    reseal(grant: &GrantId, version: u64, sealed: Vec<u8>) -> bool;
    grants_after(after: Option<&GrantId>, limit: usize) -> Vec<GrantRow>;
    connection(key: &ConnectionKey) -> Option<Connection>;
    connections(application: &ApplicationId, consumer: Option<&ConsumerId>) -> Vec<Connection>;
    connection_of(grant: &GrantId) -> Option<Connection>;
    grant_by_fingerprint(application: &ApplicationId, connector: &ConnectorId, fingerprint: &[u8; 32]) -> Option<GrantRow>;
    authorize(request: Authorize) -> Stamped<Authorized>;
    save_connection(key: &ConnectionKey, patch: ConnectionPatch) -> Connection;
    link(key: &ConnectionKey, grant: &GrantId, patch: ConnectionPatch) -> Option<Connection>;
    delete_connection(key: &ConnectionKey) -> Option<Deleted>;
    put_client(client: OAuthClient) -> ();
    client(application: &ApplicationId, connector: &ConnectorId) -> Option<OAuthClient>;
    clients(application: &ApplicationId) -> Vec<OAuthClient>;
    delete_client(application: &ApplicationId, connector: &ConnectorId) -> bool;
    add_application(id: &ApplicationId, name: &str) -> Application;
    applications() -> Vec<Application>;
    delete_application(id: &ApplicationId) -> bool;
    add_key(key: ApiKey) -> ();
    key_by_digest(digest: &[u8; 32]) -> Option<ApiKey>;
    keys(application: &ApplicationId) -> Vec<ApiKey>;
    delete_key(application: &ApplicationId, id: &str) -> bool;
    value_or_insert(name: &str, value: Vec<u8>) -> Vec<u8>;
    put_value(name: &str, value: Vec<u8>) -> ();
    changes(since: Option<u64>) -> Changes;
}

/// A process whose store can stop answering it, while it answers the others.
pub(super) async fn process(world: &World) -> (Vault, Arc<Hanging>) {
    let store = Arc::new(Hanging {
        store: world.store.clone(),
        hangs: AtomicBool::new(false),
    });
    let parts = VaultParts {
        store: store.clone(),
        ..world.parts()
    };
    (Vault::open(parts).await.unwrap(), store)
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_covers_the_store() {
    let world = World::new("revokes").await;
    let (vault, store) = process(&world).await;
    let wait = Duration::from_secs(3);
    store.hangs.store(true, Ordering::SeqCst);
    for attempt in 0..4 {
        let before = world.clock.now();
        let error = match attempt {
            0 => vault.resolve_within(&world.key, wait).await.map(|_| ()),
            1 => vault.validate_within(&world.key, wait).await.map(|_| ()),
            2 => vault.token(&world.key).await.map(|_| ()),
            _ => {
                // Known already, and its row is asked for.
                store.hangs.store(false, Ordering::SeqCst);
                vault.token(&world.key).await.unwrap();
                store.hangs.store(true, Ordering::SeqCst);
                vault.validate_within(&world.key, wait).await.map(|_| ())
            }
        };
        let took = before.until(world.clock.now());
        assert!(
            matches!(error, Err(TokenError::DeadlineExceeded { .. })),
            "{attempt}: {error:?}"
        );
        let most = if attempt == 2 {
            vault.config().wait
        } else {
            wait
        };
        assert_eq!(took, most, "{attempt}");
    }
}
