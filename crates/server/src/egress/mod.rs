//! The way out: which addresses may be reached, and how.
//!
//! Tokens leave only for hosts on a connector's list ([`tokenward::endpoint::HostPattern`]), and
//! those hosts must not resolve to private addresses unless the operator allows it: otherwise a
//! name that somebody else controls could point a token at this machine's neighbours.

mod address;
mod connect;
mod decode;
mod transport;

use std::{sync::Arc, time::Duration};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;

pub use address::AddressRules;
pub use connect::{GuardedResolver, RefusedAddress};
pub use decode::{DecodeError, content_encoding, decode_body};
pub use transport::HttpTransport;

/// The gateway's connections: to permitted addresses only, HTTP/1.1 or HTTP/2 as TLS agrees on.
pub type Connector = HttpsConnector<HttpConnector<GuardedResolver>>;

/// TLS with the operating system's roots.
///
/// A system without any (a container without `ca-certificates`) can do without TLS: the
/// configuration then trusts nobody, and every TLS handshake fails with a clear error.
pub fn tls_config() -> ClientConfig {
    // Named, because two providers in one process would make rustls panic at the first handshake.
    // Setting it twice (tests) fails harmlessly.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    ClientConfig::with_platform_verifier().unwrap_or_else(|error| {
        tracing::warn!(%error, "the system has no TLS certificates, so no https host can be reached; install the package ca-certificates");
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    })
}

/// Builds the gateway's connector.
pub fn connector(rules: &Arc<AddressRules>, tls: ClientConfig) -> Connector {
    let mut http = HttpConnector::new_with_resolver(GuardedResolver::new(rules.clone()));
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(Duration::from_secs(10)));
    http.set_keepalive(Some(Duration::from_secs(60)));
    HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(http)
}
