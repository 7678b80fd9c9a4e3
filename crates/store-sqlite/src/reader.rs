//! The threads that read, beside the writer.

use std::{
    io,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokenward::store::StoreError;

use crate::job::{Fault, Job, Queue};

/// Starts a thread for each connection. They end when the last sender is gone.
pub(crate) fn start(connections: Vec<Connection>) -> io::Result<(Queue, Vec<JoinHandle<()>>)> {
    let (queue, jobs) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let start = |connection| {
        let jobs = jobs.clone();
        thread::Builder::new()
            .name("vault-reader".to_owned())
            .spawn(move || read(connection, &jobs))
    };
    let threads = connections
        .into_iter()
        .map(start)
        .collect::<Result<_, _>>()?;
    Ok((queue, threads))
}

/// At most so many reads share one transaction: few enough for the other threads to have some.
const GROUP: usize = 16;

fn read(mut connection: Connection, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
    let mut group: Vec<Box<dyn Job>> = Vec::with_capacity(GROUP);
    loop {
        {
            // One thread waits for the next job, and the others wait for their turn to wait.
            let jobs = jobs.lock().expect("no panic while locked");
            let Ok(first) = jobs.recv() else { return };
            group.push(first);
            group.extend(jobs.try_iter().take(GROUP - 1));
        }
        if let Err(error) = snapshot(&mut connection, &mut group) {
            let failed = StoreError::from(error);
            for job in group.drain(..) {
                job.answer(Some(&failed));
            }
        }
    }
}

/// The reads of a group see one state of the file: the newest that was committed by anybody
/// before, and so before any of them was asked for. Those that are left in the group have failed.
fn snapshot(connection: &mut Connection, group: &mut Vec<Box<dyn Job>>) -> Result<(), Fault> {
    let transaction = connection.transaction()?;
    for mut job in group.drain(..) {
        // Its error, if any, goes to its caller.
        let _ = job.run(&transaction);
        job.answer(None);
    }
    transaction.finish()?;
    Ok(())
}
