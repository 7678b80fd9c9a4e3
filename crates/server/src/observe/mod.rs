//! What the operator sees: metrics and logs. Neither ever holds a token.

pub(crate) mod load;
pub mod logs;
pub mod metrics;
pub(crate) mod requests;
mod sharded;
pub mod sink;

pub use metrics::Metrics;
