//! Tokenward's engine: **an OAuth token is refreshed exactly once per expiry**, however many
//! tasks, processes, machines and crashes are involved.
//!
//! The one verb that everybody calls is [`Vault::token`]. Below it:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`refresh`] | the protocol: the grant's ledger and the flight's `step`, pure, with time as data |
//! | [`authorize`] | how a connection comes to be: the authorization attempt's row and steps, pure |
//! | [`endpoint`] | where secrets may go: URL templates, host lists, checked URLs |
//! | [`oauth`] | the grammar of RFC 6749 and its relatives: requests built, replies read, bytes in, values out |
//! | [`connector`] | what is known of a provider, read from TOML |
//! | [`seal`] | envelope encryption of everything secret before it reaches a store |
//! | [`store`], [`transport`], [`spool`], [`time`] | the ports; adapters implement them |
//! | [`vault`] | the engine that drives the pure parts through the ports |
//!
//! Nothing here reads a clock or draws a random number but through [`time`].

pub mod authorize;
pub mod connector;
pub mod endpoint;
pub mod error;
pub mod id;
pub mod oauth;
pub mod observe;
pub mod refresh;
pub mod seal;
pub mod secret;
pub mod spool;
pub mod store;
mod sync;
pub mod time;
pub mod transport;
pub mod vault;

pub use error::TokenError;
pub use id::{ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId};
pub use secret::Secret;
pub use vault::{Held, Token, Vault, VaultConfig};
