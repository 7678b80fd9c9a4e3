//! The crash harness: real `tokenward` processes on one vault, callers that never stop asking,
//! kills and stops timed by the provider's own events, faults, and a judge.
//!
//! | module | what it is |
//! | --- | --- |
//! | `run` | one run from start to verdict |
//! | [`judge`] | the verdict, pure |
//! | `world` | the vault, its connections, the command line |
//! | `fleet` | the processes: started, killed, stopped, started again |
//! | `callers` | requests through the servers, and who got what |
//! | `chaos` | when what goes wrong |
//! | `database` | a PostgreSQL under the vault, restarted and cut off |
//!
//! Knows the server as a program only: this crate does not depend on it.

mod callers;
mod chaos;
mod database;
mod disk;
mod fleet;
pub mod judge;
mod report;
mod run;
mod uses;
mod world;

pub use self::{
    callers::CallerBooks,
    chaos::ChaosBooks,
    database::{CrashStore, DatabaseBooks},
    report::Report,
    run::{CrashOptions, run},
};
