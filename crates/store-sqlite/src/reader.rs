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

fn read(mut connection: Connection, jobs: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
    loop {
        // One thread waits for the next job, and the others wait for their turn to wait.
        let next = jobs.lock().expect("no panic while locked").recv();
        let Ok(mut job) = next else { return };
        let failed = snapshot(&mut connection, job.as_mut())
            .err()
            .map(StoreError::from);
        job.answer(failed.as_ref());
    }
}

/// A job's reads see one state of the file: the newest that was committed by anybody before.
fn snapshot(connection: &mut Connection, job: &mut dyn Job) -> Result<(), Fault> {
    let transaction = connection.transaction()?;
    // Its error, if any, goes to its caller.
    let _ = job.run(&transaction);
    transaction.finish()?;
    Ok(())
}
