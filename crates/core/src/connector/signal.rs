//! How an API says that a token has expired, or that something else is wrong.

use serde::Deserialize;
use serde_json::Value;

/// One way to read an error reply.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// The status that it is about.
    pub status: u16,
    /// What it means.
    pub means: Meaning,
    /// A JSON pointer (RFC 6901) into the body; absent: the body's text.
    #[serde(default)]
    pub pointer: Option<String>,
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

impl Signal {
    fn matches(&self, status: u16, text: &str, json: Option<&Value>) -> bool {
        if self.status != status {
            return false;
        }
        let value = match &self.pointer {
            None => Some(text),
            Some(pointer) => json
                .and_then(|json| json.pointer(pointer))
                .and_then(Value::as_str),
        };
        let Some(value) = value else { return false };
        self.starts_with
            .as_ref()
            .is_none_or(|start| value.starts_with(start))
            && self
                .contains
                .as_ref()
                .is_none_or(|part| value.contains(part))
    }
}

/// Whether any reply with this status can be about the token, so that its body is worth reading.
pub(super) fn concerns(signals: &[Signal], status: u16) -> bool {
    status == 401 || signals.iter().any(|signal| signal.status == status)
}

/// Reads an error reply: the first signal that matches; else a 401 means expired.
pub(super) fn meaning(signals: &[Signal], status: u16, body: &[u8]) -> Meaning {
    let text = String::from_utf8_lossy(body);
    let json = serde_json::from_slice(body).ok();
    signals
        .iter()
        .find(|signal| signal.matches(status, &text, json.as_ref()))
        .map_or(
            if status == 401 {
                Meaning::Expired
            } else {
                Meaning::NotExpired
            },
            |signal| signal.means,
        )
}

impl super::Api {
    /// Whether a reply with this status can be about the token, so that its body is worth reading.
    pub fn concerns_token(&self, status: u16) -> bool {
        concerns(&self.signals, status)
    }

    /// What an error reply means for the token.
    pub fn meaning(&self, status: u16, body: &[u8]) -> Meaning {
        meaning(&self.signals, status, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_counts() {
        let signals = [
            Signal {
                status: 401,
                means: Meaning::NotExpired,
                pointer: Some("/Detail".into()),
                starts_with: Some("AuthorizationUnsuccessful".into()),
                contains: None,
            },
            Signal {
                status: 403,
                means: Meaning::Expired,
                pointer: None,
                starts_with: None,
                contains: Some("expired".into()),
            },
        ];
        assert_eq!(
            meaning(&signals, 401, br#"{"Detail":"AuthorizationUnsuccessful"}"#),
            Meaning::NotExpired
        );
        assert_eq!(
            meaning(&signals, 401, br#"{"Detail":"TokenExpired: x"}"#),
            Meaning::Expired
        );
        assert_eq!(meaning(&signals, 401, b"\xff"), Meaning::Expired);
        assert_eq!(meaning(&signals, 403, b"session expired"), Meaning::Expired);
        assert_eq!(meaning(&signals, 403, b"forbidden"), Meaning::NotExpired);
        assert!(concerns(&signals, 403) && concerns(&[], 401) && !concerns(&[], 403));
    }
}
