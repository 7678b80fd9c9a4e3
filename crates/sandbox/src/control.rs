//! `/sandbox/...`: the in-process API for other processes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    books::{Books, GrantId, TimelineEvent},
    config::{GrantRequest, IssuedTokens},
    faults::FaultOrder,
    http::Shared,
};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/grants", post(issue))
        .route("/grants/{grant}/expire", post(expire))
        .route("/books", get(books))
        .route("/timeline", get(timeline))
        .route("/secrets", get(secrets))
        .route("/faults", post(inject).delete(clear))
        .route("/release", post(release))
}

async fn issue(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<Json<IssuedTokens>, BadRequest> {
    // No body asks for the defaults, for the sake of `curl -X POST`.
    let request: GrantRequest = parse(if body.is_empty() { b"{}" } else { &body })?;
    match shared.change(|state, now| state.mint(&request, now)) {
        Ok(issued) => Ok(Json(issued)),
        Err(error) => Err(BadRequest(error.to_string())),
    }
}

async fn expire(State(shared): State<Arc<Shared>>, Path(grant): Path<GrantId>) -> StatusCode {
    if shared.change(|state, now| state.expire_access_tokens(grant, now)) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

async fn books(State(shared): State<Arc<Shared>>) -> Json<Books> {
    Json(shared.read(|state, _| state.books.clone()))
}

async fn timeline(State(shared): State<Arc<Shared>>) -> Json<Vec<TimelineEvent>> {
    Json(shared.read(|state, _| state.timeline.to_vec()))
}

async fn secrets(State(shared): State<Arc<Shared>>) -> Json<Vec<String>> {
    Json(shared.read(|state, _| state.secrets.clone()))
}

async fn inject(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<StatusCode, BadRequest> {
    let order: FaultOrder = parse(&body)?;
    shared.change(|state, _| state.faults.push(order));
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.change(|state, _| state.faults.clear());
    StatusCode::NO_CONTENT
}

async fn release(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.release();
    StatusCode::NO_CONTENT
}

struct BadRequest(String);

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest(error.to_string()))
}
