//! Proxies: which, for whom, and what they are asked.
//!
//! A tunnel is asked for (`CONNECT`, SOCKS5) whatever goes through it, `http` too: a proxy then sees no
//! token.

use std::{fmt, future::ready, io, sync::Arc};

use http::{HeaderValue, Uri};
use hyper_util::{
    client::{
        legacy::connect::proxy::SocksV5,
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tower::{Service as _, service_fn};

use super::connector::{ConnectError, Destination, authority};

/// A longer answer to `CONNECT` no proxy gives.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 128;

/// Which proxies there are, and who goes past them.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

/// A setting that names no proxy. What it says is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} names no proxy that can be used (--proxy none goes without one). A proxy's URL is http://, https://, \
     socks5:// or socks5h://, then user:password@ if the proxy wants that (percent-encoded), then host and port"
)]
pub struct NotAProxy(&'static str);

impl Proxies {
    /// No proxy at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// As the operator wishes (`none`, or a proxy for everything), else as the variables of the
    /// environment say, which are read as curl reads them.
    ///
    /// # Errors
    ///
    /// [`NotAProxy`].
    pub fn new(
        wish: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, NotAProxy> {
        let either = |lower: &'static str, upper: &'static str| {
            variable(lower)
                .map(|text| (lower, text))
                .or_else(|| variable(upper).map(|text| (upper, text)))
        };
        let (http, https) = match wish {
            Some("" | "none") => return Ok(Self::none()),
            Some(wish) => {
                let wish = Some(("--proxy", wish.to_owned()));
                (wish.clone(), wish)
            }
            None => {
                let all = either("all_proxy", "ALL_PROXY");
                let http = either("http_proxy", "HTTP_PROXY").or_else(|| all.clone());
                (http, either("https_proxy", "HTTPS_PROXY").or(all))
            }
        };
        let checked = |setting: Option<(&'static str, String)>| match setting {
            Some((_, text)) if text.trim().is_empty() => Ok(String::new()),
            Some((name, text)) if is_usable(text.trim()) => {
                Ok(text.trim().to_owned()).inspect(|_| {
                    tracing::debug!(setting = name, "a proxy is used");
                })
            }
            Some((name, _)) => Err(NotAProxy(name)),
            None => Ok(String::new()),
        };
        let (http, https) = (checked(http)?, checked(https)?);
        if http.is_empty() && https.is_empty() {
            return Ok(Self::none());
        }
        let past =
            either("no_proxy", "NO_PROXY").map_or_else(String::new, |(_, text)| plain(&text));
        let matcher = Matcher::builder().http(http).https(https).no(past);
        Ok(Self(Some(Arc::new(matcher.build()))))
    }

    /// The proxy on the way to a destination. This machine itself is never behind one.
    pub(super) fn of(&self, to: &Destination) -> Option<Proxy> {
        let matcher = self.0.as_ref()?;
        let name = to.host.trim_end_matches('.');
        let here = match to.address() {
            Some(address) => address.to_canonical().is_loopback(),
            None => {
                let name = name.to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        };
        if here {
            return None;
        }
        let scheme = if to.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}/", authority(name, to.port));
        matcher.intercept(&uri.parse().ok()?).map(Proxy)
    }
}

fn is_usable(text: &str) -> bool {
    let probe = Uri::from_static("https://probe/");
    let matcher = Matcher::builder().https(text).build();
    let Some(proxy) = matcher.intercept(&probe) else {
        return false;
    };
    let (scheme, host) = (proxy.uri().scheme_str(), proxy.uri().host());
    let authority = proxy.uri().authority().map_or("", |all| all.as_str());
    matches!(scheme, Some("http" | "https" | "socks5" | "socks5h"))
        && host.is_some_and(|host| {
            // A port that is none stands there all the same.
            !host.is_empty() && (authority == host || proxy.uri().port_u16().is_some())
        })
}

/// `NO_PROXY` with commas only, and without what is written for other programs' sake: `*.` before a
/// suffix, a dot at the end.
fn plain(text: &str) -> String {
    let entries = text
        .split([',', ' ', '\t'])
        .map(|entry| entry.trim_end_matches('.'))
        .map(|entry| {
            entry
                .strip_prefix('*')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(entry)
        })
        .map(|entry| entry.trim_start_matches('[').trim_end_matches(']'));
    entries.collect::<Vec<_>>().join(",")
}

/// A proxy. Its credentials are in no `Debug` and no `Display`.
#[derive(Clone, Debug)]
pub(super) struct Proxy(Intercept);

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(self.host(), self.port()))
    }
}

