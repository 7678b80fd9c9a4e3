//! The grammar that the OAuth endpoints share: forms, client authentication, errors.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::state::State;

/// An error of RFC 6749 section 5.2.
#[derive(Clone, Debug)]
pub(super) struct OauthError {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) description: &'static str,
}

impl OauthError {
    pub(super) fn new(code: &'static str, description: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: code.into(),
            description,
        }
    }

    pub(super) fn invalid_request(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    pub(super) fn invalid_grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description)
    }

    fn invalid_client(description: &'static str) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            ..Self::new("invalid_client", description)
        }
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.code, "error_description": self.description});
        let mut response = (self.status, NO_STORE, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = http::HeaderValue::from_static("Basic realm=\"sandbox\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// What RFC 6749 section 5.1 wants on every reply with tokens.
pub(super) const NO_STORE: [(header::HeaderName, &str); 2] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::PRAGMA, "no-cache"),
];

/// The fields of a request, and the client that it names. No Debug: they are secrets.
pub(super) struct Form {
    fields: BTreeMap<String, String>,
    client_id: String,
    client_secret: String,
}

impl Form {
    /// Parses the body of a POST and the client's credentials, which are not yet verified.
    pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, OauthError> {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OauthError::invalid_request("the body is not a form"));
        }
        let fields = fields(body)?;
        let of_body = |name: &str| fields.get(name).cloned();
        let (client_id, client_secret) = match basic(headers)? {
            Some(_) if fields.contains_key("client_secret") => {
                return Err(OauthError::invalid_request("two client authentications"));
            }
            Some((id, _)) if of_body("client_id").is_some_and(|named| named != id) => {
                return Err(OauthError::invalid_request("two client ids"));
            }
            Some(client) => client,
            None => (
                of_body("client_id").unwrap_or_default(),
                of_body("client_secret").unwrap_or_default(),
            ),
        };
        Ok(Self {
            fields,
            client_id,
            client_secret,
        })
    }

    pub(super) fn field(&self, name: &'static str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// The client, if its credentials are right. An empty secret is that of a public client.
    pub(super) fn client(&self, state: &State) -> Result<String, OauthError> {
        match state.clients.get(&self.client_id) {
            Some(client) if client.secret == self.client_secret => Ok(self.client_id.clone()),
            Some(_) => Err(OauthError::invalid_client("wrong client secret")),
            None => Err(OauthError::invalid_client("unknown client")),
        }
    }
}

/// Decodes `application/x-www-form-urlencoded`, in which a name must not come twice.
pub(super) fn fields(encoded: &[u8]) -> Result<BTreeMap<String, String>, OauthError> {
    let mut fields = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(encoded) {
        if fields
            .insert(name.into_owned(), value.into_owned())
            .is_some()
        {
            return Err(OauthError::invalid_request("a parameter came twice"));
        }
    }
    Ok(fields)
}

/// The credentials of `Authorization: Basic`, form-urlencoded inside (RFC 6749 section 2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, OauthError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let decode = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (id, secret) = pair.split_once(':')?;
        Some((urldecode(id)?, urldecode(secret)?))
    };
    match decode() {
        Some(client) => Ok(Some(client)),
        None => Err(OauthError::invalid_client("cannot read the authorization")),
    }
}

/// Decodes one form-urlencoded value. What is not strictly encoded is refused, as strict
/// providers do, so that a client which forgets to encode is found out.
fn urldecode(text: &str) -> Option<String> {
    if text.contains(['&', '=', ' ']) {
        return None;
    }
    let encoded = format!("v={text}");
    let (_, value) = url::form_urlencoded::parse(encoded.as_bytes()).next()?;
    Some(value.into_owned())
}
