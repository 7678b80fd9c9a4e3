//! A vault from command-line options, and where its rows lie.

pub mod open;
pub mod place;
