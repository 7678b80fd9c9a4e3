//! Random sequences of what people and refreshes do, on PostgreSQL and on the memory store: the
//! same replies, the same rows, the same words to other replicas. Times are left out, because
//! each store has its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod scene;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use scene::{HOUR, claiming, cluster, committing, open};
use tokenward::{
    id::ConnectionKey,
    refresh::ledger::{ClaimReply, FreshGrant, GrantRow, SettleRequest, Verdict},
    store::{Authorize, Authorized, Change, Connection, ConnectionPatch, MemoryStore, Store},
    time::{StoreTime, TokioClock},
};

#[derive(Clone, Debug)]
enum Deed {
    Authorize {
        consumer: u8,
        grant: u8,
        /// Beside the version that is there.
        expected: i64,
        token: Option<u8>,
    },
    Save {
        consumer: u8,
        enabled: Option<bool>,
    },
    Link {
        consumer: u8,
        grant: u8,
    },
    Delete {
        consumer: u8,
    },
    Refresh {
        grant: u8,
        dies: bool,
    },
    FindToken {
        token: u8,
    },
    FindOwner {
        grant: u8,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let few = || 0..4_u8;
    prop_oneof![
        4 => (few(), few(), prop_oneof![4 => Just(0), 1 => -1..2_i64], option::of(0..3_u8))
            .prop_map(|(consumer, grant, expected, token)| Deed::Authorize { consumer, grant, expected, token }),
        1 => (few(), option::of(any::<bool>())).prop_map(|(consumer, enabled)| Deed::Save { consumer, enabled }),
        3 => (few(), few()).prop_map(|(consumer, grant)| Deed::Link { consumer, grant }),
        2 => few().prop_map(|consumer| Deed::Delete { consumer }),
        2 => (few(), any::<bool>()).prop_map(|(grant, dies)| Deed::Refresh { grant, dies }),
        1 => (0..3_u8).prop_map(|token| Deed::FindToken { token }),
        1 => few().prop_map(|grant| Deed::FindOwner { grant }),
    ]
}

/// The application is another one in each run, so that one database serves all of them.
struct Run<'a> {
    store: &'a dyn Store,
    application: String,
    position: u64,
}

