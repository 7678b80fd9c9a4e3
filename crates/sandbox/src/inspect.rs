//! `POST /revoke` (RFC 7009) and `POST /introspect` (RFC 7662).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    books::{EventKind, Note},
    http::Shared,
    oauth::{Form, OauthError},
    state::State as Sandbox,
};

/// A refresh token takes its whole family along, an access token goes alone. An unknown token
/// is revoked already.
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, OauthError> {
    let form = Form::parse(&headers, &body)?;
    shared.change(|sandbox, now| {
        let token = token_of_client(sandbox, &form)?;
        let grant = token.and_then(|token| sandbox.grant_of(token));
        sandbox.books.count(grant, |counts| counts.revocations += 1);
        let (Some(token), Some(grant)) = (token, grant) else {
            return Ok(StatusCode::OK);
        };
        let what = match sandbox.access.get(token) {
            Some(&(_, access)) => {
                sandbox.family(grant).revoke_access(access);
                "an access token, by the client"
            }
            None => {
                sandbox.family(grant).revoke();
                "the family, by the client"
            }
        };
        sandbox.note(now, Note::new(EventKind::Revoked, Some(grant)).text(what));
        Ok(StatusCode::OK)
    })
}

/// Another client's token is as inactive as an unknown one.
pub(super) async fn introspect(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OauthError> {
    let form = Form::parse(&headers, &body)?;
    let found = shared.change(|sandbox, now| {
        let token = token_of_client(sandbox, &form)?;
        let grant = token.and_then(|token| sandbox.grant_of(token));
        sandbox
            .books
            .count(grant, |counts| counts.introspections += 1);
        let active = || {
            let (token, grant) = (token?, &sandbox.grants[&grant?]);
            let mut body = json!({
                "active": true,
                "client_id": grant.client_id,
                "grant": sandbox.grant_of(token),
            });
            if let Some((_, access)) = sandbox.access.get(token) {
                if !grant.family.access_is_live(*access, now) {
                    return None;
                }
                let ends = grant.family.access_expiry(*access)?;
                body["exp"] = shared.clock.unix_seconds(ends).into();
                body["token_type"] = "Bearer".into();
            } else {
                let (_, refresh) = sandbox.refresh.get(token)?;
                if !grant.family.refresh_is_live(*refresh, now) {
                    return None;
                }
            }
            if let Some(scope) = &grant.scope {
                body["scope"] = scope.as_str().into();
            }
            Some(body)
        };
        Ok::<Value, OauthError>(active().unwrap_or_else(|| json!({"active": false})))
    })?;
    Ok(Json(found).into_response())
}

/// The token that the form is about, unless it is unknown or another client's.
fn token_of_client<'a>(sandbox: &Sandbox, form: &'a Form) -> Result<Option<&'a str>, OauthError> {
    let client = form.client(sandbox)?;
    let token = form
        .field("token")
        .ok_or_else(|| OauthError::invalid_request("no token"))?;
    let own = sandbox
        .grant_of(token)
        .is_some_and(|grant| sandbox.grants[&grant].client_id == client);
    Ok(own.then_some(token))
}
