//! Where a link or a form may lead.

use maud::{Escaper, Render};
use std::fmt::Write as _;
use url::Url;

/// An address that a page may name: a path of our own, or somebody's page over HTTP. Never one that
/// runs something, such as `javascript:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Href(String);

impl Href {
    /// A path of this server, with its query: `/vault/authorize/...`. `None` if a browser would
    /// read anything else in it.
    pub fn own(path: &str) -> Option<Self> {
        let base = Url::parse("http://here.invalid/").ok()?;
        let stays = path.starts_with('/')
            && !path.chars().any(char::is_control)
            && base.join(path).ok()?.origin() == base.origin();
        stays.then(|| Self(path.to_owned()))
    }

    /// A page elsewhere; `None` if its scheme is none for pages, or it carries a password.
    pub fn web(url: &Url) -> Option<Self> {
        let plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none();
        plain.then(|| Self(url.as_str().to_owned()))
    }

    /// Made by us, of parts that are percent-encoded.
    pub(super) fn made(path: String) -> Self {
        Self(path)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, with another parameter in its query.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let (rest, fragment) = match self.0.split_once('#') {
            Some((rest, fragment)) => (rest, format!("#{fragment}")),
            None => (self.0.as_str(), String::new()),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs.filter(|(other, _)| other != name))
            .append_pair(name, value)
            .finish();
        Self(format!("{path}?{query}{fragment}"))
    }
}

impl Render for Href {
    fn render_to(&self, buffer: &mut String) {
        let _ = Escaper::new(buffer).write_str(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_no_path_of_ours() {
        let ours = [
            "/",
            "/vault/authorize/xero/app?state=a%20b&x=1#top",
            "/a//b",
        ];
        for path in ours {
            assert_eq!(Href::own(path).unwrap().as_str(), path);
        }
        let theirs = [
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "/\t/evil.example",
            "",
            "vault",
            "\n/x",
        ];
        for path in theirs {
            assert_eq!(Href::own(path), None, "{path:?}");
        }
    }

    #[test]
    fn only_pages_are_linked_to() {
        let web = |url: &str| Href::web(&Url::parse(url).unwrap());
        assert!(web("https://app.example/x?y=1").is_some());
        let others = [
            "javascript:alert(1)",
            "data:text/html,x",
            "https://u:p@app.example/",
            "file:///etc",
        ];
        for url in others {
            assert_eq!(web(url), None, "{url}");
        }
    }

    #[test]
    fn a_parameter_is_put_in_or_changed() {
        let here = Href::own("/vault/page?q=a%26b&lang=en#x").unwrap();
        assert_eq!(
            here.with("lang", "de").as_str(),
            "/vault/page?q=a%26b&lang=de#x"
        );
        assert_eq!(
            Href::own("/p").unwrap().with("lang", "ar").as_str(),
            "/p?lang=ar"
        );
    }
}
