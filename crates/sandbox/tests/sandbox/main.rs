//! The sandbox provider keeps its word: it is the judge of everything else.

#![expect(
    clippy::unwrap_used,
    reason = "clippy lets tests unwrap, but not what they share"
)]

mod api;
mod client;
mod faults;
mod flows;
mod ledger;
mod rotation;
