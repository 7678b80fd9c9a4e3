//! Random sequences of verbs, applied to the store and to a plain [`GrantRow`].
//!
//! The store says at what time it did something; the row is told that time. They must agree
//! about every reply and about the row itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokenward::{
    refresh::{
        ledger::{
            ClaimReply, ClaimRequest, CommitReply, CommitRequest, FailureKind, FreshGrant,
            GrantRow, Need, SettleReply, SettleRequest, Verdict,
        },
        replay::ReplayPolicy,
    },
    store::{Authorized, Conflict, ReplacedToken, Stamped, Store},
    time::StoreTime,
};

use super::scene::*;

/// One verb. Versions and epochs are relative to the present ones, so that many of them hit.
#[derive(Clone, Debug)]
enum Verb {
    Claim {
        seen: i64,
        owner: u8,
        ttl: Duration,
        need: Need,
        policy: ReplayPolicy,
    },
    Extend {
        epoch: i64,
        ttl: Duration,
    },
    Commit {
        base: i64,
        epoch: i64,
        sent_at: i64,
        fresh: Fresh,
    },
    Settle {
        base: i64,
        epoch: i64,
        verdict: Verdict,
    },
    Authorize {
        expected: i64,
        fresh: Fresh,
    },
    Reseal {
        version: i64,
        sealed: Vec<u8>,
    },
}

#[derive(Clone, Debug)]
struct Fresh {
    sealed: Vec<u8>,
    expires_in: Option<Duration>,
    lifetime: Option<Duration>,
    keep_alive: Option<Duration>,
    /// Told apart from other grants' by [`fingerprint`].
    token: Option<u8>,
}

/// What two runs never share: one that failed leaves its grant behind.
fn fingerprint(grant: &str, token: u8) -> [u8; 32] {
    let mut fingerprint = [token; 32];
    let name = &grant.as_bytes()[..grant.len().min(31)];
    fingerprint[..name.len()].copy_from_slice(name);
    fingerprint
}

/// Mostly the present number, now and then one beside it.
fn near() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0_i64), 1 => Just(-1), 1 => Just(1)]
}

/// Over at once, or not within the test. Nothing between: nobody waits here.
fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), Just(HOUR)]
}

fn need() -> impl Strategy<Value = Need> {
    prop_oneof![Just(Need::Stale), Just(Need::Forced), Just(Need::Rejected)]
}

fn policy() -> impl Strategy<Value = ReplayPolicy> {
    prop_oneof![
        Just(ReplayPolicy::Harmless),
        Just(ReplayPolicy::Grace { seconds: 60 }),
        Just(ReplayPolicy::Refused),
        Just(ReplayPolicy::Revokes),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let kind = prop_oneof![
        Just(FailureKind::NotSent),
        Just(FailureKind::Throttled),
        Just(FailureKind::Configuration),
        Just(FailureKind::Unknown),
    ];
    prop_oneof![
        1 => ".{0,8}".prop_map(|reason| Verdict::Dead { reason }),
        1 => Just(Verdict::Spent),
        4 => (kind, ".{0,8}", prop_oneof![3 => Just(Duration::ZERO), 1 => Just(HOUR)])
            .prop_map(|(kind, message, retry_in)| Verdict::Failed { kind, message, retry_in, asked: false, }),
        1 => Just(Verdict::Released),
    ]
}

fn fresh() -> impl Strategy<Value = Fresh> {
    let span = || option::of((0..100_000_u64).prop_map(Duration::from_millis));
    (
        vec(any::<u8>(), 0..40),
        span(),
        span(),
        span(),
        option::of(0..6_u8),
    )
        .prop_map(|(sealed, expires_in, lifetime, keep_alive, token)| Fresh {
            sealed,
            expires_in,
            lifetime,
            keep_alive,
            token,
        })
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        5 => (near(), 0..3_u8, span(), need(), policy())
            .prop_map(|(seen, owner, ttl, need, policy)| Verb::Claim { seen, owner, ttl, need, policy }),
        1 => (near(), span()).prop_map(|(epoch, ttl)| Verb::Extend { epoch, ttl }),
        2 => (near(), near(), -100_000..100_000_i64, fresh())
            .prop_map(|(base, epoch, sent_at, fresh)| Verb::Commit { base, epoch, sent_at, fresh }),
        3 => (near(), near(), verdict())
            .prop_map(|(base, epoch, verdict)| Verb::Settle { base, epoch, verdict }),
        1 => (near(), fresh()).prop_map(|(expected, fresh)| Verb::Authorize { expected, fresh }),
        1 => (near(), vec(any::<u8>(), 0..40)).prop_map(|(version, sealed)| Verb::Reseal { version, sealed }),
    ]
}

