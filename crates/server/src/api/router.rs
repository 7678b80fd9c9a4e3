//! The vault API's routes.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::map_response,
    response::Response,
    routing::{get, post},
};
use http::{StatusCode, header};
use tokenward::Vault;

use super::{ApiError, connections};
use crate::front::caller::Keys;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The vault.
    pub vault: Vault,
    /// Its keys.
    pub keys: Keys,
}

/// No body of this API is larger.
const LARGEST_BODY: usize = 1 << 20;

/// All routes.
pub fn router(state: ApiState) -> Router {
    let place = "/vault/connections/{unified_api}/{service_id}";
    Router::new()
        .route("/vault/connections", get(connections::list))
        .route(
            place,
            get(connections::get)
                .patch(connections::update)
                .delete(connections::delete),
        )
        .route(&format!("{place}/import"), post(connections::import))
        .route(&format!("{place}/token"), post(connections::token))
        .route(&format!("{place}/validate"), post(connections::validate))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(map_response(in_the_wire_format))
        .with_state(state)
}

async fn no_route() -> ApiError {
    ApiError::no_route()
}

async fn no_method() -> ApiError {
    ApiError::no_method()
}

/// axum refuses some requests itself (a body that is too large, a path that is not UTF-8), in
/// plain text that Apideck's SDKs cannot read.
async fn in_the_wire_format(response: Response) -> Response {
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let status = response.status();
    if json || status == StatusCode::OK || status == StatusCode::NO_CONTENT {
        return response;
    }
    axum::response::IntoResponse::into_response(ApiError::refused(status))
}
