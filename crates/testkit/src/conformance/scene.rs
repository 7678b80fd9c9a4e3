//! What the properties are told with: a store under test and short forms of the verbs.

use std::{fmt, sync::Arc, time::Duration};

use tokenward::{
    id::ConnectionKey,
    refresh::{
        ledger::{
            ClaimReply, ClaimRequest, CommitReply, CommitRequest, FreshGrant, GrantRow, Need,
            SettleReply, SettleRequest, Verdict,
        },
        replay::ReplayPolicy,
    },
    store::{Authorize, Authorized, ConnectionPatch, Stamped, Store},
    time::StoreTime,
};

pub(super) const APPLICATION: &str = "acme";
pub(super) const API: &str = "accounting";
pub(super) const SERVICE: &str = "books";
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// Runs out while a test waits for it.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// An empty store under test.
pub struct Subject {
    pub(super) store: Arc<dyn Store>,
    pub(super) reopen: Option<Reopen>,
}

type Reopen = Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>;

impl Subject {
    /// A store that is gone when it is dropped.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            reopen: None,
        }
    }

    /// How to open the same store again. The closure may own what the store lives in.
    #[must_use]
    pub fn reopened_by(self, reopen: impl Fn() -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        Self {
            reopen: Some(Box::new(reopen)),
            ..self
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

pub(super) fn key(consumer: &str) -> ConnectionKey {
    ConnectionKey::new(APPLICATION, consumer, API, SERVICE)
}

pub(super) fn fresh(sealed: &str) -> FreshGrant {
    FreshGrant {
        counted_from: None,
        sealed: sealed.into(),
        expires_in: Some(HOUR),
        lifetime: Some(HOUR),
        keep_alive: None,
        fingerprint: None,
        consent: None,
    }
}

pub(super) fn authorization(
    consumer: &str,
    grant: &str,
    expected: u64,
    fresh: FreshGrant,
) -> Authorize {
    Authorize {
        connection: key(consumer),
        grant: grant.into(),
        expected,
        fresh,
        patch: ConnectionPatch::default(),
        held: (expected > 0).then(|| grant.into()),
        account: tokenward::authorize::Account::Any,
        attempt: None,
    }
}

/// Authorizes a connection of the consumer with a new grant of that id.
pub(super) async fn granted(store: &dyn Store, consumer: &str, grant: &str) -> GrantRow {
    authorized(store, authorization(consumer, grant, 0, fresh("v1"))).await
}

pub(super) async fn authorized(store: &dyn Store, request: Authorize) -> GrantRow {
    match store.authorize(request).await.expect("authorize").value {
        Authorized::Done(_, row) => *row,
        Authorized::Conflict(why) => panic!("the authorization should not conflict: {why:?}"),
    }
}

pub(super) async fn read(store: &dyn Store, grant: &str) -> GrantRow {
    store
        .grant(&grant.into())
        .await
        .expect("read")
        .value
        .expect("the grant exists")
}

pub(super) fn claiming(grant: &str, seen: u64, owner: &str, ttl: Duration) -> ClaimRequest {
    ClaimRequest {
        grant: grant.into(),
        seen,
        owner: owner.into(),
        ttl,
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
        pardoned: None,
    }
}

pub(super) async fn claim(
    store: &dyn Store,
    grant: &str,
    seen: u64,
    owner: &str,
    ttl: Duration,
) -> ClaimReply {
    store
        .claim(claiming(grant, seen, owner, ttl))
        .await
        .expect("claim")
        .value
}

/// Claims, and is sure to get it.
pub(super) async fn claimed(
    store: &dyn Store,
    grant: &str,
    seen: u64,
    owner: &str,
    ttl: Duration,
) -> GrantRow {
    match claim(store, grant, seen, owner, ttl).await {
        ClaimReply::Claimed(row) => row,
        other => panic!("{owner} should get the claim, not {other:?}"),
    }
}

/// Claims until the present claim has run out.
pub(super) async fn taken_over(store: &dyn Store, grant: &str, seen: u64, owner: &str) -> GrantRow {
    loop {
        match claim(store, grant, seen, owner, HOUR).await {
            ClaimReply::Claimed(row) => return row,
            ClaimReply::Held(_) => tokio::time::sleep(SHORT).await,
            other => panic!("{owner} should get the claim in the end, not {other:?}"),
        }
    }
}

pub(super) fn committing(grant: &str, base: u64, epoch: u64, sealed: &str) -> CommitRequest {
    CommitRequest {
        grant: grant.into(),
        base,
        epoch,
        sent_at: StoreTime(1_800_000_000_000),
        sealed: sealed.into(),
        lifetime: Some(HOUR),
        keep_alive: None,
        fingerprint: None,
    }
}

pub(super) async fn commit(
    store: &dyn Store,
    grant: &str,
    base: u64,
    epoch: u64,
    sealed: &str,
) -> CommitReply {
    store
        .commit(committing(grant, base, epoch, sealed))
        .await
        .expect("commit")
        .value
}

/// Commits, and is sure to succeed: the row, and whether it ended a run of failures.
pub(super) async fn committed(
    store: &dyn Store,
    grant: &str,
    base: u64,
    epoch: u64,
    sealed: &str,
) -> (GrantRow, bool) {
    match commit(store, grant, base, epoch, sealed).await {
        CommitReply::Committed { row, recovered } => (row, recovered),
        other => panic!("the commit should succeed, not {other:?}"),
    }
}

pub(super) async fn settle(
    store: &dyn Store,
    grant: &str,
    base: u64,
    epoch: u64,
    verdict: Verdict,
) -> SettleReply {
    let request = SettleRequest {
        grant: grant.into(),
        base,
        epoch,
        verdict,
    };
    let Stamped { value, .. } = store.settle(request).await.expect("settle");
    value
}

/// Settles, and is sure to be heard: the row, and whether it is the one to announce.
pub(super) async fn settled(
    store: &dyn Store,
    grant: &str,
    base: u64,
    epoch: u64,
    verdict: Verdict,
) -> (GrantRow, bool) {
    match settle(store, grant, base, epoch, verdict).await {
        SettleReply::Settled { row, first } => (row, first),
        other => panic!("the settlement should count, not {other:?}"),
    }
}