impl Run<'_> {
    fn key(&self, consumer: u8) -> ConnectionKey {
        let consumer = format!("c{consumer}");
        ConnectionKey::new(self.application.as_str(), consumer, "accounting", "books")
    }

    fn grant(&self, grant: u8) -> String {
        format!("{} g{grant}", self.application)
    }

    /// Does it, and says all that can be seen of it.
    async fn does(&mut self, deed: &Deed) -> String {
        let reply = self.reply(deed).await;
        let told = self.store.changes(Some(self.position)).await.unwrap();
        assert!(told.gap.is_none());
        self.position = told.next;
        let mut told: Vec<String> = told.changes.iter().map(say_change).collect();
        told.sort();
        let application = self.application.as_str().into();
        let all = self.store.connections(&application, None).await.unwrap();
        let all: Vec<String> = all.iter().map(say_connection).collect();
        let mut grants = Vec::new();
        for grant in 0..4 {
            let row = self.store.grant(&self.grant(grant).as_str().into()).await;
            grants.push(row.unwrap().value.as_ref().map(say_grant));
        }
        format!("{reply}; told {told:?}; connections {all:?}; grants {grants:?}")
    }

    async fn reply(&self, deed: &Deed) -> String {
        let store = self.store;
        match *deed {
            Deed::Authorize {
                consumer,
                grant,
                expected,
                token,
            } => {
                let grant: tokenward::GrantId = self.grant(grant).as_str().into();
                let present = store.grant(&grant).await.unwrap().value;
                let version = present.map_or(0, |row| row.version);
                let expected = version.saturating_add_signed(expected);
                let request = Authorize {
                    connection: self.key(consumer),
                    held: (expected > 0).then(|| grant.clone()),
                    grant,
                    expected,
                    fresh: FreshGrant {
                        counted_from: None,
                        sealed: b"sealed".to_vec(),
                        expires_in: None,
                        lifetime: Some(HOUR),
                        keep_alive: None,
                        fingerprint: token.map(|token| [token; 32]),
                        consent: None,
                    },
                    patch: ConnectionPatch::default(),
                    account: tokenward::authorize::Account::Any,
                    attempt: None,
                };
                match store.authorize(request).await.unwrap().value {
                    Authorized::Done(connection, row) => {
                        format!("{} {}", say_connection(&connection), say_grant(&row))
                    }
                    Authorized::Conflict(why) => format!("conflict: {why:?}"),
                }
            }
            Deed::Save { consumer, enabled } => {
                let patch = ConnectionPatch {
                    enabled,
                    ..ConnectionPatch::default()
                };
                let saved = store.save_connection(&self.key(consumer), patch).await;
                say_connection(&saved.unwrap())
            }
            Deed::Link { consumer, grant } => {
                let grant = self.grant(grant).as_str().into();
                let key = self.key(consumer);
                let linked = store.link(&key, &grant, ConnectionPatch::default()).await;
                format!("{:?}", linked.unwrap().as_ref().map(say_connection))
            }
            Deed::Delete { consumer } => {
                let deleted = store.delete_connection(&self.key(consumer)).await.unwrap();
                deleted.map_or_else(String::new, |deleted| {
                    let grant = deleted.grant.as_ref().map(say_grant);
                    format!("{} {grant:?}", say_connection(&deleted.connection))
                })
            }
            Deed::Refresh { grant, dies } => self.refresh(&self.grant(grant), dies).await,
            Deed::FindToken { token } => {
                let application = self.application.as_str().into();
                let (service, token) = ("books".into(), [token; 32]);
                let found = store
                    .grant_by_fingerprint(&application, &service, &token)
                    .await;
                format!("{:?}", found.unwrap().as_ref().map(say_grant))
            }
            Deed::FindOwner { grant } => {
                let grant = self.grant(grant).as_str().into();
                let owner = store.connection_of(&grant).await.unwrap();
                format!("{}", owner.is_some())
            }
        }
    }

    async fn refresh(&self, grant: &str, dies: bool) -> String {
        let store = self.store;
        let request = claiming(grant, u64::MAX, "p");
        let reply = store.claim(request).await.unwrap().value;
        let ClaimReply::Claimed(row) = reply else {
            let name = format!("{reply:?}");
            return name.split('(').next().unwrap_or_default().to_owned();
        };
        if !dies {
            return match store.commit(committing(&row)).await.unwrap().value {
                tokenward::refresh::ledger::CommitReply::Committed { row, .. } => say_grant(&row),
                other => panic!("nobody else is at it: {other:?}"),
            };
        }
        let request = SettleRequest {
            grant: row.id.clone(),
            base: row.version,
            epoch: row.epoch,
            verdict: Verdict::Dead {
                reason: "a \0 in it".to_owned(),
            },
        };
        let settled = store.settle(request).await.unwrap().value;
        format!(
            "{}",
            matches!(
                settled,
                tokenward::refresh::ledger::SettleReply::Settled { first: true, .. }
            )
        )
    }
}

fn say_connection(connection: &Connection) -> String {
    let Connection {
        key,
        grant,
        enabled,
        ..
    } = connection;
    let grant = grant.as_ref().map(tokenward::id::GrantId::as_str);
    format!("{} {grant:?} {enabled}", key.consumer.as_str())
}

/// Everything but times of the store's clock.
fn say_grant(row: &GrantRow) -> String {
    let dead = row.standing != tokenward::refresh::ledger::Standing::Live;
    let timeless = GrantRow {
        standing: tokenward::refresh::ledger::Standing::Live,
        attempt: None,
        claim: None,
        refreshed_at: row.refreshed_at.map(|_| StoreTime(0)),
        expires_at: row.expires_at.map(|_| StoreTime(0)),
        keep_alive_at: row.keep_alive_at.map(|_| StoreTime(0)),
        ..row.clone()
    };
    format!("{timeless:?} dead {dead} claimed {}", row.claim.is_some())
}

fn say_change(change: &Change) -> String {
    match change {
        Change::Connection(key) => format!("connection {}", key.consumer.as_str()),
        other => format!("{other:?}"),
    }
}

#[test]
fn postgres_does_what_memory_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cluster = cluster(&[]);
    let postgres = runtime.block_on(open(&cluster.url()));
    let runs = AtomicU64::new(0);
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&vec(deed(), 1..30), |deeds| {
        let application = format!("app {}", runs.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let memory = MemoryStore::new(Arc::new(TokioClock::default()));
            let mut sides = Vec::new();
            for store in [&postgres as &dyn Store, &memory] {
                sides.push(Run {
                    store,
                    application: application.clone(),
                    position: store.changes(None).await.unwrap().next,
                });
            }
            for deed in &deeds {
                let there = sides[0].does(deed).await;
                let here = sides[1].does(deed).await;
                prop_assert_eq!(there, here, "{:?}", deed);
            }
            Ok(())
        })
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
