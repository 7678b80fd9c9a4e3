//! One connection out: to a permitted address, through a proxy if there is one, with TLS.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::{
    address::{AddressRules, RefusedAddress},
    dial::{Resolver, Unanswered, race},
    proxy::{Proxies, Proxy},
    stream::Stream,
    tls::{ExtraRoots, Protocols, Tls},
};

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A name or an address, an IPv6 one without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Destination {
    /// The origin of a URL; `None` if it is not an `http` or `https` one.
    pub fn of_url(url: &Url) -> Option<Self> {
        Self::new(url.scheme(), url.host_str(), url.port())
    }

    /// The origin of an absolute URI; `None` if it is not an `http` or `https` one.
    pub fn of_uri(uri: &Uri) -> Option<Self> {
        Self::new(uri.scheme_str()?, uri.host(), uri.port_u16())
    }

    fn new(scheme: &str, host: Option<&str>, port: Option<u16>) -> Option<Self> {
        let (tls, usual) = match scheme {
            "https" => (true, 443),
            "http" => (false, 80),
            _ => return None,
        };
        let host = host.filter(|host| !host.is_empty())?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        Some(Self {
            host: bare.unwrap_or(host).to_owned(),
            port: port.unwrap_or(usual),
            tls,
        })
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Host and port, as they stand in a URL.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

pub(super) fn authority(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Why there is no connection. Nothing of a request has been sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its address is not to be reached.
    #[error("{0}")]
    Refused(#[source] RefusedAddress),
    /// Its name has no address.
    #[error("the name {host} cannot be resolved: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// In the system's words.
        why: io::Error,
    },
    /// None of its addresses took the connection.
    #[error("{0}")]
    Unanswered(Unanswered),
    /// No certificate that is trusted, or no TLS.
    #[error("{0}")]
    Tls(String),
    /// A proxy is between, and did not do its part.
    #[error("the proxy {proxy} {why}")]
    Proxy {
        /// Host and port.
        proxy: String,
        /// What it did or did not.
        why: String,
    },
    /// All of it took too long.
    #[error("no connection within {} s{}", within.as_secs_f32(), Through(proxy.as_deref()))]
    TimedOut {
        /// How long was waited.
        within: Duration,
        /// The proxy that is between.
        proxy: Option<String>,
    },
    /// Not an `http` or `https` URL.
    #[error("not a URL of a host")]
    NoHost,
}

struct Through<'a>(Option<&'a str>);

impl fmt::Display for Through<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(proxy) => write!(f, " through the proxy {proxy}"),
            None => Ok(()),
        }
    }
}

/// The way out: every connection that leaves this process for a provider is made here.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Way>);

#[derive(Debug)]
struct Way {
    rules: Arc<AddressRules>,
    proxies: Proxies,
    tls: Tls,
    resolver: Resolver,
}

impl Connector {
    /// A way out with these rules.
    pub fn new(rules: AddressRules, proxies: Proxies, extra: ExtraRoots) -> Self {
        Self(Arc::new(Way {
            rules: Arc::new(rules),
            proxies,
            tls: Tls::new(extra),
            resolver: Resolver::default(),
        }))
    }

    /// Which addresses may be reached.
    pub fn rules(&self) -> &Arc<AddressRules> {
        &self.0.rules
    }

    /// Reads the trusted certificates now instead of with the first connection.
    pub fn prepare(&self) {
        self.0.tls.prepare();
    }

    /// A connection, within this time.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; nothing was sent but what makes connections.
    pub async fn connect(
        &self,
        to: &Destination,
        protocols: Protocols,
        within: Duration,
    ) -> Result<Stream, ConnectError> {
        let proxy = self.0.proxies.of(to);
        timeout(within, self.0.connect(to, protocols, proxy.as_ref()))
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::TimedOut {
                    within,
                    proxy: proxy.map(|proxy| proxy.to_string()),
                })
            })
    }
}

impl Way {
    async fn connect(
        &self,
        to: &Destination,
        protocols: Protocols,
        proxy: Option<&Proxy>,
    ) -> Result<Stream, ConnectError> {
        let Some(proxy) = proxy else {
            let stream = self.reach(Some(&self.rules), &to.host, to.port).await?;
            return self.over_tcp(to, protocols, stream).await;
        };
        let seen_by_proxy = self.as_the_proxy_sees_it(to, proxy).await?;
        // The proxy is the operator's choice: no rule is asked for its address.
        let stream = self
            .reach(None, proxy.host(), proxy.port())
            .await
            .map_err(|why| proxy.failed(format_args!("cannot be reached: {why}")))?;
        if !proxy.speaks_tls() {
            let stream = proxy.ask(stream, &seen_by_proxy).await?;
            return self.over_tcp(to, protocols, stream).await;
        }
        let outer = self
            .tls
            .shake_hands(proxy.host(), stream, Protocols::Http1)
            .await
            .map_err(|why| proxy.failed(format_args!("cannot be reached: {why}")))?;
        let outer = proxy.ask(outer, &seen_by_proxy).await?;
        if !to.tls {
            return Ok(Stream::Tls(Box::new(outer)));
        }
        let inner = self.tls.shake_hands(&to.host, outer, protocols).await;
        Ok(Stream::TlsInTls(Box::new(
            inner.map_err(ConnectError::Tls)?,
        )))
    }

    async fn over_tcp(
        &self,
        to: &Destination,
        protocols: Protocols,
        stream: TcpStream,
    ) -> Result<Stream, ConnectError> {
        if !to.tls {
            return Ok(Stream::Plain(stream));
        }
        let stream = self.tls.shake_hands(&to.host, stream, protocols).await;
        Ok(Stream::Tls(Box::new(stream.map_err(ConnectError::Tls)?)))
    }

    /// TCP to the first of a host's permitted addresses that answers. What was checked is what is
    /// connected to: the name is not asked for again.
    async fn reach(
        &self,
        rules: Option<&AddressRules>,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, ConnectError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => {
                if let Some(rules) = rules {
                    rules.check(host, address).map_err(ConnectError::Refused)?;
                }
                vec![(address, port).into()]
            }
            Err(_) => self.resolver.resolve(rules, host, port).await?,
        };
        race(addresses).await.map_err(ConnectError::Unanswered)
    }

    /// What the proxy is asked for. A name that it resolves itself cannot be checked here.
    async fn as_the_proxy_sees_it(
        &self,
        to: &Destination,
        proxy: &Proxy,
    ) -> Result<Destination, ConnectError> {
        let mut seen = to.clone();
        if let Some(address) = to.address() {
            let checked = self.rules.check(&to.host, address);
            checked.map_err(ConnectError::Refused)?;
        } else if proxy.wants_addresses() {
            let resolved = self.resolver.resolve(Some(&self.rules), &to.host, to.port);
            if let Some(address) = resolved.await?.first() {
                seen.host = address.ip().to_string();
            }
        }
        Ok(seen)
    }
}
