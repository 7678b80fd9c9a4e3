//! A vault from command-line options, and where its rows lie.

pub mod egress;
pub(crate) mod keys;
pub mod open;
pub mod place;
