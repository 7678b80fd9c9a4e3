//! The resource API behind the tokens: `/api/...`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{books::GrantId, http::Shared, secret::fingerprint};

pub(super) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/api", any(whatever))
        .route("/api/", any(whatever))
        .route("/api/{*path}", any(whatever))
        .route("/api/status/{code}", any(status))
        .route("/api/redirect", any(redirect))
        .route("/api/slow", any(slow))
        .route("/api/echo", any(echo))
        .route("/api/headers", any(headers))
        .route("/api/bytes", any(bytes))
        .route("/api/always401", any(async || unauthorized()))
        .route("/api/flaky", any(flaky))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), admit))
}

/// Lets live tokens in, and counts what they got.
async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    let (known, live) = shared.read(|state, now| {
        let token = token.as_deref().unwrap_or_default();
        let known = state.access.get(token).copied();
        (known, state.live_access(token, now))
    });
    let response = match live {
        Some(grant) => {
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        None => {
            // Read to the end, or the client may get a reset in place of the answer.
            let _ = count(request.into_body()).await;
            unauthorized()
        }
    };
    let refused = response.status() == StatusCode::UNAUTHORIZED;
    shared.change(|state, now| state.count_api(known, refused, now));
    response
}

async fn whatever(
    Extension(grant): Extension<GrantId>,
    method: Method,
    uri: Uri,
    body: Body,
) -> Response {
    let Ok(bytes) = count(body).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (method, path) = (method.as_str(), uri.path());
    Json(json!({"ok": true, "method": method, "path": path, "grant": grant, "bytes": bytes}))
        .into_response()
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(StatusCode::UNAUTHORIZED) => unauthorized(),
        // Informational ones are not final answers.
        Ok(code) if !code.is_informational() => code.into_response(),
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

#[derive(Deserialize)]
struct To {
    to: String,
}

async fn redirect(Query(To { to }): Query<To>) -> Response {
    match HeaderValue::from_str(&to) {
        Ok(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(Query(Slow { ms }): Query<Slow>) -> Response {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Json(json!({"ok": true, "slept_ms": ms})).into_response()
}

async fn echo(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body());
    if let Some(content_type) = content_type {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    response
}

/// What arrived: each name with its values in order, the authorization as a fingerprint.
async fn headers(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let mut seen = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            if name == header::AUTHORIZATION {
                Value::from(fingerprint(&text))
            } else {
                Value::from(text)
            }
        });
        seen.insert(name.to_string(), values.collect());
    }
    let body = json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": seen,
    });
    Json(body).into_response()
}

#[derive(Deserialize)]
struct Amount {
    n: u64,
}

/// Without a content length, in chunks.
async fn bytes(Query(Amount { n }): Query<Amount>) -> Response {
    static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];
    let chunks = stream::unfold(n, async |left| {
        let size = left.min(CHUNK.len() as u64);
        let chunk = Bytes::from_static(&CHUNK).slice(..usize::try_from(size).ok()?);
        (size > 0).then(|| (Ok::<_, std::io::Error>(chunk), left - size))
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (kind, Body::from_stream(chunks)).into_response()
}

#[derive(Deserialize)]
struct Flaky {
    key: String,
    fail: u32,
    status: u16,
    retry_after: Option<u64>,
}

async fn flaky(State(shared): State<Arc<Shared>>, Query(flaky): Query<Flaky>) -> Response {
    let call = shared.change(|state, _| {
        let calls = state.flaky.entry(flaky.key).or_default();
        *calls += 1;
        *calls
    });
    if call > flaky.fail {
        return Json(json!({"ok": true, "call": call})).into_response();
    }
    let mut response = status(Path(flaky.status)).await;
    if let Some(seconds) = flaky.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn unauthorized() -> Response {
    let why = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
    let body = json!({
        "error": "invalid_token",
        "error_description": "the access token is unknown, expired or revoked",
    });
    (StatusCode::UNAUTHORIZED, why, Json(body)).into_response()
}

/// Reads a body to its end without keeping it.
async fn count(mut body: Body) -> Result<u64, axum::Error> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}
