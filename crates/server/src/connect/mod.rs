//! How customers get in: their sessions, and the links that begin a login.

pub mod link;
pub mod session;
mod signed;

/// Where a login ends if the application has not said where: a page of ours.
pub const CONNECTED: &str = "/vault/connected";
