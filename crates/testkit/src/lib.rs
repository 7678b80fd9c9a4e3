//! For development only: the conformance suite of stores and the crash harness, beside the sandbox that
//! they run on.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod crash;

pub use tokenward_sandbox::{self as sandbox, Signal, postgres, signal};
