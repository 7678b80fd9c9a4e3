//! Where a request goes, and whether a token may go there.

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    HeaderValue, Response, Uri,
    header::LOCATION,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokenward::{
    Token,
    endpoint::{Template, TemplateError},
    vault::Resolved,
};
use url::Url;

use super::path;
use crate::{egress::AddressRules, front::error::ApiError};

/// Where a request goes: an origin to which the token may go, and what is asked for there.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) origin: Arc<Origin>,
    pub(super) path: PathAndQuery,
}

/// A scheme, host and port to which a connection's token may go.
#[derive(Debug)]
pub(super) struct Origin {
    /// As a URL begins that leads there.
    prefix: Box<str>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// The value of the `Host` header.
    pub(super) host: HeaderValue,
}

/// What was found out about a connection's URLs, kept with the connection: the origin that the
/// last one led to. Most connections have only one.
#[derive(Debug, Default)]
struct LastOrigin(ArcSwapOption<Origin>);

impl Target {
    /// The host's name or address.
    pub(super) fn host(&self) -> &str {
        self.origin.authority.host()
    }

    /// The absolute URI.
    pub(super) fn uri(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.origin.scheme.clone());
        parts.authority = Some(self.origin.authority.clone());
        parts.path_and_query = Some(self.path.clone());
        Uri::from_parts(parts).expect("all three parts are there")
    }

    /// A reference in an answer from here as an absolute URL. `None`: it is one already, or none at all.
    pub(super) fn absolute(&self, reference: &[u8]) -> Option<HeaderValue> {
        let reference = std::str::from_utf8(reference).ok()?;
        if Url::parse(reference).is_ok() {
            return None;
        }
        let here: Url = self.uri().to_string().parse().ok()?;
        HeaderValue::from_str(here.join(reference).ok()?.as_str()).ok()
    }

    /// A target of which nobody has asked whether a token may go there.
    #[cfg(test)]
    pub(super) fn for_tests(url: &str) -> Self {
        let parts = url.parse::<Uri>().unwrap().into_parts();
        let authority = parts.authority.unwrap();
        let origin = Origin {
            prefix: "".into(),
            host: HeaderValue::from_str(authority.as_str()).unwrap(),
            scheme: parts.scheme.unwrap(),
            authority,
        };
        Self {
            origin: Arc::new(origin),
            path: parts.path_and_query.unwrap(),
        }
    }
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub(super) enum Asked<'a> {
    /// `x-apideck-downstream-url`.
    Url(Cow<'a, str>),
    /// What follows the service in the path form: path and query below the connector's base in the bytes that
    /// came, or an absolute URL.
    Below(&'a str),
}

impl Asked<'_> {
    /// Whether it can be checked without a token: an absolute URL, and a path that leads out of any base.
    fn is_plain(&self) -> bool {
        match self {
            Self::Url(url) => is_absolute(url),
            Self::Below(rest) => path::absolute(rest).is_some() || path::climbs(rest),
        }
    }
}

/// The target of what a caller asks for: as given, or relative to the connector's base. In
/// `x-apideck-downstream-url` `{setting}` places are filled from the connection's settings.
///
/// # Errors
///
/// 400 if it is not a URL, or if no token may go there.
pub(super) fn resolve(
    asked: &Asked<'_>,
    resolved: &Resolved,
    token: Option<&Token>,
    rules: &AddressRules,
) -> Result<Target, ApiError> {
    let given = match asked {
        Asked::Url(given) => fill_places(given, resolved)?,
        Asked::Below(rest) => match path::absolute(rest) {
            Some(url) => url,
            None => return below(rest, resolved, token, rules),
        },
    };
    let text = if is_absolute(&given) {
        given
    } else {
        let base = base(resolved, token)?;
        let slash = if given.starts_with('/') || given.starts_with('?') || given.is_empty() {
            ""
        } else {
            "/"
        };
        Cow::Owned(format!("{}{slash}{given}", base.trim_end_matches('/')))
    };
    let last = resolved.attached(LastOrigin::default);
    if let Some(origin) = last.and_then(|last| last.0.load_full())
        && let Some(path) = origin.path_of(&text)
    {
        return Ok(Target { origin, path });
    }
    let url = Url::parse(&text)
        .map_err(|_| ApiError::bad_header("x-apideck-downstream-url is not a URL"))?;
    let target = checked(&url, resolved, rules)?;
    if let Some(last) = last {
        last.0.store(Some(target.origin.clone()));
    }
    Ok(target)
}

