//! Owners that refresh without end, and what is there afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokenward::{
    refresh::ledger::{ClaimReply, CommitReply},
    store::prelude::*,
};
use tokenward_store_postgres::PostgresStore;

use super::{claiming, committing};

/// What an owner was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Versions that it has committed.
    pub(crate) committed: Vec<u64>,
    /// Versions that it committed without an answer, if nobody else did: when it asked again,
    /// others had gone on.
    pub(crate) unsure: Vec<u64>,
}

/// Refreshes without end, whatever the store says, as a fleet of replicas would.
pub(crate) async fn refresh_until(
    store: Arc<PostgresStore>,
    grant: String,
    owner: String,
    stop: Arc<AtomicBool>,
) -> Told {
    let (mut seen, mut told) = (1, Told::default());
    while !stop.load(Ordering::Relaxed) {
        let Ok(claimed) = store.claim(claiming(&grant, seen, &owner)).await else {
            continue;
        };
        match claimed.value {
            ClaimReply::Claimed(row) => {
                // What was granted is committed, however often it takes.
                let reply = loop {
                    match store.commit(committing(&row)).await {
                        Ok(reply) => break reply.value,
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                };
                seen = match reply {
                    CommitReply::Committed { row: done, .. } => {
                        told.committed.push(row.version + 1);
                        done.version
                    }
                    CommitReply::Superseded(newer) => {
                        told.unsure.push(row.version + 1);
                        newer.version
                    }
                    other => panic!("unexpected: {other:?}"),
                };
            }
            ClaimReply::Newer(row) => seen = row.version,
            ClaimReply::Held(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            other => panic!("unexpected: {other:?}"),
        }
    }
    told
}

/// Every version was committed by one owner, and all that was told is there.
pub(crate) async fn judge(store: &PostgresStore, grant: &str, told: Vec<Told>) {
    let row = store.grant(&grant.into()).await.unwrap().value.unwrap();
    let mut owners = BTreeMap::<u64, (usize, usize)>::new();
    for owner in &told {
        for version in &owner.committed {
            owners.entry(*version).or_default().0 += 1;
        }
        for version in &owner.unsure {
            owners.entry(*version).or_default().1 += 1;
        }
    }
    for version in 2..=row.version {
        let (sure, unsure) = owners.remove(&version).unwrap_or_default();
        assert_eq!(sure + unsure, 1, "version {version}: {told:?}");
    }
    assert!(owners.is_empty(), "told, and not there: {owners:?}");
    assert_eq!(row.sealed, format!("v{}", row.version).into_bytes());
    // One claim for each version: nobody sent in vain.
    assert_eq!((row.epoch, row.claim), (row.version - 1, None));
}
