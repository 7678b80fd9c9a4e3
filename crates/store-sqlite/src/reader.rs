//! The threads that read, beside the writer.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokenward::store::StoreError;

use crate::{
    job::{Fault, Job},
    lanes::Lanes,
};

/// Starts a thread for each connection. They end when the lanes are closed and empty.
pub(crate) fn start(
    connections: Vec<Connection>,
    lanes: &Arc<Lanes>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |connection| {
        let lanes = lanes.clone();
        thread::Builder::new()
            .name("vault-reader".to_owned())
            .spawn(move || read(connection, &lanes))
    };
    connections.into_iter().map(start).collect()
}

/// At most so many reads share one transaction: few enough for the other threads to have some.
const GROUP: usize = 16;

fn read(mut connection: Connection, lanes: &Lanes) {
    let mut group: Vec<Box<dyn Job>> = Vec::with_capacity(GROUP);
    while lanes.take(GROUP, &mut group) {
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
