//! What stands before the gateway and the API: the router, who calls, request ids, and the one place that
//! turns causes into answers.

pub mod caller;
pub(crate) mod connection;
pub mod error;
mod lane;
mod linger;
pub(crate) mod ops;
pub(crate) mod request_id;
pub(crate) mod router;
mod streams;
