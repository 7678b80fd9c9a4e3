//! Which headers tell us what to do, which go on, and which are added.

use std::time::Duration;

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONNECTION},
};
use tokenward::{Token, vault::Resolved};

use super::upstream::put_header;
use crate::front::{
    caller::{as_utf8, text_of},
    error::ApiError,
    request_id::REQUEST_ID,
};

pub(crate) const PREFIX: &str = "x-apideck-";
const DOWNSTREAM_ERROR: HeaderName = HeaderName::from_static("x-apideck-downstream-error");

/// No request may ask for more.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// What the caller's own headers say.
#[derive(Debug)]
pub(super) struct Directions {
    /// The API key, as it was sent.
    pub(super) key: Option<HeaderValue>,
    pub(super) application: Text,
    pub(super) consumer: Text,
    pub(super) service: Text,
    pub(super) unified_api: Text,
    pub(super) url: Text,
    pub(super) method: Option<Method>,
    /// Sent instead of the vault's token.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) timeout: Option<Duration>,
    pub(super) follow_redirects: bool,
    /// What makes no sense of it.
    wrong: Option<ApiError>,
}

/// A header's text. An empty header is as good as none (the SDKs send those).
#[derive(Debug)]
pub(super) struct Text {
    name: &'static str,
    value: Option<HeaderValue>,
}

impl Text {
    const fn named(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// The text, if there is any.
    ///
    /// # Errors
    ///
    /// 400 if it is not text.
    pub(super) fn get(&self) -> Result<Option<&str>, ApiError> {
        self.value
            .as_ref()
            .map_or(Ok(None), |value| text_of(self.name, value))
    }

    /// The text, for a log.
    pub(super) fn or_empty(&self) -> &str {
        self.get().ok().flatten().unwrap_or_default()
    }

    /// The text, which must be there.
    ///
    /// # Errors
    ///
    /// 400 if it is not.
    pub(super) fn required(&self) -> Result<&str, ApiError> {
        self.get()?
            .ok_or_else(|| ApiError::missing_header(self.name))
    }
}

impl Directions {
    /// Takes a request's headers apart, in one pass: what is for us, and what goes on to the API.
    /// Neither our own headers go on, nor the caller's key, nor cookies, nor what belongs to the
    /// connection (RFC 9110 section 7.6.1).
    pub(super) fn take(headers: HeaderMap) -> (Self, HeaderMap) {
        let mut directions = Self {
            key: None,
            application: Text::named("x-apideck-app-id"),
            consumer: Text::named("x-apideck-consumer-id"),
            service: Text::named("x-apideck-service-id"),
            unified_api: Text::named("x-apideck-unified-api"),
            url: Text::named("x-apideck-downstream-url"),
            method: None,
            authorization: None,
            timeout: None,
            follow_redirects: false,
            wrong: None,
        };
        let mut onward = HeaderMap::with_capacity(headers.len() + 2);
        let mut named = Named::default();
        let mut last = None;
        for (name, value) in headers {
            // A name is given with the first of its values only.
            let first = name.is_some();
            let Some(name) = name.or_else(|| last.clone()) else {
                continue;
            };
            last = Some(name.clone());
            if let Some(ours) = name.as_str().strip_prefix(PREFIX) {
                let followed = if first {
                    directions.follow(ours, value)
                } else {
                    Err(ApiError::header_twice(name.as_str()))
                };
                if let Err(error) = followed {
                    directions.wrong.get_or_insert(error);
                }
            } else if name == AUTHORIZATION {
                // A second one makes the key that of nobody.
                directions.key = first.then_some(value);
            } else if name == CONNECTION {
                named.note(&value);
            } else if !(is_hop_by_hop(name.as_str().as_bytes()) || stays(name.as_str().as_bytes()))
            {
                onward.append(name, value);
            }
        }
        named.remove_from(&mut onward);
        (directions, onward)
    }

