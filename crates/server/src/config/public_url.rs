//! Where browsers and applications reach this server: what every URL of ours is made from.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use url::Url;

/// The server's URL as others see it, without a slash at its end.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl(Arc<str>);

impl PublicUrl {
    /// For a server that nobody has given a name.
    pub(crate) fn of_listener(tls: bool, address: SocketAddr) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let host = match address.ip() {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        };
        Self(format!("{scheme}://{host}:{}", address.port()).into())
    }

    /// The URL of a path, which begins with a slash.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("{error}"))?;
        let fits = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !fits {
            return Err(
                "give scheme, host and perhaps a path: https://connect.example.com".to_owned(),
            );
        }
        Ok(Self(url.as_str().trim_end_matches('/').into()))
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_the_web_and_nothing_else() {
        let url = |text: &str| text.parse::<PublicUrl>().map(|url| url.at("/x"));
        assert_eq!(url("https://c.example/"), Ok("https://c.example/x".into()));
        assert_eq!(
            url("http://c.example:80/a/"),
            Ok("http://c.example/a/x".into())
        );
        for no in [
            "",
            "c.example",
            "ftp://c.example",
            "https://u@c.example",
            "https://c.example?a",
            "https://c.example#a",
        ] {
            assert!(url(no).is_err(), "{no}");
        }
        let of = |text: &str| PublicUrl::of_listener(false, text.parse().unwrap()).at("/x");
        assert_eq!(of("127.0.0.1:80"), "http://127.0.0.1:80/x");
        assert_eq!(of("[::1]:80"), "http://[::1]:80/x");
        assert_eq!(of("0.0.0.0:8700"), "http://localhost:8700/x");
    }
}
