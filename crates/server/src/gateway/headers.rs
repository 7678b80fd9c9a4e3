//! Which headers tell us what to do, which go on, and which are added.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use tokenward::{Token, vault::Resolved};

use crate::api::{ApiError, text};

const PREFIX: &str = "x-apideck-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const DOWNSTREAM_ERROR: HeaderName = HeaderName::from_static("x-apideck-downstream-error");

/// No request may ask for more.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// What the caller's `x-apideck-*` headers ask for.
#[derive(Debug)]
pub(super) struct Directions {
    pub(super) service: Option<String>,
    pub(super) unified_api: Option<String>,
    pub(super) url: String,
    pub(super) method: Option<Method>,
    /// Sent instead of the vault's token.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) timeout: Option<Duration>,
    pub(super) follow_redirects: bool,
}

impl Directions {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let url = text(headers, "x-apideck-downstream-url")?
            .ok_or_else(|| ApiError::missing_header("x-apideck-downstream-url"))?;
        let method = text(headers, "x-apideck-downstream-method")?
            .map(|method| {
                Method::from_bytes(method.to_uppercase().as_bytes()).map_err(|_| {
                    ApiError::bad_header("x-apideck-downstream-method is not an HTTP method")
                })
            })
            .transpose()?;
        let timeout = text(headers, "x-apideck-timeout")?
            .map(|ms| {
                ms.parse()
                    .map(|ms| Duration::from_millis(ms).min(LONGEST_TIMEOUT))
                    .map_err(|_| {
                        ApiError::bad_header("x-apideck-timeout is not a number of milliseconds")
                    })
            })
            .transpose()?;
        let authorization = headers
            .get("x-apideck-downstream-authorization")
            .filter(|value| !value.is_empty())
            .map(|value| {
                let mut value = value.clone();
                value.set_sensitive(true);
                value
            });
        Ok(Self {
            service: text(headers, "x-apideck-service-id")?.map(str::to_owned),
            unified_api: text(headers, "x-apideck-unified-api")?.map(str::to_owned),
            url: url.to_owned(),
            method,
            authorization,
            timeout,
            follow_redirects: text(headers, "x-apideck-follow-redirects")? == Some("true"),
        })
    }
}

/// Removes what must not reach the API: our own headers, the caller's key, cookies, and what
/// belongs to the connection (RFC 9110 section 7.6.1).
pub(super) fn strip(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    for name in [AUTHORIZATION, CONTENT_LENGTH, HOST, COOKIE] {
        headers.remove(name);
    }
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Adds the connector's headers, such as `Xero-Tenant-Id`; the caller's own value goes first,
/// and one whose values are missing is left out.
pub(super) fn add_connector_headers(
    headers: &mut HeaderMap,
    resolved: &Resolved,
    token: Option<&Token>,
) {
    for (name, template) in &resolved.connector.api.headers {
        let context = resolved.context(token.map(Token::metadata));
        let name = HeaderName::try_from(name)
            .ok()
            .filter(|name| !headers.contains_key(name));
        let value = template
            .fill(&context)
            .ok()
            .and_then(|value| HeaderValue::try_from(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
}

/// Makes a response's headers the gateway's: without what belongs to the connection, with word
/// of whose error it is and what is left of the API's limits.
pub(super) fn finish(headers: &mut HeaderMap, status: StatusCode) {
    strip_hop_by_hop(headers);
    headers.remove(DOWNSTREAM_ERROR);
    if status.is_client_error() || status.is_server_error() {
        headers.insert(DOWNSTREAM_ERROR, HeaderValue::from_static("true"));
    }
    const LIMITS: [(&str, &[&str]); 3] = [
        (
            "x-downstream-ratelimit-limit",
            &["x-ratelimit-limit", "ratelimit-limit", "x-rate-limit-limit"],
        ),
        (
            "x-downstream-ratelimit-remaining",
            &[
                "x-ratelimit-remaining",
                "ratelimit-remaining",
                "x-rate-limit-remaining",
            ],
        ),
        (
            "x-downstream-ratelimit-reset",
            &["x-ratelimit-reset", "ratelimit-reset", "x-rate-limit-reset"],
        ),
    ];
    for (ours, theirs) in LIMITS {
        if let Some(value) = theirs.iter().find_map(|name| headers.get(*name)).cloned() {
            headers.insert(ours, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn nothing_of_ours_and_nothing_of_the_connection_goes_on() {
        let mut headers = map(&[
            ("authorization", "Bearer key"),
            ("x-apideck-app-id", "a"),
            ("x-apideck-anything", "b"),
            ("cookie", "c"),
            ("host", "gateway"),
            ("connection", "keep-alive, x-secret"),
            ("x-secret", "s"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("accept", "*/*"),
            ("x-custom", "stays"),
        ]);
        strip(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "x-custom"]);
    }

    #[test]
    fn directions_are_read_and_checked() {
        let mut headers = map(&[
            ("x-apideck-downstream-url", "/x"),
            ("x-apideck-service-id", ""),
            ("x-apideck-timeout", "1500"),
            ("x-apideck-downstream-method", "patch"),
        ]);
        let directions = Directions::read(&headers).unwrap();
        assert_eq!(directions.service, None);
        assert_eq!(directions.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(directions.method, Some(Method::PATCH));
        headers.insert("x-apideck-timeout", HeaderValue::from_static("soon"));
        assert_eq!(Directions::read(&headers).unwrap_err().status(), 400);
        assert_eq!(
            Directions::read(&HeaderMap::new()).unwrap_err().type_name(),
            "RequestHeadersValidationError"
        );
    }

    #[test]
    fn errors_and_limits_are_marked() {
        let mut headers = map(&[("x-ratelimit-remaining", "7"), ("connection", "close")]);
        finish(&mut headers, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers["x-apideck-downstream-error"], "true");
        assert_eq!(headers["x-downstream-ratelimit-remaining"], "7");
        assert!(!headers.contains_key("connection"));
    }
}