/// The property; it brings its own runtime, because the generator is not asynchronous.
///
/// # Panics
///
/// When store and row disagree, with the shortest sequence that shows it.
pub fn agrees_with_the_ledger<F: Future<Output = Subject>>(make: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let subject = runtime.block_on(make());
    let cases = AtomicU64::new(0);
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&vec(verb(), 1..40), |verbs| {
        let name = format!("grant {}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(replay(subject.store.clone(), &name, verbs));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

async fn replay(store: Arc<dyn Store>, name: &str, verbs: Vec<Verb>) {
    let store = &*store;
    let mut row = granted(store, name, name).await;
    let mut replaced = Ring::new();
    for verb in verbs {
        let before = row.clone();
        apply(store, name, &mut row, &replaced, verb).await;
        let token = ReplacedToken::between(&before, &row, StoreTime(0));
        replaced.extend(token.map(|token| (token.slot, token.fingerprint)));
        assert_eq!(read(store, name).await, row);
    }
    store.delete_connection(&key(name)).await.expect("delete");
}

/// The tokens that were replaced, by their slots.
type Ring = BTreeMap<u8, [u8; 32]>;

async fn apply(store: &dyn Store, name: &str, row: &mut GrantRow, replaced: &Ring, verb: Verb) {
    let id = row.id.clone();
    let (version, epoch) = (row.version, row.epoch);
    let version = |offset| version.saturating_add_signed(offset);
    let epoch = |offset| epoch.saturating_add_signed(offset);
    match verb {
        Verb::Claim {
            seen,
            owner,
            ttl,
            need,
            policy,
        } => {
            let owner = format!("owner {owner}").into();
            let request = ClaimRequest {
                grant: id,
                seen: version(seen),
                owner,
                ttl,
                need,
                policy,
                pardoned: None,
            };
            let Stamped { value, at } = store.claim(request.clone()).await.expect("claim");
            let expected: ClaimReply = row.claim(&request, at);
            assert_eq!(value, expected);
        }
        Verb::Extend { epoch: offset, ttl } => extend(store, row, epoch(offset), ttl).await,
        Verb::Commit {
            base,
            epoch: offset,
            sent_at,
            fresh,
        } => {
            let request = CommitRequest {
                grant: id,
                base: version(base),
                epoch: epoch(offset),
                sent_at: StoreTime(1_800_000_000_000 + sent_at),
                sealed: fresh.sealed,
                lifetime: fresh.lifetime,
                keep_alive: fresh.keep_alive,
                fingerprint: fresh.token.map(|token| fingerprint(name, token)),
            };
            let value = store.commit(request.clone()).await.expect("commit").value;
            let expected: CommitReply = row.commit(request);
            assert_eq!(value, expected);
        }
        Verb::Settle {
            base,
            epoch: offset,
            verdict,
        } => {
            let request = SettleRequest {
                grant: id,
                base: version(base),
                epoch: epoch(offset),
                verdict,
            };
            let Stamped { value, at } = store.settle(request.clone()).await.expect("settle");
            let expected: SettleReply = row.settle(request, at);
            assert_eq!(value, expected);
        }
        Verb::Authorize { expected, fresh } => {
            let fresh = FreshGrant {
                counted_from: None,
                sealed: fresh.sealed,
                expires_in: fresh.expires_in,
                lifetime: fresh.lifetime,
                keep_alive: fresh.keep_alive,
                fingerprint: fresh.token.map(|token| fingerprint(name, token)),
                consent: None,
            };
            let request = authorization(name, name, version(expected), fresh.clone());
            let Stamped { value, at } = store.authorize(request).await.expect("authorize");
            // A run draws from few tokens: one that was replaced comes again.
            let old = fresh.fingerprint.is_some_and(|token| {
                row.fingerprint != Some(token) && replaced.values().any(|other| *other == token)
            });
            match value {
                Authorized::Done(_, done) => {
                    assert_eq!((expected, old), (0, false));
                    row.authorize(fresh, at);
                    assert_eq!(*done, *row);
                }
                Authorized::Conflict(Conflict::Moved) => assert_ne!(expected, 0),
                Authorized::Conflict(Conflict::Replaced { grant, .. }) => {
                    assert_eq!((expected, old, grant), (0, true, id));
                }
                Authorized::Conflict(Conflict::OtherAccount(..)) => {
                    panic!("nobody's account is known")
                }
                Authorized::Conflict(Conflict::Twin(twin)) => panic!("{twin} is another's"),
            }
        }
        Verb::Reseal {
            version: offset,
            sealed,
        } => {
            let done = store
                .reseal(&id, version(offset), sealed.clone())
                .await
                .expect("reseal");
            assert_eq!(done, version(offset) == row.version);
            if done {
                row.sealed = sealed;
            }
        }
    }
}

/// The one verb that does not say at what time it happened: somewhere between two reads.
async fn extend(store: &dyn Store, row: &mut GrantRow, epoch: u64, ttl: Duration) {
    let before = store.grant(&row.id).await.expect("read").at;
    let extended = store.extend(&row.id, epoch, ttl).await.expect("extend");
    let Stamped { value, at: after } = store.grant(&row.id).await.expect("read");
    let until = value.and_then(|row| row.claim).map(|claim| claim.until);
    assert_eq!(row.extend(epoch, ttl, before), extended);
    if extended {
        let until = until.expect("what was extended exists");
        assert!(before + ttl <= until && until <= after + ttl);
        row.claim.as_mut().expect("what was extended exists").until = until;
    }
}
