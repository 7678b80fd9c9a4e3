//! `POST /token`, and the faults that befall it.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    desk::Granted,
    faults::Fault,
    http::{Connection, Shared},
    oauth::{Form, NO_STORE, OauthError},
    visit::Visit,
};

/// A client may give itself a name, which the timeline repeats.
#[derive(Deserialize)]
pub(super) struct Caller {
    via: Option<String>,
}

pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    Query(Caller { via }): Query<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = Form::parse(&headers, &body);
    let field = |name| form.as_ref().ok().and_then(|form| form.field(name));
    let secret = field("refresh_token").or(field("code"));
    let grant_type = field("grant_type").unwrap_or_default().to_owned();
    let (visit, fault) = Visit::open(&shared, secret, &grant_type, via);

    let mut latency = shared.config.token_latency;
    match &fault {
        Some(Fault::DropBeforeRotation) => {
            pause(latency).await;
            drop(visit);
            return connection.close().await;
        }
        Some(Fault::HangBeforeRotation) => visit.hang().await,
        Some(Fault::Latency(more)) => latency += *more,
        _ => {}
    }
    if let Some(answer) = fault.as_ref().and_then(answer_without_effect) {
        pause(latency).await;
        if let Some(Fault::InvalidGrant) = fault {
            let error = invalid_grant_fault();
            shared.change(|state, now| {
                let grant = secret.and_then(|secret| state.grant_of(secret));
                state.note_refusal(visit.id, grant, &grant_type, &error, now);
            });
        }
        visit.answered(answer.status().as_u16(), true);
        return answer;
    }

    let decided = match form {
        Ok(form) => decide(&shared, visit.id, form, fault.clone(), latency).await,
        Err(error) => {
            shared.change(|state, now| {
                state.note_refusal(visit.id, None, &grant_type, &error, now);
            });
            Err(error)
        }
    };

    match fault {
        Some(Fault::DropAfterRotation) => {
            drop(visit);
            return connection.close().await;
        }
        Some(Fault::HangAfterRotation) => visit.hang().await,
        _ => {}
    }
    let instead = fault.as_ref().and_then(answer_after_effect);
    let whole = instead.is_none();
    let answer = instead.unwrap_or_else(|| match decided {
        Ok(mut granted) => {
            if fault == Some(Fault::OmitRefreshToken) {
                granted.refresh_token = None;
            }
            let expiry = shared.config.send_expires_in && fault != Some(Fault::MissingExpiresIn);
            reply(granted, expiry, &shared.config.extra)
        }
        Err(error) => error.into_response(),
    });
    visit.answered(answer.status().as_u16(), whole);
    answer
}

/// Decides in a task of its own, in the middle of the latency: a client that goes away does not
/// stop a provider from rotating.
async fn decide(
    shared: &Arc<Shared>,
    request: u64,
    form: Form,
    fault: Option<Fault>,
    latency: Duration,
) -> Result<Granted, OauthError> {
    let rotate = !shared.config.omit_refresh_token && fault != Some(Fault::OmitRefreshToken);
    let task = {
        let shared = Arc::clone(shared);
        async move {
            pause(latency / 2).await;
            let decided = shared.change(|state, now| state.decide(request, &form, rotate, now));
            pause(latency - latency / 2).await;
            decided
        }
    };
    let stop = shared.stop.clone();
    let task = shared
        .tasks
        .spawn(async move { stop.run_until_cancelled_owned(task).await });
    match task.await {
        Ok(Some(decided)) => decided,
        // The sandbox shuts down, and the connection with it.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// The answer of a fault that keeps the request from having an effect.
fn answer_without_effect(fault: &Fault) -> Option<Response> {
    match fault {
        Fault::TooManyRequests { retry_after } => {
            let body = json!({"error": "rate_limited"});
            let mut answer = (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response();
            if let Some(wait) = retry_after {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
            }
            Some(answer)
        }
        Fault::ServerError {
            status,
            rotate: false,
        } => Some(server_error(*status)),
        Fault::MalformedBody { rotate: false } => Some(malformed()),
        Fault::OkWithError { error } => Some(Json(json!({"error": error})).into_response()),
        Fault::InvalidGrant => Some(invalid_grant_fault().into_response()),
        _ => None,
    }
}

/// The answer of a fault that hides what the request did.
fn answer_after_effect(fault: &Fault) -> Option<Response> {
    match fault {
        Fault::ServerError { status, .. } => Some(server_error(*status)),
        Fault::MalformedBody { .. } => Some(malformed()),
        _ => None,
    }
}

/// A sleep of nothing would still wait for the timer's next tick.
async fn pause(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

fn invalid_grant_fault() -> OauthError {
    OauthError::invalid_grant("a fault was injected")
}

fn server_error(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, "<html><h1>Something went wrong</h1></html>").into_response()
}

fn malformed() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, "{\"access_token\": \"sbx_").into_response()
}

fn reply(granted: Granted, expiry: bool, extra: &serde_json::Map<String, Value>) -> Response {
    let mut body = extra.clone();
    body.insert("access_token".into(), granted.access_token.into());
    body.insert("token_type".into(), "Bearer".into());
    if expiry {
        body.insert("expires_in".into(), granted.expires_in.as_secs().into());
    }
    if let Some(token) = granted.refresh_token {
        body.insert("refresh_token".into(), token.into());
    }
    if let Some(scope) = granted.scope {
        body.insert("scope".into(), scope.into());
    }
    (NO_STORE, Json(Value::Object(body))).into_response()
}