    /// Whether they can be followed. To be asked when it is known who gives them.
    ///
    /// # Errors
    ///
    /// 400 if one of them makes no sense.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    /// Takes note of `x-apideck-...`.
    fn follow(&mut self, name: &str, value: HeaderValue) -> Result<(), ApiError> {
        match name {
            "app-id" => self.application.value = Some(as_utf8(value)),
            "consumer-id" => self.consumer.value = Some(as_utf8(value)),
            "service-id" => self.service.value = Some(as_utf8(value)),
            "unified-api" => self.unified_api.value = Some(as_utf8(value)),
            "downstream-url" => self.url.value = Some(as_utf8(value)),
            "downstream-method" => {
                let Some(method) = text_of("x-apideck-downstream-method", &value)? else {
                    return Ok(());
                };
                let method =
                    Method::from_bytes(method.to_uppercase().as_bytes()).map_err(|_| {
                        ApiError::bad_header("x-apideck-downstream-method is not an HTTP method")
                    })?;
                self.method = Some(method);
            }
            "downstream-authorization" if !value.is_empty() => {
                let mut value = value;
                value.set_sensitive(true);
                self.authorization = Some(value);
            }
            "timeout" => {
                let Some(ms) = text_of("x-apideck-timeout", &value)? else {
                    return Ok(());
                };
                let ms = ms.parse().map_err(|_| {
                    ApiError::bad_header("x-apideck-timeout is not a number of milliseconds")
                })?;
                self.timeout = Some(Duration::from_millis(ms).min(LONGEST_TIMEOUT));
            }
            "follow-redirects" => {
                let asked = text_of("x-apideck-follow-redirects", &value)?;
                self.follow_redirects = asked == Some("true");
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a header belongs to the connection by its own nature; others are named by `Connection`.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"te"
            | b"transfer-encoding"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"trailer"
            | b"upgrade"
    )
}

/// Whether a request's header is for the gateway alone, or is made anew.
pub(crate) fn stays(name: &[u8]) -> bool {
    matches!(name, b"content-length" | b"host" | b"cookie")
}

/// A header's name as this module compares it; one that is longer than all that it knows is empty.
pub(crate) fn lower<'a>(name: &str, room: &'a mut [u8; 32]) -> &'a [u8] {
    let Some(room) = room.get_mut(..name.len()) else {
        return b"";
    };
    room.copy_from_slice(name.as_bytes());
    room.make_ascii_lowercase();
    room
}

/// The headers that `Connection` names.
#[derive(Debug, Default)]
struct Named(Vec<HeaderName>);

impl Named {
    fn note(&mut self, value: &HeaderValue) {
        // What nearly everybody says; that header goes in any case.
        if value == "keep-alive" {
            return;
        }
        let names = value.to_str().unwrap_or_default().split(',');
        self.0
            .extend(names.filter_map(|name| name.trim().parse().ok()));
    }

