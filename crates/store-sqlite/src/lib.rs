//! The embedded vault: one SQLite file that several processes may share.
//!
//! Every verb of the protocol is one write transaction: read the row, apply the pure function of
//! [`GrantRow`](tokenward::refresh::ledger::GrantRow), write the row back. SQLite lets one
//! process write at a time, so that a claim in one process excludes the others.
//!
//! One thread writes. It takes what has queued up, runs it in one transaction, and answers only
//! after that is on disk (WAL, `synchronous=FULL`): the price of a flush is shared by everybody
//! who waits at the moment. Two threads read, beside the writer and without waiting for it.
//!
//! The file must be on a local disk: WAL needs shared memory between the processes.

mod attempts;
mod changes;
mod connections;
mod consumers;
mod grants;
mod job;
mod lanes;
mod migrate;
mod moving;
mod open;
mod reader;
mod rows;
mod store;
mod tenants;
mod unread;
mod writer;

pub use open::{OpenError, SqliteStore};
