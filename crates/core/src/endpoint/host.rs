//! Where a token may go.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

use super::template::{Context, Template};

/// An allowed origin: `https://api.xero.com`, `https://*.my.salesforce.com` (one or more labels
/// in front, anchored at both ends), `http://127.0.0.1:8080`, or a template such as
/// `{client.api_url}` whose origin counts.
#[derive(Clone, PartialEq, Eq)]
pub struct HostPattern {
    text: Template,
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// In words for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = Template::parse(text)?;
        if template.names_strangers() {
            return Err(format!(
                "`{text}`: a host list may depend on the operator's `{{client.NAME}}` only"
            ));
        }
        if let Some(literal) = template.literal() {
            Origin::parse(&literal)?;
        }
        Ok(Self { text: template })
    }

    /// Whether the operator's values go into it.
    pub fn has_places(&self) -> bool {
        self.text.has_places()
    }

    /// Whether `url` is at this origin. A pattern whose values are missing matches nothing.
    pub fn matches(&self, url: &Url, context: &Context<'_>) -> bool {
        // Only the operator's values may widen the list, never the provider's or a connection's.
        let operator = Context {
            client: context.client,
            ..Context::default()
        };
        let Ok(text) = self.text.fill(&operator) else {
            return false;
        };
        Origin::parse(&text).is_ok_and(|origin| origin.matches(url))
    }
}

struct Origin {
    wildcard: bool,
    url: Url,
}

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{text}` is not an allowed host: {why}");
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it needs `https://`"))?;
        if !matches!(scheme, "http" | "https") {
            return Err(bad("the scheme must be https (or http)"));
        }
        let (wildcard, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.contains('*') {
            return Err(bad(
                "`*` may stand for the first labels only, as in `https://*.example.com`",
            ));
        }
        let url =
            Url::parse(&format!("{scheme}://{rest}")).map_err(|error| bad(&error.to_string()))?;
        if wildcard && !matches!(url.host(), Some(Host::Domain(domain)) if domain.contains('.')) {
            return Err(bad("`*.` needs a domain with at least two labels after it"));
        }
        Ok(Self { wildcard, url })
    }

    fn matches(&self, url: &Url) -> bool {
        if self.url.scheme() != url.scheme()
            || self.url.port_or_known_default() != url.port_or_known_default()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return false;
        }
        match (self.url.host_str(), url.host_str()) {
            (Some(pattern), Some(host)) if self.wildcard => host
                .strip_suffix(pattern)
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            (Some(pattern), Some(host)) => pattern == host,
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    fn allows(pattern: &str, url: &str) -> bool {
        HostPattern::parse(pattern)
            .unwrap()
            .matches(&url.parse().unwrap(), &Context::default())
    }

    #[test]
    fn exact_origins() {
        assert!(allows("https://api.xero.com", "https://api.xero.com/x?y"));
        assert!(allows("https://api.xero.com", "https://API.xero.com:443/"));
        for other in [
            "http://api.xero.com/",
            "https://api.xero.com:444/",
            "https://api.xero.com.evil.example/",
            "https://evil.example/api.xero.com",
            "https://api.xero.com@evil.example/",
            "https://user@api.xero.com/",
        ] {
            assert!(!allows("https://api.xero.com", other), "{other}");
        }
    }

    #[test]
    fn wildcards_are_anchored() {
        let pattern = "https://*.my.salesforce.com";
        assert!(allows(pattern, "https://acme.my.salesforce.com/"));
        assert!(allows(pattern, "https://acme.sandbox.my.salesforce.com/"));
        for other in [
            "https://my.salesforce.com/",
            "https://.my.salesforce.com/",
            "https://evilmy.salesforce.com/",
            "https://x.my.salesforce.com.evil.example/",
        ] {
            assert!(
                other.parse::<Url>().is_err() || !allows(pattern, other),
                "{other}"
            );
        }
    }

    #[test]
    fn refuses_patterns_that_are_too_wide() {
        for bad in [
            "*",
            "https://*",
            "https://*.com",
            "https://a.*.com",
            "api.xero.com",
            "ftp://x.y",
            "https://{settings.h}",
            "{token.instance_url}",
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn operators_widen_the_list_and_nobody_else() {
        let pattern = HostPattern::parse("{client.api_url}").unwrap();
        let values = [("api_url".to_owned(), "http://127.0.0.1:9/base".to_owned())].into();
        let url = "http://127.0.0.1:9/x".parse().unwrap();
        assert!(pattern.matches(
            &url,
            &Context {
                client: Some(&values),
                ..Context::default()
            }
        ));
        assert!(!pattern.matches(
            &url,
            &Context {
                settings: Some(&values),
                token: Some(&values),
                client: None
            }
        ));
    }

    /// Pieces of which URLs that mean to deceive are made.
    const PIECES: &[&str] = &[
        "https://",
        "http://",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "443",
        "80",
        ".",
        "..",
        "?",
        "#",
        "%2e",
        "%40",
        "\t",
        "api.xero.com",
        "api",
        "xero.com",
        "evil.example",
        "my.salesforce.com",
        "x",
        "user",
        "\u{3002}",
        "\u{ff41}",
    ];

    fn pieces() -> impl proptest::strategy::Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(PIECES), 1..10)
            .prop_map(|pieces| pieces.concat())
    }

    proptest::proptest! {
        /// A URL that is let through is at the host of the pattern, and at no other.
        #[test]
        fn what_matches_is_at_the_listed_host(front in pieces(), rest in pieces()) {
            for text in [format!("https://{front}{rest}"), format!("https://api.xero.com{rest}"), format!("{front}{rest}")] {
                let Ok(url) = text.parse::<Url>() else { continue };
                let host = url.host_str().unwrap_or_default();
                let plain = url.scheme() == "https" && url.port().is_none() && url.username().is_empty() && url.password().is_none();
                let exact = HostPattern::parse("https://api.xero.com").unwrap();
                proptest::prop_assert_eq!(exact.matches(&url, &Context::default()), plain && host == "api.xero.com", "{}", &url);
                let wide = HostPattern::parse("https://*.my.salesforce.com").unwrap();
                let front = host.strip_suffix(".my.salesforce.com");
                proptest::prop_assert_eq!(
                    wide.matches(&url, &Context::default()),
                    plain && front.is_some_and(|front| !front.is_empty()),
                    "{}", &url
                );
            }
        }

        /// No pattern makes the reader panic, and a literal one matches its own origin.
        #[test]
        fn any_pattern_is_read(text in ".{0,30}", scheme in "https?", rest in pieces()) {
            for text in [text, format!("{scheme}://{rest}")] {
                if let Ok(pattern) = HostPattern::parse(&text)
                    && !text.contains("*.") && !text.contains('{')
                    && let Ok(url) = text.parse::<Url>()
                {
                    let plain = url.username().is_empty() && url.password().is_none();
                    proptest::prop_assert_eq!(pattern.matches(&url, &Context::default()), plain, "{}", text);
                }
            }
        }
    }
}
