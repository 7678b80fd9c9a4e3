//! Names to addresses, refused ones left out.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;
use url::Url;

use super::address::AddressRules;

/// A host that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is at the private address {address}, which may not be reached; the operator can allow it with --allow-private"
)]
pub struct RefusedAddress {
    host: String,
    address: IpAddr,
}

/// A resolver that leaves out refused addresses.
#[derive(Clone)]
pub struct GuardedResolver {
    rules: Arc<AddressRules>,
}

impl fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardedResolver")
    }
}

impl GuardedResolver {
    pub(super) fn new(rules: Arc<AddressRules>) -> Self {
        Self { rules }
    }
}

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let rules = self.rules.clone();
        Box::pin(async move { resolve(&rules, name.as_str(), 0).await.map(Vec::into_iter) })
    }
}

/// The permitted addresses of a host.
pub(super) async fn resolve(
    rules: &AddressRules,
    host: &str,
    port: u16,
) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let permitted: Vec<_> = all
        .iter()
        .filter(|address| rules.permits(address.ip()))
        .copied()
        .collect();
    match all.first() {
        Some(refused) if permitted.is_empty() => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            RefusedAddress {
                host: host.to_owned(),
                address: refused.ip(),
            },
        )),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{host} has no address"),
        )),
        _ => Ok(permitted),
    }
}

impl AddressRules {
    /// Checks a URL whose host is an address already: those never pass the resolver.
    ///
    /// # Errors
    ///
    /// [`RefusedAddress`].
    pub fn check_literal(&self, url: &Url) -> Result<(), RefusedAddress> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => IpAddr::V4(address),
            Some(url::Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return Ok(()),
        };
        if self.permits(address) {
            return Ok(());
        }
        Err(RefusedAddress {
            host: url.host_str().unwrap_or_default().to_owned(),
            address,
        })
    }
}
