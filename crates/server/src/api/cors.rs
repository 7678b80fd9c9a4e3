//! Scripts of other origins may call the vault's API: Apideck's component runs in the application's page.
//!
//! No cookie opens this API, so that any origin may ask: a page gets nowhere without a token of its own.
//! `/proxy` is no place for scripts, and has none of this.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

const REQUESTED: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;
const ANY: HeaderValue = HeaderValue::from_static("*");
/// `*` does not stand for `authorization`.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, x-apideck-app-id, x-apideck-auth-type, x-apideck-consumer-id",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
const EXPOSED: HeaderValue = HeaderValue::from_static("x-apideck-request-id");
/// In seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Answers preflights, which come without authentication, and marks every other answer, errors too.
pub(super) async fn cors(request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/vault/") {
        return next.run(request).await;
    }
    if is_preflight(request.method(), request.headers()) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        return response;
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    response
}

fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(REQUESTED)
        && headers.contains_key(header::ORIGIN)
}
