//! The path form: `/proxy/{consumer}/{unified_api}/{service_id}/<path>`, for SDKs whose base URL is all that can be
//! changed. What follows the service is the path and query below the connector's base URL, in the bytes that came;
//! or an absolute URL on one of the connector's hosts.
//!
//! An SDK follows the links that it is given. Those that lead to the connector's hosts are told in the same form,
//! so that it stays on the gateway.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Uri, header::HOST};
use percent_encoding::percent_decode;

use super::rules::Direction;

/// How a request names its connection.
#[derive(Debug)]
pub(crate) enum Form<'a> {
    /// In headers.
    Headers,
    /// In its path.
    Path(PathForm<'a>),
}

impl<'a> Form<'a> {
    /// The form of a request's target. `None`: it is not the gateway's.
    pub(crate) fn of(target: &'a str) -> Option<Self> {
        let rest = target.strip_prefix("/proxy")?;
        match rest.as_bytes() {
            [] | [b'?', ..] => Some(Self::Headers),
            [b'/', ..] => PathForm::of(target).map(Self::Path),
            _ => None,
        }
    }

    /// The form of a request.
    pub(crate) fn of_uri(uri: &'a Uri) -> Option<Self> {
        Self::of(uri.path_and_query()?.as_str())
    }
}

/// A target in the path form, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct PathForm<'a> {
    consumer: Cow<'a, str>,
    unified_api: Cow<'a, str>,
    service: Cow<'a, str>,
    /// All before the rest, as it came.
    place: &'a str,
    /// Empty, or from a slash or question mark on, as it came.
    rest: &'a str,
}

impl<'a> PathForm<'a> {
    fn of(target: &'a str) -> Option<Self> {
        let path = target.split('?').next()?;
        let mut names = path.strip_prefix("/proxy/")?.splitn(4, '/');
        let (consumer, unified_api, service) = (names.next()?, names.next()?, names.next()?);
        let end = "/proxy/".len() + consumer.len() + 1 + unified_api.len() + 1 + service.len();
        let (place, rest) = target.split_at(end);
        Some(Self {
            consumer: name(consumer)?,
            unified_api: name(unified_api)?,
            service: name(service)?,
            place,
            rest,
        })
    }

    /// What it says of a direction that is otherwise in a header.
    pub(super) fn text(&self, direction: Direction) -> Option<&str> {
        match direction {
            Direction::Consumer => Some(&self.consumer),
            Direction::UnifiedApi => Some(&self.unified_api),
            Direction::Service => Some(&self.service),
            Direction::Url => Some(self.rest),
            _ => None,
        }
    }

    /// Whether a header's direction makes no sense beside it.
    pub(super) fn settles(direction: Direction) -> bool {
        match direction {
            Direction::Consumer
            | Direction::UnifiedApi
            | Direction::Service
            | Direction::Url
            | Direction::Method
            | Direction::Authorization => true,
            Direction::Key
            | Direction::Application
            | Direction::Timeout
            | Direction::FollowRedirects => false,
        }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    /// Where the caller finds this connection. `https`: callers speak TLS, unless a proxy before us says
    /// otherwise. The caller is told nothing but its own words.
    pub(super) fn here(&self, uri: &Uri, headers: &HeaderMap, https: bool) -> Option<String> {
        let said = headers.get("x-forwarded-proto").map(HeaderValue::as_bytes);
        let scheme = match said {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ if https => "https",
            _ => "http",
        };
        let host = match headers.get(HOST) {
            Some(host) => host.to_str().ok()?,
            None => uri.authority()?.as_str(),
        };
        Some(format!("{scheme}://{host}{}", self.place))
    }
}

/// A part of the path as a name.
fn name(part: &str) -> Option<Cow<'_, str>> {
    let name = percent_decode(part.as_bytes()).decode_utf8().ok()?;
    (!name.is_empty()).then_some(name)
}

/// The absolute URL that stands where a path does. Proxies that merge slashes leave it one.
pub(super) fn absolute(rest: &str) -> Option<Cow<'_, str>> {
    let url = rest.strip_prefix('/')?;
    for scheme in ["https:/", "http:/"] {
        if let Some(after) = url.strip_prefix(scheme) {
            return Some(match after.strip_prefix('/') {
                Some(_) => Cow::Borrowed(url),
                None => Cow::Owned(format!("{scheme}/{after}")),
            });
        }
    }
    None
}

/// Whether some server might read a path below a base so that it leads out of it: by `..`, in any disguise that is
/// taken off before paths are resolved somewhere.
pub(super) fn climbs(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    // Nearly all paths end here.
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    let mut path = Cow::Borrowed(path.as_bytes());
    // Somebody may decode what somebody has decoded before.
    for _ in 0..3 {
        let decoded: Cow<'_, [u8]> = percent_decode(&path).into();
        if *decoded == *path {
            break;
        }
        path = Cow::Owned(decoded.into_owned());
    }
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| {
        // Some servers take parameters off (`..;x`), some what comes after a zero.
        let name = part.split(|byte| matches!(byte, b';' | 0)).next();
        name.unwrap_or_default().trim_ascii() == b".."
    })
}

