//! The refresh protocol, pure: functions of (state, event, time) without clock or I/O.
//!
//! [`ledger`] is what a store does to a grant's row, [`flight`] what a process does to get a
//! newer version of it, [`replay`] when a refresh token may be sent again, [`gate`] the limiter
//! and breaker of a token endpoint, [`schedule`] when a token counts as stale, [`distrust`] what a rejected
//! token is answered with. [`crate::vault`]
//! drives them; so do the tests, and any simulator.

pub mod distrust;
pub mod flight;
pub mod gate;
pub mod ledger;
pub mod replay;
pub mod schedule;
pub mod waiting;
