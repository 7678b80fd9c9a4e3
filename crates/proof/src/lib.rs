//! The proofs that no interleaving, crash or fault breaks Tokenward's promise.
//!
//! [`model`] explores every interleaving of a small cluster exhaustively. All proofs drive the
//! functions that production runs, not copies of them. See `README.md` beside this crate.

pub mod model;
