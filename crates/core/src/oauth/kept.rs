//! Answers that could not be read, kept as they came, so that they can be read again.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    dialect::TokenDialect,
    reply::{TokenReply, read_token_reply},
};

/// No more of a body is kept.
const LARGEST_BODY: usize = 64 * 1024;
const LONGEST_TYPE: usize = 200;

/// An answer of a token endpoint, as it came. It may hold tokens: it is sealed where it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptReply {
    status: StatusCode,
    content_type: Option<String>,
    body: Zeroizing<Vec<u8>>,
    cut: bool,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Plain {
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    body: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl KeptReply {
    /// What is worth keeping of an answer that was read as `reply`: one that may hold what a
    /// provider granted and that is nowhere else.
    pub fn of(
        reply: &TokenReply,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Self> {
        let lost = match reply {
            TokenReply::Granted(response) => response.access_token.is_none(),
            TokenReply::Unreadable { .. } | TokenReply::Misconfigured { .. } => {
                !body.trim_ascii().is_empty() && (status.is_success() || names_tokens(body))
            }
            TokenReply::Refused(_) | TokenReply::Throttled { .. } => names_tokens(body),
        };
        lost.then(|| Self {
            status,
            content_type: content_type(headers),
            body: Zeroizing::new(body[..body.len().min(LARGEST_BODY)].to_vec()),
            cut: body.len() > LARGEST_BODY,
        })
    }

    /// What is worth keeping of an answer that does not show whether it is whole.
    pub fn of_cut_off(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let why = String::new();
        let kept = Self::of(&TokenReply::Unreadable { why }, status, headers, body)?;
        Some(Self { cut: true, ..kept })
    }

    /// Reads it again, in a dialect that may know better.
    ///
    /// Of a form that was cut off the last field may be a part, and is left out. It is a grant only
    /// with both tokens: without a new refresh token the old one, which may be spent, would stay.
    pub fn read(&self, dialect: &TokenDialect, now_ms: i64) -> TokenReply {
        let headers = HeaderMap::new();
        let read = |body| read_token_reply(self.status, &headers, body, dialect, &[], now_ms);
        // What is cut off JSON is seen to be missing.
        if !self.cut || is_json(&self.body) {
            return read(&self.body);
        }
        let whole = self.body.iter().rposition(|byte| *byte == b'&');
        match read(&self.body[..whole.unwrap_or(0)]) {
            TokenReply::Granted(response)
                if response.access_token.is_some() && response.refresh_token.is_some() =>
            {
                TokenReply::Granted(response)
            }
            _ => TokenReply::Unreadable {
                why: "the provider's answer was cut off".to_owned(),
            },
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The media type, as it was sent.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The body, which may hold tokens; at most 64 KiB of it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether there was more of it.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// The plain bytes that are to be sealed.
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let mut plain = Plain {
            status: self.status.as_u16(),
            content_type: self.content_type.clone(),
            body: STANDARD.encode(&*self.body),
            cut: self.cut,
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&plain).expect("strings serialize"));
        plain.body.zeroize();
        bytes
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote; `None` if it is something else.
    pub fn from_plain(bytes: &[u8]) -> Option<Self> {
        let mut plain: Plain = serde_json::from_slice(bytes).ok()?;
        let body = STANDARD.decode(&plain.body).map(Zeroizing::new);
        plain.body.zeroize();
        Some(Self {
            status: StatusCode::from_u16(plain.status).ok()?,
            content_type: plain.content_type,
            body: body.ok()?,
            cut: plain.cut,
        })
    }
}

impl fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptReply")
            .field("status", &self.status)
            .field("content_type", &self.content_type)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.chars().take(LONGEST_TYPE).collect())
}

fn is_json(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    text.trim_ascii_start().starts_with(b"{")
}

/// Whether a field for a token seems to stand in it, in whatever spelling.
fn names_tokens(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let plain = text.replace(['_', '-', ' '], "");
    ["accesstoken", "refreshtoken"]
        .iter()
        .any(|name| plain.contains(&format!("{name}\"")) || plain.contains(&format!("{name}=")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn kept(status: u16, body: &str, dialect: &TokenDialect) -> Option<KeptReply> {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = [(header::CONTENT_TYPE, "text/odd".parse().unwrap())];
        let headers = headers.into_iter().collect();
        let reply = read_token_reply(status, &headers, body.as_bytes(), dialect, &[], 0);
        KeptReply::of(&reply, status, &headers, body.as_bytes())
    }

    #[test]
    fn what_may_hold_tokens_is_kept() {
        let dialect = TokenDialect::default();
        for (status, body, worth) in [
            (
                200,
                r#"{"data":{"access_token":"at","refresh_token":"rt"}}"#,
                true,
            ),
            (200, r#"{"accessToken":"at"}"#, true),
            (200, "<token>at</token>", true),
            (200, r#"{"access_token":"a b","refresh_token":"rt"}"#, true),
            (200, r#"{"access_token":"at","error":"warned"}"#, true),
            (502, r#"{"access_token":"at"}"#, true),
            (200, r#"{"access_token":"at"}"#, false),
            (200, " ", false),
            (502, "<html>Bad gateway</html>", false),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"refresh_token expired"}"#,
                false,
            ),
            (404, "<html>", false),
        ] {
            assert_eq!(
                kept(status, body, &dialect).is_some(),
                worth,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn of_a_form_that_was_cut_off_the_fields_that_are_whole_are_read() {
        let dialect = TokenDialect::default();
        let read = |body: &str| {
            let kept = KeptReply::of_cut_off(StatusCode::OK, &HeaderMap::new(), body.as_bytes());
            let kept = kept.expect("it is kept");
            assert!(kept.is_cut());
            match kept.read(&dialect, 0) {
                TokenReply::Granted(response) => Some((
                    response.access_token.unwrap().expose().to_owned(),
                    response.refresh_token.unwrap().expose().to_owned(),
                    response.expires_in.is_some(),
                )),
                _ => None,
            }
        };
        let whole = ("at".to_owned(), "rt".to_owned(), false);
        for tail in ["", "expires_in=36", "expires_in"] {
            let body = format!("access_token=at&refresh_token=rt&{tail}");
            assert_eq!(read(&body), Some(whole.clone()), "{tail}");
        }
        // The last field may be a part of a token, and a part of JSON is none.
        for cut in [
            "access_token=at",
            "access_token=at&refresh_token=r",
            "refresh_token=rt&access_token=a",
            "access_token=at&expires_in=3600&",
            r#"{"access_token":"at","refresh_token":"r&"#,
        ] {
            assert_eq!(read(cut), None, "{cut}");
        }
        let form = |status, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            KeptReply::of_cut_off(status, &HeaderMap::new(), body.as_bytes())
        };
        assert_eq!(form(502, "<html><p>Bad gat"), None);
        assert!(form(502, "access_token=at&ref").is_some());
    }

    #[test]
    fn a_mended_dialect_reads_what_was_kept() {
        let body = r#"{"data":{"access_token":"at","refresh_token":"rt"}}"#;
        let kept = kept(200, body, &TokenDialect::default()).unwrap();
        let kept = KeptReply::from_plain(&kept.to_plain()).unwrap();
        assert_eq!((kept.body(), kept.is_cut()), (body.as_bytes(), false));
        assert_eq!(kept.content_type(), Some("text/odd"));
        let mended = TokenDialect {
            tokens_at: Some("/data".into()),
            ..TokenDialect::default()
        };
        match kept.read(&mended, 0) {
            TokenReply::Granted(response) => {
                assert_eq!(response.refresh_token, Some(Secret::new("rt")));
            }
            other => panic!("{other:?}"),
        }
        assert!(!format!("{kept:?}").contains("rt\""));
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
        let long = self::kept(200, &long, &mended).unwrap();
        assert_eq!((long.body().len(), long.is_cut()), (LARGEST_BODY, true));
    }
}