/// A `Link` header (RFC 8288 section 3) whose targets are told otherwise. `None`: none of them is.
pub(super) fn relink(
    value: &[u8],
    mut told: impl FnMut(&[u8]) -> Option<HeaderValue>,
) -> Option<HeaderValue> {
    let mut out = Vec::with_capacity(value.len());
    let mut changed = false;
    let mut quoted = false;
    let mut rest = value;
    while let [byte, after @ ..] = rest {
        match byte {
            b'\\' if quoted => {
                out.push(*byte);
                out.extend(after.first());
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
            b'"' => quoted = !quoted,
            b'<' if !quoted => {
                if let Some(end) = after.iter().position(|byte| *byte == b'>')
                    && let Some(other) = told(&after[..end])
                {
                    changed = true;
                    out.push(b'<');
                    out.extend_from_slice(other.as_bytes());
                    rest = &after[end..];
                    continue;
                }
            }
            _ => {}
        }
        out.push(*byte);
        rest = after;
    }
    changed.then(|| HeaderValue::from_bytes(&out).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str) -> Option<(String, String, String, String)> {
        match Form::of(target)? {
            Form::Headers => None,
            Form::Path(path) => Some((
                path.consumer.into(),
                path.unified_api.into(),
                path.service.into(),
                path.rest.into(),
            )),
        }
    }

    #[test]
    fn a_target_names_a_connection_and_what_is_below() {
        let is = |target, names: [&str; 4]| {
            let [a, b, c, d] = names.map(str::to_owned);
            assert_eq!(parts(target), Some((a, b, c, d)), "{target}");
        };
        is("/proxy/c/crm/s", ["c", "crm", "s", ""]);
        is("/proxy/c/crm/s/", ["c", "crm", "s", "/"]);
        is("/proxy/c/crm/s?x=/", ["c", "crm", "s", "?x=/"]);
        is(
            "/proxy/c/crm/s/a%2Fb//c?d",
            ["c", "crm", "s", "/a%2Fb//c?d"],
        );
        is("/proxy/a%2Fb%20%C3%A9/crm/s/x", ["a/b é", "crm", "s", "/x"]);
        for other in [
            "/proxy/",
            "/proxy/c",
            "/proxy/c/crm",
            "/proxy//crm/s/x",
            "/proxy/c//s/x",
            "/proxy/c/crm/?x",
            "/proxy/%ff/crm/s/",
            "/proxyc/crm/s/x",
            "/vault",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
        assert!(matches!(Form::of("/proxy"), Some(Form::Headers)));
        assert!(matches!(Form::of("/proxy?x"), Some(Form::Headers)));
        assert!(Form::of("/proxyc").is_none() && Form::of("/proxy/c/crm").is_none());
    }

    #[test]
    fn what_leads_out_of_the_base_is_seen() {
        for path in [
            "/..",
            "/a/../b",
            "/a/..",
            "/%2e%2e/a",
            "/.%2E/a",
            "/a%2f..%2fb",
            "/a%2F%2e%2e",
            "/..\\a",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/..;/a",
            "/..;x=y/a",
            "/%2e%2e;/a",
            "/%252e%252e/a",
            "/%25252e./a",
            "/..%00/a",
            "/..%20/a",
        ] {
            assert!(climbs(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/a.b/c..d/...",
            "/a?x=/../",
            "/.",
            "/a/.b",
            "/%",
            "/%zz/..a",
            "/100%25",
            "/a%2Fb",
        ] {
            assert!(!climbs(path), "{path}");
        }
    }

    #[test]
    fn an_absolute_url_may_stand_where_a_path_does() {
        assert_eq!(
            absolute("/https://a.b/c?d").as_deref(),
            Some("https://a.b/c?d")
        );
        assert_eq!(absolute("/http:/a.b/c").as_deref(), Some("http://a.b/c"));
        assert_eq!(absolute("/a/https://a.b"), None);
        assert_eq!(absolute("https://a.b"), None);
    }

    #[test]
    fn links_are_told_otherwise_one_by_one() {
        let told = |target: &[u8]| {
            let target = target.strip_prefix(b"https://api/")?;
            HeaderValue::from_bytes(&[b"gw/", target].concat()).ok()
        };
        let link = |value: &str| {
            relink(value.as_bytes(), told).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            link(r#"<https://api/x?page=2>; rel="next", <https://other/>; rel="up",<https://api/>; title="a <https://api/q> \" <https://api/r>""#).as_deref(),
            Some(r#"<gw/x?page=2>; rel="next", <https://other/>; rel="up",<gw/>; title="a <https://api/q> \" <https://api/r>""#)
        );
        for other in [
            "",
            "<https://other/>; rel=next",
            "<https://api/x",
            "\"<https://api/x>",
            "\"\\",
        ] {
            assert_eq!(link(other), None, "{other}");
        }
    }
}