/// What is below the base, to the byte.
fn below(
    rest: &str,
    resolved: &Resolved,
    token: Option<&Token>,
    rules: &AddressRules,
) -> Result<Target, ApiError> {
    if path::climbs(rest) {
        return Err(ApiError::invalid(
            "The path leads out of the connector's base URL",
        ));
    }
    let base = base(resolved, token)?;
    let base = base.trim_end_matches('/');
    let last = resolved.attached(LastOrigin::default);
    let known = last.and_then(|last| last.0.load_full());
    let known =
        known.and_then(|origin| Some((base.strip_prefix(&*origin.prefix)?.to_owned(), origin)));
    let (front, origin) = match known {
        // The prefix ends where the path begins, or another origin only begins alike.
        Some((front, origin)) if front.is_empty() || front.starts_with('/') => (front, origin),
        _ => {
            let url = Url::parse(base)
                .map_err(|_| ApiError::bad_header("the connector's base URL is not a URL"))?;
            let Target { origin, path } = checked(&url, resolved, rules)?;
            if let Some(last) = last {
                last.0.store(Some(origin.clone()));
            }
            (path.path().trim_end_matches('/').to_owned(), origin)
        }
    };
    let slash = if front.is_empty() && !rest.starts_with('/') {
        "/"
    } else {
        ""
    };
    let path = Bytes::from(format!("{front}{slash}{rest}"));
    let path = PathAndQuery::from_maybe_shared(path)
        .map_err(|_| ApiError::invalid("The path cannot be sent as a request target"))?;
    Ok(Target { origin, path })
}

/// A reference in an answer as whoever found the connection at `here` is to follow it: what leads to where a token
/// may go leads there by the gateway. `None`: as it is.
pub(super) fn told(
    reference: &[u8],
    from: &Target,
    here: &str,
    resolved: &Resolved,
    token: Option<&Token>,
    rules: &AddressRules,
) -> Option<HeaderValue> {
    let reference = std::str::from_utf8(reference).ok()?;
    let from: Url = from.uri().to_string().parse().ok()?;
    let url = from.join(reference).ok()?;
    let elsewhere = || {
        let relative = Url::parse(reference).is_err();
        relative.then(|| HeaderValue::from_str(url.as_str()).ok())?
    };
    if checked(&url, resolved, rules).is_err() {
        return elsewhere();
    }
    let base = base(resolved, token)
        .ok()
        .and_then(|base| Url::parse(&base).ok());
    let below = base.and_then(|base| {
        let front = base.as_str().trim_end_matches('/');
        let rest = url.as_str().strip_prefix(front)?;
        let ends = rest.is_empty() || rest.starts_with(['/', '?', '#']);
        (ends && path::absolute(rest).is_none()).then(|| format!("{here}{rest}"))
    });
    let text = below.unwrap_or_else(|| format!("{here}/{url}"));
    HeaderValue::from_str(&text).ok()
}

impl Origin {
    /// Different for different origins.
    pub(super) fn name(&self) -> &str {
        &self.prefix
    }

    /// What a URL asks for, if it is plain to see that it leads here, and that it says what it
    /// means: that reading it as a URL would change nothing.
    fn path_of(&self, text: &str) -> Option<PathAndQuery> {
        let rest = text.strip_prefix(&*self.prefix)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/=&+,;:@!$()*%".contains(&byte);
        // A part of a path that leads up: `.`, `..`, and either in disguise.
        let leads_up = || path.contains("/.") || path.contains("%2e") || path.contains("%2E");
        if !path.starts_with('/')
            || !path.bytes().all(plain)
            || !query.bytes().all(|byte| plain(byte) || byte == b'?')
            || leads_up()
        {
            return None;
        }
        PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(rest.as_bytes())).ok()
    }
}

