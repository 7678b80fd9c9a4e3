//! Replies of the token endpoint, read.
//!
//! Four kinds, never fewer (DESIGN 3.4): granted, refused for good, refused for now, unreadable.
//! What cannot be read after a success status means that the provider may have rotated: the
//! caller must treat it as unknown, never as a refusal.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::{dialect::TokenDialect, token_set::TokenResponse};
use crate::secret::{Secret, scrub};

/// What a token endpoint answered.
#[derive(Clone, Debug)]
pub enum TokenReply {
    /// A token set.
    Granted(TokenResponse),
    /// The grant is refused for good: `invalid_grant` and the connector's words for it.
    Refused(Refusal),
    /// Not now: 429, 503 with `Retry-After`, `temporarily_unavailable`.
    Throttled {
        /// The answer, scrubbed.
        refusal: Refusal,
        /// The provider's wish.
        retry_after: Option<Duration>,
    },
    /// The client or the request is refused, not the grant: `invalid_client`, a 404.
    Misconfigured(Refusal),
    /// No telling what the provider did: 5xx, or a success that does not parse.
    Unreadable {
        /// Why, in words for a person.
        why: String,
    },
}

/// A refusal, scrubbed of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The OAuth error code, if there is one.
    pub error: Option<String>,
    /// The provider's words.
    pub description: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{error} (HTTP {})", self.status)?,
            None => write!(f, "HTTP {}", self.status)?,
        }
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}

/// Reads a reply of the token endpoint.
///
/// `secrets` are what the request carried: they are removed from every text that is kept.
/// `now_ms` (milliseconds since 1970) is needed for absolute expiry fields and dates in
/// `Retry-After` only.
pub fn read_token_reply(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    dialect: &TokenDialect,
    secrets: &[&Secret],
    now_ms: i64,
) -> TokenReply {
    let fields = read_fields(headers, body);
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, now_ms));
    let refusal = |fields: Option<&Map<String, Value>>| Refusal {
        status: status.as_u16(),
        error: fields
            .and_then(error_code)
            .map(|code| scrub(&code, secrets)),
        description: fields
            .and_then(|fields| {
                text(fields, "error_description").or_else(|| text(fields, "message"))
            })
            .map(|description| scrub(&description, secrets)),
    };
    if status == StatusCode::TOO_MANY_REQUESTS
        || (status == StatusCode::SERVICE_UNAVAILABLE && retry_after.is_some())
    {
        return TokenReply::Throttled {
            refusal: refusal(fields.as_ref()),
            retry_after,
        };
    }
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return TokenReply::Unreadable {
            why: format!("the provider answered {}", refusal(fields.as_ref())),
        };
    }
    let Some(fields) = fields else {
        return if status.is_success() {
            TokenReply::Unreadable {
                why: format!(
                    "the provider answered {status} with a body that is neither JSON nor a form"
                ),
            }
        } else {
            TokenReply::Misconfigured(refusal(None))
        };
    };
    let refusal = refusal(Some(&fields));
    if let Some(code) = &refusal.error {
        return if dialect.is_dead(code, refusal.description.as_deref()) {
            TokenReply::Refused(refusal)
        } else if matches!(
            code.as_str(),
            "temporarily_unavailable" | "server_error" | "slow_down"
        ) || dialect
            .throttled_errors
            .iter()
            .any(|throttled| throttled == code)
        {
            TokenReply::Throttled {
                refusal,
                retry_after,
            }
        } else {
            TokenReply::Misconfigured(refusal)
        };
    }
    if !status.is_success() {
        return TokenReply::Misconfigured(refusal);
    }
    match granted(&fields, dialect, now_ms) {
        Some(response) => TokenReply::Granted(response),
        None => TokenReply::Unreadable {
            why: format!("the provider answered {status} without an access token"),
        },
    }
}

