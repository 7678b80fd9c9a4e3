//! What the tests, the demo and the crash harness of Tokenward share. It never ships.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod crash;
pub mod postgres;
pub mod sandbox;

use std::io;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Sends a signal to a process.
///
/// # Errors
///
/// What the system says: usually, that there is no such process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}
