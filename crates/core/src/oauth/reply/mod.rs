//! Replies of the token endpoint, read.
//!
//! Four kinds, never fewer: granted, refused for good, refused for now, unreadable. What cannot be
//! read after a success status means that the provider may have rotated: the caller must treat it
//! as unknown, never as a refusal.
//!
//! Lenient in what is passed over, strict in the tokens themselves: they are checked here, before
//! anything is saved.

mod fields;
mod json;
mod lifetime;

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use self::{
    fields::{Fields, Found},
    lifetime::instant_ms,
};
use super::{dialect::TokenDialect, token_set::TokenResponse};
use crate::secret::{Secret, scrub};

pub use lifetime::parse_retry_after;

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
        retry_after: Option<std::time::Duration>,
    },
    /// Something is refused that a new authorization would not mend.
    Misconfigured {
        /// The answer, scrubbed.
        refusal: Refusal,
        /// What is refused.
        subject: Subject,
    },
    /// No telling what the provider did: 5xx, or a success that does not parse.
    Unreadable {
        /// Why, in words for a person.
        why: String,
    },
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The client: every grant of it would be refused.
    Client,
    /// The endpoint: it is not one, or something in front of it refuses.
    Endpoint,
    /// This request or its grant; others may well succeed.
    Grant,
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
    let whole = Fields::read(body);
    let inner = dialect
        .tokens_at
        .as_ref()
        .and_then(|at| whole.as_ref()?.at(at));
    // Errors may stand inside as well as outside.
    let outer_error = whole.as_ref().and_then(Fields::error_code);
    let fields = match inner {
        Some(inner) if outer_error.is_none() => Some(inner),
        _ => whole,
    };
    let refusal = refusal(status, fields.as_ref(), secrets);
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, now_ms));
    let unreadable = |what: &str| TokenReply::Unreadable {
        why: format!("the provider answered {what}"),
    };
    let not_now = refusal
        .error
        .as_ref()
        .is_some_and(|code| dialect.is_throttled(code, refusal.description.as_deref()));
    if status == StatusCode::TOO_MANY_REQUESTS
        || (status == StatusCode::SERVICE_UNAVAILABLE && (not_now || retry_after.is_some()))
    {
        return TokenReply::Throttled {
            refusal,
            retry_after,
        };
    }
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return unreadable(&refusal.to_string());
    }
    let Some(fields) = fields else {
        return if status.is_success() {
            unreadable(&format!(
                "{status} with a body that is neither JSON nor a form"
            ))
        } else {
            misconfigured(refusal, None)
        };
    };
    if let Some(code) = &refusal.error {
        return if code == "server_error" {
            unreadable(&refusal.to_string())
        } else if not_now {
            TokenReply::Throttled {
                refusal,
                retry_after,
            }
        } else if fields.clean && dialect.is_dead(code, refusal.description.as_deref()) {
            TokenReply::Refused(refusal)
        } else {
            misconfigured(refusal, Some(&fields))
        };
    }
    if !status.is_success() {
        return misconfigured(refusal, Some(&fields));
    }
    granted(&fields, dialect, now_ms).unwrap_or_else(|what| unreadable(&format!("{status} {what}")))
}

fn refusal(status: StatusCode, fields: Option<&Fields>, secrets: &[&Secret]) -> Refusal {
    let clean = |text: String| scrub(&text, secrets);
    Refusal {
        status: status.as_u16(),
        error: fields.and_then(Fields::error_code).map(clean),
        description: fields.and_then(Fields::description).map(clean),
    }
}

fn misconfigured(refusal: Refusal, fields: Option<&Fields>) -> TokenReply {
    let subject = match (refusal.error.as_deref(), refusal.status) {
        (Some("invalid_client" | "unauthorized_client" | "unsupported_grant_type"), _)
        | (None, 401) => Subject::Client,
        (Some(_), _) => Subject::Grant,
        // An answer of an API, if not in OAuth's words, to what was asked.
        (None, 400 | 422) if fields.is_some() => Subject::Grant,
        (None, _) => Subject::Endpoint,
    };
    TokenReply::Misconfigured { refusal, subject }
}

/// A success; or why there is nothing in it, in words that follow the status.
fn granted(
    fields: &Fields,
    dialect: &TokenDialect,
    now_ms: i64,
) -> Result<TokenReply, &'static str> {
    let refresh_token = match fields.refresh_token() {
        Found::Usable(token) => Some(token),
        Found::Nothing => None,
        // With the old one, which may be spent, the next refresh would end the grant.
        Found::Unusable => return Err("with a refresh token that cannot be sent"),
    };
    let access_token = match fields.access_token() {
        Found::Usable(token) => Ok(token),
        Found::Nothing => Err("without an access token"),
        Found::Unusable => Err("with an access token that no header can carry"),
    };
    let (mut notes, mut lifetimes) = (Vec::new(), lifetime::Lifetimes::of(fields, dialect, now_ms));
    let access_token = match access_token {
        Ok(token) => Some(token),
        // The old refresh token may be spent: the new one is worth saving by itself.
        Err(what) if refresh_token.is_some() => {
            notes.push(format!(
                "the provider answered {what}; its refresh token is kept"
            ));
            None
        }
        Err(what) => return Err(what),
    };
    notes.append(&mut lifetimes.notes);
    let metadata = dialect
        .metadata
        .iter()
        .filter_map(|field| Some((field.clone(), fields.text(field)?)))
        .collect();
    Ok(TokenReply::Granted(TokenResponse {
        access_token,
        refresh_token,
        expires_in: lifetimes.access,
        refresh_expires_in: lifetimes.refresh,
        scope: scopes(fields.get("scope")),
        metadata,
        notes,
    }))
}

/// The id token beside the tokens of a reply (OpenID Connect Core section 3.1.3.3). Only a login asks for
/// it; refreshes do not pay for its being looked for.
pub fn read_id_token_field(body: &[u8], dialect: &TokenDialect) -> Option<Secret> {
    let whole = Fields::read(body)?;
    let inner = dialect.tokens_at.as_ref().and_then(|at| whole.at(at));
    let found = [inner.as_ref(), Some(&whole)].into_iter().flatten();
    let mut found = found.filter_map(|fields| fields.text("id_token"));
    found.next().map(Secret::new)
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
    let fields = Fields::read(body).filter(|fields| fields.clean)?;
    Some(Introspection {
        active: fields.get("active")?.as_bool()?,
        expires_at_ms: fields.get("exp").and_then(instant_ms),
    })
}

#[cfg(test)]
mod tests;
