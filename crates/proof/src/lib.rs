//! The proofs that no interleaving, crash or fault breaks Tokenward's promise. They never ship.
//!
//! [`model`] explores every interleaving of a small cluster exhaustively; [`sim`] runs whole
//! clusters of the real engine on virtual time, from a seed. All proofs drive the functions that
//! production runs, not copies of them. See `README.md` beside this crate.

pub mod model;
pub mod sim;