impl Proxy {
    fn scheme(&self) -> &str {
        self.0.uri().scheme_str().unwrap_or("http")
    }

    pub(super) fn host(&self) -> &str {
        let host = self.0.uri().host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        let usual = match self.scheme() {
            "http" => 80,
            "https" => 443,
            _ => 1080,
        };
        self.0.uri().port_u16().unwrap_or(usual)
    }

    pub(super) fn speaks_tls(&self) -> bool {
        self.scheme() == "https"
    }

    /// Whether names are resolved here, as curl does for `socks5` and not for `socks5h`.
    pub(super) fn wants_addresses(&self) -> bool {
        self.scheme() == "socks5"
    }

    pub(super) fn failed(&self, why: impl fmt::Display) -> ConnectError {
        ConnectError::Proxy {
            proxy: self.to_string(),
            why: why.to_string(),
        }
    }

    /// Has the proxy connect this stream to a destination.
    pub(super) async fn ask<S>(&self, stream: S, to: &Destination) -> Result<S, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let asked = match self.scheme() {
            "http" | "https" => connect(stream, to, self.0.basic_auth()).await,
            _ => socks(stream, to, &self.0).await,
        };
        asked.map_err(|why| self.failed(why))
    }
}

/// `CONNECT` (RFC 9110 9.3.6).
async fn connect<S>(
    mut stream: S,
    to: &Destination,
    credentials: Option<&HeaderValue>,
) -> Result<S, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let target = to.authority();
    let broken = |why: io::Error| format!("did not answer: {why}");
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(credentials) = credentials {
        request.extend(b"Proxy-Authorization: ");
        request.extend(credentials.as_bytes());
        request.extend(b"\r\n");
    }
    request.extend(b"\r\n");
    stream.write_all(&request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;

    let mut head = Vec::new();
    loop {
        let status = match status(&head)? {
            None if head.len() > LONGEST_HEAD => {
                return Err("answered with a head that does not end".to_owned());
            }
            None => {
                if stream.read_buf(&mut head).await.map_err(broken)? == 0 {
                    return Err("closed the connection without an answer".to_owned());
                }
                continue;
            }
            Some((100..200, length)) => {
                head.drain(..length);
                continue;
            }
            // The other end of the tunnel waits for us to speak first.
            Some((200..300, length)) if head.len() > length => {
                return Err("sent bytes of its own into the tunnel".to_owned());
            }
            Some((200..300, _)) => return Ok(stream),
            Some((status, _)) => status,
        };
        return Err(match status {
            407 if credentials.is_some() => {
                "refused the user and password of its URL (HTTP 407)".to_owned()
            }
            407 => "wants a user and a password (HTTP 407): put them into its URL, as in \
                    http://user:password@host:port"
                .to_owned(),
            status => format!("refused to connect to {target}: HTTP {status}"),
        });
    }
}

/// The status of an answer and the length of its head, if it is whole.
fn status(head: &[u8]) -> Result<Option<(u16, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => {
            Ok(Some((response.code.unwrap_or_default(), length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(format!("does not answer in HTTP/1.1: {error}")),
    }
}

/// SOCKS5 (RFC 1928), with a password (RFC 1929) if there is one.
async fn socks<S>(stream: S, to: &Destination, proxy: &Intercept) -> Result<S, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let target: Uri = to
        .authority()
        .parse()
        .map_err(|_| format!("cannot be asked for {}", to.host))?;
    let mut stream = Some(TokioIo::new(stream));
    let there = service_fn(move |_: Uri| {
        ready(
            stream
                .take()
                .ok_or(io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    let mut socks = SocksV5::new(proxy.uri().clone(), there);
    if let Some((user, password)) = proxy.raw_auth() {
        socks = socks.with_auth(user.to_owned(), password.to_owned());
    }
    match socks.call(target).await {
        Ok(stream) => Ok(stream.into_inner()),
        Err(error) => Err(format!("refused to connect to {}: {error}", to.authority())),
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
