//! `GET /authorize`: the user who always agrees.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use url::Url;

use super::{
    http::Shared,
    oauth::{self, OauthError},
    secret::random,
    state::{Code, State as Sandbox},
};

/// RFC 6749 recommends ten minutes at most; providers give about one.
const CODE_TTL: Duration = Duration::from_secs(60);

pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let mut fields = match oauth::fields(query.unwrap_or_default().as_bytes()) {
        Ok(fields) => fields,
        Err(error) => return error.into_response(),
    };
    let require_pkce = shared.config.require_pkce;
    shared.change(|sandbox, now| {
        let mut target = match redirect_target(sandbox, &fields) {
            Ok(target) => target,
            // RFC 6749 section 4.1.2.1: the user must not be sent to an address of unknown trust.
            Err(error) => return error.into_response(),
        };
        let state = fields.remove("state");
        match issue_code(sandbox, fields, require_pkce, now) {
            Ok(code) => target.query_pairs_mut().append_pair("code", &code),
            Err(error) => target
                .query_pairs_mut()
                .append_pair("error", &error.code)
                .append_pair("error_description", error.description),
        };
        if let Some(state) = state {
            target.query_pairs_mut().append_pair("state", &state);
        }
        (StatusCode::FOUND, [(header::LOCATION, target.to_string())]).into_response()
    })
}

fn redirect_target(
    sandbox: &Sandbox,
    fields: &BTreeMap<String, String>,
) -> Result<Url, OauthError> {
    let client = fields
        .get("client_id")
        .and_then(|id| sandbox.clients.get(id))
        .ok_or_else(|| OauthError::invalid_request("unknown client_id"))?;
    let wanted = fields
        .get("redirect_uri")
        .ok_or_else(|| OauthError::invalid_request("no redirect_uri"))?;
    let target = Url::parse(wanted)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.fragment().is_none())
        .ok_or_else(|| OauthError::invalid_request("redirect_uri is not an http(s) address"))?;
    if !client.redirect_uris.is_empty() && !client.redirect_uris.contains(wanted) {
        return Err(OauthError::invalid_request("redirect_uri not registered"));
    }
    Ok(target)
}

fn issue_code(
    sandbox: &mut Sandbox,
    mut fields: BTreeMap<String, String>,
    require_pkce: bool,
    now: Duration,
) -> Result<String, OauthError> {
    if fields.get("response_type").map(String::as_str) != Some("code") {
        return Err(OauthError::new(
            "unsupported_response_type",
            "response_type must be code",
        ));
    }
    let challenge = fields.remove("code_challenge");
    let method = fields.get("code_challenge_method").map(String::as_str);
    match &challenge {
        None if require_pkce => return Err(OauthError::invalid_request("no code_challenge")),
        Some(_) if method != Some("S256") => {
            return Err(OauthError::invalid_request("challenge method must be S256"));
        }
        // A SHA-256 in base64url without padding.
        Some(challenge) if challenge.len() != 43 => {
            return Err(OauthError::invalid_request("not an S256 code_challenge"));
        }
        _ => {}
    }
    let token = random("sbx_ac_");
    let code = Code {
        client_id: fields.remove("client_id").unwrap_or_default(),
        redirect_uri: fields.remove("redirect_uri").unwrap_or_default(),
        challenge,
        scope: fields.remove("scope"),
        expires_at: now.saturating_add(CODE_TTL),
        spent_for: None,
    };
    sandbox.codes.insert(token.clone(), code);
    sandbox.secrets.push(token.clone());
    Ok(token)
}
