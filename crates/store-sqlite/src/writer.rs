//! The one thread that writes.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, TransactionBehavior};
use tokenward::store::StoreError;

use crate::{
    changes,
    job::{Fault, Job, Queue},
};

/// At most so many verbs share one transaction.
const GROUP: usize = 256;
/// Old changes are pruned once in so many groups.
const GROUPS_BETWEEN_PRUNES: u64 = 64;

/// Starts the thread. It ends when the last sender is gone and the queue is empty, and after the
/// threads that read: whoever closes the file last tidies it up, which takes the right to write.
pub(crate) fn start(connection: Connection, readers: Vec<JoinHandle<()>>) -> io::Result<Queue> {
    let (queue, jobs) = mpsc::channel();
    thread::Builder::new()
        .name("vault-writer".to_owned())
        .spawn(move || {
            let mut connection = connection;
            write(&mut connection, &jobs);
            for reader in readers {
                let _ = reader.join();
            }
        })?;
    Ok(queue)
}

fn write(connection: &mut Connection, jobs: &mpsc::Receiver<Box<dyn Job>>) {
    let mut groups = 0_u64;
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(GROUP - 1));
        let prune = groups.is_multiple_of(GROUPS_BETWEEN_PRUNES);
        groups += 1;

        let undone = commit(connection, &mut group, prune)
            .err()
            .map(StoreError::from);
        if let Some(error) = &undone {
            tracing::error!(%error, verbs = group.len(), "a group of writes was not committed");
        }
        // Only now: whoever has an answer may rely on it after a power failure.
        for job in group {
            job.answer(undone.as_ref());
        }
    }
}

/// Runs a group in one transaction. A job that fails takes back its own writes only; an error
/// here means that none of them is known to have taken effect.
fn commit(
    connection: &mut Connection,
    group: &mut [Box<dyn Job>],
    prune: bool,
) -> Result<(), Fault> {
    // IMMEDIATE: a transaction that begins as a reader cannot wait for its turn to write.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if prune {
        changes::prune(&transaction)?;
    }
    // Kept as prepared statements, because there are two for each verb.
    let say = |sql| transaction.prepare_cached(sql)?.execute([]);
    for job in group {
        say("SAVEPOINT verb")?;
        match job.run(&transaction) {
            Ok(()) => {}
            // A full disk or an I/O error ends the whole transaction, whatever SQLite was doing.
            Err(cause) if transaction.is_autocommit() => {
                return Err(Fault::Refused(format!(
                    "the transaction was rolled back: {cause}"
                )));
            }
            Err(_) => {
                say("ROLLBACK TO verb")?;
            }
        }
        say("RELEASE verb")?;
    }
    transaction.commit()?;
    Ok(())
}
