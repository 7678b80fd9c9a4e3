//! The way out: which addresses may be reached, and how.
//!
//! Tokens leave only for hosts on a connector's list ([`tokenward::endpoint::HostPattern`]), and
//! those hosts must not resolve to private addresses unless the operator allows it: otherwise a
//! name that somebody else controls could point a token at this machine's neighbours.
//!
//! [`Connector`] makes every connection; clippy refuses others.

mod address;
mod connector;
mod decode;
mod dial;
mod proxy;
mod stream;
mod tls;
mod transport;

pub use address::{AddressRules, RefusedAddress};
pub use connector::{ConnectError, Connector, Destination};
pub use decode::{DecodeError, content_encoding, decode_body};
pub use dial::Unanswered;
pub use proxy::{NotAProxy, Proxies};
pub use stream::Stream;
pub use tls::{ExtraRoots, Protocols, UnusableRoots};
pub use transport::HttpTransport;