    fn remove_from(self, headers: &mut HeaderMap) {
        for name in self.0 {
            headers.remove(name);
        }
    }
}

/// The connector's headers, such as `Xero-Tenant-Id`; one whose values are missing is left out.
pub(super) fn of_connector<'a>(
    resolved: &'a Resolved,
    token: Option<&'a Token>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + 'a {
    let headers = resolved.connector.api.headers.iter();
    headers.filter_map(move |(name, template)| {
        let context = resolved.context(token.map(Token::metadata));
        let value = HeaderValue::try_from(template.fill(&context).ok()?).ok()?;
        Some((HeaderName::try_from(name).ok()?, value))
    })
}

/// Adds the connector's headers; the caller's own value goes first.
pub(super) fn add_connector_headers(
    headers: &mut HeaderMap,
    resolved: &Resolved,
    token: Option<&Token>,
) {
    for (name, value) in of_connector(resolved, token) {
        headers.entry(name).or_insert(value);
    }
}

/// Writes an answer's headers as [`finish`] makes them, and `date` if they have none. `false`: they
/// need a closer look.
pub(super) fn write_finished(
    headers: &[httparse::Header<'_>],
    status: StatusCode,
    date: &[u8],
    out: &mut BytesMut,
) -> bool {
    let mut limits = [None, None, None];
    let (mut dated, mut measured) = (false, false);
    let room = &mut [0; 32];
    for header in headers {
        let name = lower(header.name, room);
        match name {
            b"connection" => {
                let plain: [&[u8]; 2] = [b"keep-alive", b"close"];
                if plain
                    .iter()
                    .any(|plain| header.value.eq_ignore_ascii_case(plain))
                {
                    continue;
                }
                return false;
            }
            b"content-length" if std::mem::replace(&mut measured, true) => return false,
            b"date" => dated = true,
            // The gateway writes its own.
            _ if LIMITS.iter().any(|ours| ours.as_bytes() == name) => return false,
            _ => {}
        }
        if is_hop_by_hop(name)
            || name == DOWNSTREAM_ERROR.as_str().as_bytes()
            || name == REQUEST_ID.as_str().as_bytes()
        {
            continue;
        }
        if let Some((which, rank)) = limit(name)
            && limits[which].is_none_or(|(best, _)| rank < best)
        {
            limits[which] = Some((rank, header.value));
        }
        put_header(out, header.name, header.value);
    }
    if !dated {
        put_header(out, "date", date);
    }
    if status.is_client_error() || status.is_server_error() {
        put_header(out, DOWNSTREAM_ERROR.as_str(), b"true");
    }
    for (name, value) in LIMITS.into_iter().zip(limits) {
        if let Some((_, value)) = value {
            put_header(out, name, value);
        }
    }
    true
}

/// Makes a response's headers the gateway's: without what belongs to the connection, with word
/// of whose error it is and what is left of the API's limits.
pub(super) fn finish(headers: &mut HeaderMap, status: StatusCode) {
    let mut connection = Vec::new();
    let mut named = Named::default();
    let mut limits = [None, None, None];
    for (name, value) in &*headers {
        if name == CONNECTION {
            named.note(value);
            connection.push(name.clone());
        } else if is_hop_by_hop(name.as_str().as_bytes()) || name == DOWNSTREAM_ERROR {
            connection.push(name.clone());
        } else if let Some((which, rank)) = limit(name.as_str().as_bytes())
            && limits[which].as_ref().is_none_or(|(best, _)| rank < *best)
        {
            limits[which] = Some((rank, value.clone()));
        }
    }
    for name in connection {
        headers.remove(name);
    }
    named.remove_from(headers);
    if status.is_client_error() || status.is_server_error() {
        headers.insert(DOWNSTREAM_ERROR, HeaderValue::from_static("true"));
    }
    for (name, value) in LIMITS.into_iter().zip(limits) {
        if let Some((_, value)) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

const LIMITS: [&str; 3] = [
    "x-downstream-ratelimit-limit",
    "x-downstream-ratelimit-remaining",
    "x-downstream-ratelimit-reset",
];

/// Which of [`LIMITS`] a header of the API stands for, and how far behind other spellings.
fn limit(name: &[u8]) -> Option<(usize, usize)> {
    let spellings = [&b"x-ratelimit-"[..], b"ratelimit-", b"x-rate-limit-"];
    let (rank, what) = spellings
        .iter()
        .enumerate()
        .find_map(|(rank, spelling)| Some((rank, name.strip_prefix(*spelling)?)))?;
    let which = match what {
        b"limit" => 0,
        b"remaining" => 1,
        b"reset" => 2,
        _ => return None,
    };
    Some((which, rank))
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
        let headers = map(&[
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
        let (directions, onward) = Directions::take(headers);
        assert_eq!(directions.key.unwrap(), "Bearer key");
        assert_eq!(directions.application.get().unwrap(), Some("a"));
        let mut names: Vec<_> = onward.keys().map(HeaderName::as_str).collect();
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
        let (directions, _) = Directions::take(headers.clone());
        assert!(directions.check().is_ok());
        assert_eq!(directions.service.get().unwrap(), None);
        assert_eq!(directions.url.get().unwrap(), Some("/x"));
        assert_eq!(directions.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(directions.method, Some(Method::PATCH));
        headers.insert("x-apideck-timeout", HeaderValue::from_static("soon"));
        let (directions, _) = Directions::take(headers);
        assert_eq!(directions.check().unwrap_err().status(), 400);
        let (nothing, _) = Directions::take(HeaderMap::new());
        assert_eq!(
            nothing.url.required().unwrap_err().type_name(),
            "RequestHeadersValidationError"
        );
    }

    #[test]
    fn several_values_of_a_header_go_on_in_order() {
        let mut headers = map(&[("accept", "a"), ("x-b", "1")]);
        headers.append("accept", HeaderValue::from_static("b"));
        headers.append("x-b", HeaderValue::from_static("2"));
        let (_, onward) = Directions::take(headers);
        let values = |name| onward.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("accept"), ["a", "b"]);
        assert_eq!(values("x-b"), ["1", "2"]);
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
