//! Where secrets may be sent: URL templates, host lists, and the checked URL that comes of both.

mod host;
mod template;

use std::fmt;

use url::Url;

pub use host::HostPattern;
pub use template::{Context, Template, TemplateError};

/// A URL that a secret may be sent to.
///
/// There are two ways to have one: a template whose result is on a host list
/// ([`Template::fill_endpoint`]), and a URL that the operator typed ([`Endpoint::from_operator`]).
/// Requests are built from it and carried to it, so the check cannot be forgotten.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

/// Why there is no endpoint to send to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The template could not be filled.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The host is not on the list.
    #[error("{origin} is not on the connector's list `oauth.hosts`")]
    Unlisted {
        /// Scheme, host and port.
        origin: String,
    },
    /// The connector has no such endpoint.
    #[error("the connector has no {0} endpoint")]
    Absent(&'static str),
}

impl Endpoint {
    /// A URL that the operator typed, or that was read from a document at such a URL.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Template`] for anything but an absolute http(s) URL without user info.
    pub fn from_operator(url: Url) -> Result<Self, EndpointError> {
        if is_plain(&url) {
            Ok(Self(url))
        } else {
            Err(TemplateError::NotAUrl(url.to_string()).into())
        }
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Template {
    /// Puts values in, and checks the result against a host list. An empty list is enough only for
    /// a template without places: its author has chosen the host.
    ///
    /// # Errors
    ///
    /// [`EndpointError`].
    pub fn fill_endpoint(
        &self,
        context: &Context<'_>,
        hosts: &[HostPattern],
    ) -> Result<Endpoint, EndpointError> {
        let url = self.fill_url(context)?;
        let author_chose = hosts.is_empty() && !self.has_places();
        if author_chose || hosts.iter().any(|host| host.matches(&url, context)) {
            return Ok(Endpoint(url));
        }
        Err(EndpointError::Unlisted {
            origin: url.origin().ascii_serialization(),
        })
    }
}

/// Whether it is an http(s) URL with a host and without user info.
fn is_plain(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn fill(template: &str, host: &str, hosts: &[&str]) -> Result<Endpoint, EndpointError> {
        let settings: BTreeMap<_, _> = [("host".to_owned(), host.to_owned())].into();
        let client = [("base".to_owned(), "https://id.example/base".to_owned())].into();
        let context = Context {
            client: Some(&client),
            settings: Some(&settings),
            token: Some(&settings),
        };
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect();
        Template::parse(template)
            .unwrap()
            .fill_endpoint(&context, &hosts)
    }

    #[test]
    fn an_endpoint_is_on_the_list_or_without_places() {
        let listed = ["https://*.acme.example", "{client.base}"];
        for (template, value, hosts, good) in [
            ("https://id.acme.example/t", "", &[][..], true),
            ("https://id.acme.example/t", "", &listed[..], true),
            ("https://id.evil.example/t", "", &listed[..], false),
            (
                "https://{settings.host}/t",
                "id.acme.example",
                &listed[..],
                true,
            ),
            (
                "https://{settings.host}/t",
                "id.evil.example",
                &listed[..],
                false,
            ),
            (
                "https://{token.host}/t",
                "id.evil.example",
                &listed[..],
                false,
            ),
            (
                "https://{settings.host}/t",
                "id.acme.example",
                &[][..],
                false,
            ),
            (
                "https://id.acme.example/{settings.host}",
                "x",
                &[][..],
                false,
            ),
            ("{client.base}/t", "", &[][..], false),
            ("{client.base}/t", "", &listed[..], true),
            ("{client.base}/t", "", &listed[..1], false),
        ] {
            let filled = fill(template, value, hosts);
            assert_eq!(
                filled.is_ok(),
                good,
                "{template} {value} {hosts:?}: {filled:?}"
            );
        }
    }

    #[test]
    fn an_operators_url_is_taken_if_it_is_one() {
        assert!(Endpoint::from_operator("https://id.example/x?y".parse().unwrap()).is_ok());
        for bad in ["ftp://id.example/", "https://user@id.example/", "data:x"] {
            assert!(
                Endpoint::from_operator(bad.parse().unwrap()).is_err(),
                "{bad}"
            );
        }
    }
}
