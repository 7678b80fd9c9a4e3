//! What the tests, the demo and the crash harness of Tokenward share. It never ships.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod crash;
pub mod sandbox;