/// A URL as a target, if a token may go there: its origin is on the connector's list, and it is
/// not an address that may not be reached (those pass no resolver).
pub(super) fn checked(
    url: &Url,
    resolved: &Resolved,
    rules: &AddressRules,
) -> Result<Target, ApiError> {
    if !allowed(url, resolved) {
        return Err(forbidden(url, resolved));
    }
    rules
        .check_literal(url)
        .map_err(|refused| ApiError::forbidden_host(refused.to_string()))?;
    let unusable =
        || ApiError::bad_header("x-apideck-downstream-url cannot be sent as a request target");
    // A fragment stays at home.
    let text = url.as_str().split('#').next().unwrap_or_default();
    let parts = text.parse::<Uri>().map_err(|_| unusable())?.into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
        return Err(unusable());
    };
    let origin = Origin {
        prefix: url.origin().ascii_serialization().into(),
        host: HeaderValue::from_str(authority.as_str()).map_err(|_| unusable())?,
        scheme,
        authority,
    };
    Ok(Target {
        origin: Arc::new(origin),
        path: parts
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    })
}

fn forbidden(url: &Url, resolved: &Resolved) -> ApiError {
    let hosts = &resolved.connector.api.hosts;
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let port = url.port().map(|port| format!(":{port}"));
    ApiError::forbidden_host(format!(
        "{}{} is not an allowed host of connector {}; allowed: {}",
        url.host_str().unwrap_or("the URL's host"),
        port.unwrap_or_default(),
        resolved.connector.id,
        hosts.join(", ")
    ))
}

fn base(resolved: &Resolved, token: Option<&Token>) -> Result<String, ApiError> {
    let Some(template) = &resolved.connector.api.base_url else {
        return Err(ApiError::bad_header(&format!(
            "x-apideck-downstream-url must be absolute: connector {} has no base URL",
            resolved.connector.id
        )));
    };
    fill(template, resolved, token)
}

fn fill(
    template: &Template,
    resolved: &Resolved,
    token: Option<&Token>,
) -> Result<String, ApiError> {
    template
        .fill_url_text(&resolved.context(token.map(Token::metadata)))
        .map_err(|error| match error {
            TemplateError::Missing(name) => ApiError::bad_header(&format!(
                "the base URL of connector {} needs `{name}`",
                resolved.connector.id
            )),
            TemplateError::Unfit(_) | TemplateError::NotAUrl(_) => {
                ApiError::bad_header(&format!("the connector's base URL cannot be used: {error}"))
            }
        })
}

/// Apideck's `{setting}` places. Values may not change what the rest of the URL means. Braces around anything
/// that cannot be a setting's name (`{"a":1}`) are the caller's own.
fn fill_places<'a>(given: &'a str, resolved: &Resolved) -> Result<Cow<'a, str>, ApiError> {
    if !given.contains('{') {
        return Ok(Cow::Borrowed(given));
    }
    let mut text = String::with_capacity(given.len());
    let mut rest = given;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let place = after.split_once('}').filter(|(name, _)| is_name(name));
        let Some((name, after)) = place else {
            text.push('{');
            rest = after;
            continue;
        };
        let value = resolved.settings().get(name).ok_or_else(|| {
            ApiError::bad_header(&format!(
                "x-apideck-downstream-url names `{{{name}}}`, which the connection's settings lack"
            ))
        })?;
        let leads_up = matches!(&**value, "." | "..");
        if leads_up || value.contains(['/', '?', '#', '@', ':', '\\', '%']) {
            return Err(ApiError::bad_header(&format!(
                "setting `{name}` cannot stand in a URL"
            )));
        }
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(Cow::Owned(text))
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Where a request will go, as far as can be said without its token: what is absolute is checked. `None`: the
/// token says.
///
/// # Errors
///
/// As [`resolve`].
pub(super) fn foreseen(
    asked: &Asked<'_>,
    resolved: &Resolved,
    rules: &AddressRules,
) -> Result<Option<Target>, ApiError> {
    let target = resolve(asked, resolved, None, rules);
    if asked.is_plain() {
        return target.map(Some);
    }
    Ok(target.ok())
}

fn is_absolute(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// Whether the connector's host list has the URL's origin.
fn allowed(url: &Url, resolved: &Resolved) -> bool {
    let context = resolved.context(None);
    resolved
        .connector
        .api
        .hosts
        .iter()
        .any(|host| host.matches(url, &context))
}

/// Where a redirect points, if the response is one.
pub(super) fn redirect<B>(response: &Response<B>, from: &Target) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let from: Url = from.uri().to_string().parse().ok()?;
    from.join(location).ok()
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
