//! The proof that no interleaving, crash or fault breaks the promise. It never ships.
//!
//! [`sim`] runs whole clusters of the real engine on virtual time, from a seed.

pub mod sim;
