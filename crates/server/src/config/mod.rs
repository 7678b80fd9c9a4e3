//! A vault from command-line options, and where its rows lie.

pub mod egress;
mod keys;
pub mod open;
pub mod place;
pub mod public_url;
