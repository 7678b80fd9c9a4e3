//! Lifetimes and points in time, as providers write them: bounded, whatever stands there.

use std::time::Duration;

use serde_json::Value;

use super::{super::dialect::TokenDialect, fields::Fields};

/// What is longer is a mistake (milliseconds, a date), not a lifetime.
const LONGEST_S: f64 = 10.0 * 365.0 * 86_400.0;
/// A refresh token that lived shorter could not be kept alive; 0 commonly means "does not expire".
const SHORTEST_REFRESH_S: f64 = 60.0;

/// The lifetimes in a reply.
pub(super) struct Lifetimes {
    /// The access token's; `None`: it does not say, or says what cannot be.
    pub(super) access: Option<Duration>,
    /// The refresh token's.
    pub(super) refresh: Option<Duration>,
    /// What was odd, in words for a person.
    pub(super) notes: Vec<String>,
}

impl Lifetimes {
    pub(super) fn of(fields: &Fields, dialect: &TokenDialect, now_ms: i64) -> Self {
        let mut notes = Vec::new();
        let absolute = || {
            let field = dialect.expires_at_field.as_deref()?;
            let at = instant_ms(fields.get(field)?)?;
            Some(at.saturating_sub(now_ms) as f64 / 1000.0)
        };
        let said = fields.number("expires_in").or_else(absolute);
        let access = said.and_then(|seconds| {
            let lifetime = plausible(seconds);
            if lifetime.is_none() {
                notes.push(format!(
                    "the provider says that the access token lives {seconds} s, which is not believed"
                ));
            }
            lifetime
        });
        let field = dialect.refresh_expires_in_field.as_deref();
        let refresh = fields
            .number(field.unwrap_or("refresh_token_expires_in"))
            .filter(|seconds| *seconds >= SHORTEST_REFRESH_S)
            .and_then(plausible);
        Self {
            access,
            refresh,
            notes,
        }
    }
}

/// Less than nothing is nothing; more than can be is not believed.
fn plausible(seconds: f64) -> Option<Duration> {
    if seconds.is_nan() || seconds > LONGEST_S {
        return None;
    }
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// An absolute time: epoch seconds, epoch milliseconds or RFC 3339. 0 is no time.
pub(super) fn instant_ms(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(number) => number,
            Err(_) => {
                return text
                    .trim()
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .map(jiff::Timestamp::as_millisecond);
            }
        },
        _ => return None,
    };
    if !number.is_finite() || number == 0.0 {
        return None;
    }
    Some(if number.abs() < 1e11 {
        (number * 1000.0) as i64
    } else {
        number as i64
    })
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
    // All three forms of HTTP, and those of mail, which are sent as well.
    let at = match httpdate::parse_http_date(value) {
        Ok(date) => jiff::Timestamp::try_from(date).ok()?,
        Err(_) => jiff::fmt::rfc2822::parse(value).ok()?.timestamp(),
    };
    let left = at.as_millisecond().saturating_sub(now_ms).max(0);
    Some(Duration::from_millis(left as u64).min(DAY))
}