fn granted(
    fields: &Map<String, Value>,
    dialect: &TokenDialect,
    now_ms: i64,
) -> Option<TokenResponse> {
    let access_token = text(fields, "access_token")?;
    let expires_in = number(fields, "expires_in").or_else(|| {
        let at = dialect
            .expires_at_field
            .as_deref()
            .and_then(|field| instant_ms(fields.get(field)?))?;
        Some(((at - now_ms) as f64 / 1000.0).max(0.0))
    });
    let refresh_expires_in = dialect
        .refresh_expires_in_field
        .as_deref()
        .or(Some("refresh_token_expires_in"))
        .and_then(|field| number(fields, field));
    let metadata: BTreeMap<String, String> = dialect
        .metadata
        .iter()
        .filter_map(|field| text(fields, field).map(|value| (field.clone(), value)))
        .collect();
    Some(TokenResponse {
        access_token: Secret::new(access_token),
        refresh_token: text(fields, "refresh_token").map(Secret::new),
        expires_in: expires_in.and_then(seconds),
        refresh_expires_in: refresh_expires_in.and_then(seconds),
        scope: scopes(fields.get("scope")),
        metadata,
    })
}

/// JSON or form, by looking at it: content types are wrong too often to be trusted.
fn read_fields(headers: &HeaderMap, body: &[u8]) -> Option<Map<String, Value>> {
    if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
        return Some(fields);
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value.starts_with("application/x-www-form-urlencoded")
                || value.starts_with("text/plain")
        });
    let known = |key: &str| matches!(key, "access_token" | "error");
    let fields: Map<String, Value> = form_urlencoded::parse(body)
        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
        .collect();
    (form && fields.keys().any(|key| known(key))).then_some(fields)
}

/// A non-empty string (or a number as its text).
fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    match fields.get(name)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A number, or a string that holds one.
fn number(fields: &Map<String, Value>, name: &str) -> Option<f64> {
    match fields.get(name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// At most ten years: what is longer does not expire for our purposes, and cannot overflow.
fn seconds(value: f64) -> Option<Duration> {
    const TEN_YEARS: f64 = 10.0 * 365.0 * 86_400.0;
    Duration::try_from_secs_f64(value.min(TEN_YEARS)).ok()
}

/// An absolute time: epoch seconds, epoch milliseconds or RFC 3339.
fn instant_ms(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(number) => number,
            Err(_) => {
                return text
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .map(jiff::Timestamp::as_millisecond);
            }
        },
        _ => return None,
    };
    Some(if number.abs() < 1e11 {
        (number * 1000.0) as i64
    } else {
        number as i64
    })
}

/// The error code of a body, in OAuth's form or the common others (`{"error":{"code":..}}`,
/// `{"ok":false,"error":..}`).
fn error_code(fields: &Map<String, Value>) -> Option<String> {
    match fields.get("error") {
        Some(Value::String(code)) if !code.is_empty() => Some(code.clone()),
        Some(Value::Object(inner)) => text(inner, "code")
            .or_else(|| text(inner, "type"))
            .or_else(|| Some("error".to_owned())),
        Some(Value::Bool(true)) => Some("error".to_owned()),
        _ if fields.get("ok") == Some(&Value::Bool(false)) => Some("not_ok".to_owned()),
        _ => None,
    }
}

/// A string with spaces or commas, or an array.
fn scopes(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => text
            .split([' ', ','])
            .filter(|scope| !scope.is_empty())
            .map(str::to_owned)
            .collect(),
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(|item| item.as_str())
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3): seconds (also fractions) or an HTTP date.
/// At most one day; `None` if it is neither.
pub fn parse_retry_after(value: &str, now_ms: i64) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(86_400);
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0)
            .then(|| Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or(DAY));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let left = date
        .timestamp()
        .as_millisecond()
        .saturating_sub(now_ms)
        .max(0);
    Some(Duration::from_millis(left as u64).min(DAY))
}

/// An introspection reply (RFC 7662 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// Whether the token lives.
    pub active: bool,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
}

/// Reads an introspection reply; `None` if it is not one.
pub fn read_introspection(status: StatusCode, body: &[u8]) -> Option<Introspection> {
    if !status.is_success() {
        return None;
    }
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    Some(Introspection {
        active: fields.get("active")?.as_bool()?,
        expires_at_ms: fields.get("exp").and_then(instant_ms),
    })
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
