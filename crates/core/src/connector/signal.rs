//! How an API says that a token has expired, or that something else is wrong.

use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// One way to read an error reply.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// The status that it is about.
    pub status: u16,
    /// What it means.
    pub means: Meaning,
    /// A JSON pointer (RFC 6901) into the body; a number there compares by its text.
    #[serde(default)]
    pub pointer: Option<String>,
    /// A header, in place of the body; any of its values counts.
    #[serde(default, deserialize_with = "header_name")]
    pub header: Option<HeaderName>,
    /// The value begins with this.
    #[serde(default)]
    pub starts_with: Option<String>,
    /// The value contains this.
    #[serde(default)]
    pub contains: Option<String>,
}

/// What an error reply means for the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// The access token has expired (or was revoked): a refresh may help.
    Expired,
    /// Something that no refresh cures.
    NotExpired,
}

fn header_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HeaderName>, D::Error> {
    let name = String::deserialize(deserializer)?;
    HeaderName::try_from(&name)
        .map(Some)
        .map_err(|_| D::Error::custom(format!("`{name}` is not a header name")))
}

/// An error reply.
struct Reply<'a> {
    status: u16,
    headers: &'a HeaderMap,
    text: &'a str,
    json: Option<&'a Value>,
}

impl Signal {
    fn matches(&self, reply: &Reply<'_>) -> bool {
        if self.status != reply.status {
            return false;
        }
        if let Some(name) = &self.header {
            let mut values = reply.headers.get_all(name).iter();
            return values.any(|value| self.fits(&String::from_utf8_lossy(value.as_bytes())));
        }
        match &self.pointer {
            None => self.fits(reply.text),
            Some(pointer) => match reply.json.and_then(|json| json.pointer(pointer)) {
                Some(Value::String(text)) => self.fits(text),
                Some(Value::Number(number)) => self.fits(&number.to_string()),
                Some(Value::Bool(truth)) => self.fits(if *truth { "true" } else { "false" }),
                _ => false,
            },
        }
    }

    fn fits(&self, value: &str) -> bool {
        let start = self.starts_with.as_ref();
        let part = self.contains.as_ref();
        start.is_none_or(|start| value.starts_with(start))
            && part.is_none_or(|part| value.contains(part))
    }
}

impl super::Api {
    /// Whether any reply with this status can be about the token.
    pub fn concerns_token(&self, status: u16) -> bool {
        matches!(status, 401 | 403) || self.signals.iter().any(|signal| signal.status == status)
    }

    /// What an error reply means for the token: the first signal that matches counts. Where none
    /// does, RFC 6750 section 3.1 holds: `invalid_token` is an expired token, also with 403; any
    /// other 401 is one, too, unless it names another error.
    pub fn meaning(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Meaning {
        let text = String::from_utf8_lossy(body);
        let json = serde_json::from_slice(body).ok();
        let reply = Reply {
            status,
            headers,
            text: text.trim_start_matches('\u{feff}'),
            json: json.as_ref(),
        };
        if let Some(signal) = self.signals.iter().find(|signal| signal.matches(&reply)) {
            return signal.means;
        }
        match (status, challenge_error(headers).as_deref()) {
            (401 | 403, Some("invalid_token")) => Meaning::Expired,
            (401, Some("insufficient_scope" | "invalid_request")) => Meaning::NotExpired,
            (401, _) => Meaning::Expired,
            _ => Meaning::NotExpired,
        }
    }
}

/// The `error` of a `WWW-Authenticate` challenge (RFC 6750 section 3).
fn challenge_error(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .find_map(|value| parameter(value, "error"))
}

/// A parameter of a challenge. What stands in another one's quotes is none.
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some(equals) = rest.find(['=', '"']) {
        let (front, after) = (&rest[..equals], &rest[equals + 1..]);
        if rest.as_bytes()[equals] == b'"' {
            rest = unquote(after).1;
            continue;
        }
        let key = front.trim_end().rsplit([' ', ',', '\t']).next()?;
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([' ', ',', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = behind;
    }
    None
}

/// A quoted string whose first quote is gone, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &text[at + 1..]),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::{Api, Catalogue};

    fn api(signals: &str) -> Api {
        let text = format!(
            r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[token]
url = "https://id.acme.example/token"
grant_types = ["client_credentials"]
[refresh]
rotation = "always"
replay = {{ policy = "revokes" }}
[api]
hosts = ["https://api.acme.example"]
{signals}"#
        );
        let connector = Catalogue::default().add("acme.toml", &text).unwrap();
        connector.api.clone()
    }

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let pairs = values.iter().map(|value| {
            let name = HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn first_match_counts() {
        let api = api(r#"
signals = [
    { status = 401, pointer = "/Detail", starts_with = "AuthorizationUnsuccessful", means = "not_expired" },
    { status = 403, contains = "expired", means = "expired" },
    { status = 400, pointer = "/error/code", starts_with = "190", means = "expired" },
    { status = 409, header = "X-Reason", contains = "session", means = "expired" },
]"#);
        let none = HeaderMap::new();
        let reason = headers("x-reason", &["other", "no session"]);
        for (status, headers, body, expected) in [
            (
                401,
                &none,
                r#"{"Detail":"AuthorizationUnsuccessful"}"#,
                Meaning::NotExpired,
            ),
            (
                401,
                &none,
                r#"{"Detail":"TokenExpired: x"}"#,
                Meaning::Expired,
            ),
            (401, &none, "\u{fffd}", Meaning::Expired),
            (403, &none, "session expired", Meaning::Expired),
            (403, &none, "forbidden", Meaning::NotExpired),
            (400, &none, r#"{"error":{"code":190}}"#, Meaning::Expired),
            (400, &none, r#"{"error":{"code":"190"}}"#, Meaning::Expired),
            (400, &none, r#"{"error":{"code":191}}"#, Meaning::NotExpired),
            (409, &reason, "", Meaning::Expired),
            (409, &none, "session", Meaning::NotExpired),
        ] {
            assert_eq!(
                api.meaning(status, headers, body.as_bytes()),
                expected,
                "{status} {body}"
            );
        }
        assert!(api.concerns_token(409) && api.concerns_token(401) && !api.concerns_token(404));
    }

    #[test]
    fn challenges_are_read() {
        let api = api("");
        for (status, challenges, expected) in [
            (401, &[][..], Meaning::Expired),
            (401, &["Bearer"][..], Meaning::Expired),
            (
                401,
                &["Bearer error=\"invalid_token\""][..],
                Meaning::Expired,
            ),
            (
                403,
                &["Bearer realm=\"x\", Error = invalid_token"][..],
                Meaning::Expired,
            ),
            (
                403,
                &["Basic realm=\"x\"", "Bearer error=\"invalid_token\""][..],
                Meaning::Expired,
            ),
            (
                403,
                &["Bearer error=\"insufficient_scope\""][..],
                Meaning::NotExpired,
            ),
            (
                401,
                &["Bearer error=\"insufficient_scope\", scope=\"a\""][..],
                Meaning::NotExpired,
            ),
            (
                401,
                &["Bearer error_description=\"x\", error=\"insufficient_scope\""][..],
                Meaning::NotExpired,
            ),
            // A word in somebody else's quotes.
            (
                403,
                &["Bearer realm=\"say \\\"error=invalid_token\", x=1"][..],
                Meaning::NotExpired,
            ),
            (
                403,
                &["Bearer error_description=\"error=invalid_token\""][..],
                Meaning::NotExpired,
            ),
            (403, &[][..], Meaning::NotExpired),
            (
                400,
                &["Bearer error=\"invalid_token\""][..],
                Meaning::NotExpired,
            ),
        ] {
            let headers = headers("www-authenticate", challenges);
            assert_eq!(
                api.meaning(status, &headers, b""),
                expected,
                "{status} {challenges:?}"
            );
        }
    }

    proptest::proptest! {
        /// Any challenge is read, and a word in quotes is never taken for a parameter.
        #[test]
        fn any_challenge_is_read(noise in "[ -~]{0,30}", quoted in "[ a-z=,]{0,20}") {
            let _ = parameter(&noise, "error");
            let challenge = format!("Bearer realm=\"{quoted} error=x\", a=b");
            proptest::prop_assert_eq!(parameter(&challenge, "error"), None);
        }
    }
}
