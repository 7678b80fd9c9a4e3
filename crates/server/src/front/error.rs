//! Errors in Apideck's form. 5xx only for real faults: Apideck's SDKs retry those for 15 minutes.
//!
//! Each error tells programs what will help (`x-tokenward-remedy`), and every answer whose it is
//! (`x-tokenward-origin`): the gateway's own, or that of the API behind it.

use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokenward::{
    TokenError,
    refresh::ledger::FailureKind,
    store::{Scope, Scopes},
    time::StoreTime,
    vault::AdminError,
};
use tokenward_http1::request::Refusal;

use crate::wall_clock;

/// Tells the gateway's own answers from those that it passes on.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("x-tokenward-origin");
/// On the gateway's own answers.
pub(crate) const FROM_GATEWAY: HeaderValue = HeaderValue::from_static("gateway");

/// On answers of the API behind it.
pub(crate) const FROM_PROVIDER: HeaderValue = HeaderValue::from_static("provider");

/// Tells what will help: see [`Remedy`].
const REMEDY: HeaderName = HeaderName::from_static("x-tokenward-remedy");

/// What helps against an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The same request, later.
    Retry,
    /// Another request.
    Request,
    /// The consumer must authorize the connection (again).
    Authorize,
    /// The operator must mend the configuration.
    Operator,
}

impl Remedy {
    /// Its name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Request => "request",
            Self::Authorize => "authorize",
            Self::Operator => "operator",
        }
    }
}

/// An error on the wire. Its texts hold no secrets.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    remedy: Remedy,
    type_name: &'static str,
    message: String,
    detail: Value,
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        type_name: &'static str,
        message: &str,
        detail: impl Into<Value>,
    ) -> Self {
        Self {
            status,
            remedy: if status.is_server_error() {
                Remedy::Retry
            } else {
                Remedy::Request
            },
            type_name,
            message: message.to_owned(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    fn with(self, remedy: Remedy) -> Self {
        Self { remedy, ..self }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Apideck's name for it.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn missing_header(name: &str) -> Self {
        Self::bad_header(&format!("Missing Header: {name}"))
    }

    pub(crate) fn missing_consumer() -> Self {
        Self::missing_header("x-apideck-consumer-id")
    }

    /// A header that decides something was given more than once.
    pub(crate) fn header_twice(name: &str) -> Self {
        Self::bad_header(&format!("{name} is given more than once"))
    }

    pub(crate) fn bad_header(detail: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "RequestHeadersValidationError",
            "Invalid Headers",
            detail,
        )
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "RequestValidationError",
            "Invalid Params",
            detail.into(),
        )
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UnauthorizedError",
            "Unauthorized Request",
            detail,
        )
    }

    /// A key that has stopped by itself. The same request with another one will do.
    pub(crate) fn expired_key() -> Self {
        Self::unauthorized("The API key has expired. Make another one with `tokenward keys create`")
            .with(Remedy::Operator)
    }

    /// A valid key that is not good for what it is shown for (RFC 6750 section 3.1). SDKs do not try a 403 again.
    pub(crate) fn missing_scope(missing: Scope, has: Scopes) -> Self {
        let words = has.to_string().replace(' ', ",");
        let with = has.iter().chain([missing]).map(Scope::name);
        let with = with.collect::<Vec<_>>().join(",");
        Self::new(
            StatusCode::FORBIDDEN,
            "ForbiddenError",
            &format!("The API key lacks the scope `{missing}`"),
            format!(
                "This takes a key with the scope `{missing}`; the key has {words}. Make one that has it with `tokenward keys create --scopes {with}`"
            ),
        )
        .with(Remedy::Operator)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "EntityNotFoundError",
            "Connection not found",
            detail.into(),
        )
    }

    /// Something of this kind is not there.
    pub(crate) fn unknown(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "EntityNotFoundError",
            &format!("Unknown {kind}"),
            detail.into(),
        )
    }

    /// Who asks is known, and may not.
    pub(crate) fn forbidden(detail: &str) -> Self {
        let status = StatusCode::FORBIDDEN;
        Self::new(status, "ForbiddenError", "Not allowed", detail)
    }

    /// Apideck has it, this server does not.
    pub(crate) fn not_offered() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "MappingError",
            "Not offered by this server",
            "This operation of Apideck's API is none of this server's, which connects accounts and passes requests on",
        )
        .with(Remedy::Request)
    }

    pub(crate) fn bad_cursor() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidCursorError",
            "Invalid Cursor",
            "`cursor` is none that this list has given out",
        )
    }

    pub(crate) fn unknown_filter(name: &str, known: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "UnsupportedFiltersError",
            "Unsupported Filter",
            format!("There is no filter `{name}`, but: {known}"),
        )
    }

    pub(crate) fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "EntityNotFoundError",
            "Unknown route",
            "There is nothing at this path",
        )
    }

    pub(crate) fn no_method() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(
            status,
            "RequestValidationError",
            "Method not allowed",
            "This path does not take this method",
        )
    }

    fn conflict(detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "ConflictError", "Conflict", detail)
    }

    /// A request that was refused before anybody looked at what it says.
    pub(crate) fn refused(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "The body is larger than 1 MiB",
            StatusCode::REQUEST_TIMEOUT => "The body did not arrive in time",
            _ => "The request cannot be read",
        };
        Self::new(status, "RequestValidationError", "Invalid Params", detail)
    }

    fn internal(message: &str, detail: String) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "InternalServerError", message, detail)
    }

    pub(crate) fn missing_setting(name: &str) -> Self {
        Self::invalid(format!(
            "The connection's setting `{name}` is required and has no value"
        ))
    }

    /// A request whose head RFC 9112 forbids.
    pub(crate) fn refused_by(refusal: Refusal) -> Self {
        Self::new(
            refusal.status(),
            "RequestValidationError",
            "Invalid Request",
            refusal.to_string(),
        )
    }

    pub(crate) fn forbidden_host(detail: String) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "RequestValidationError",
            "Host not allowed",
            detail,
        )
    }

    pub(crate) fn timed_out(detail: &str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "ProxyTimedOutError",
            "Request timed out",
            detail,
        )
    }

    pub(crate) fn downstream(status: StatusCode, detail: String) -> Self {
        Self::new(
            status,
            "ConnectorExecutionError",
            "The downstream API failed",
            detail,
        )
    }

    /// The token had expired, a new one is there, but the body is gone: whoever sends it again
    /// (Apideck's SDKs do so by themselves) is served.
    pub(crate) fn not_replayable(limit: usize) -> Self {
        let detail = format!(
            "The downstream API rejected the access token as expired. The token has been refreshed, but the request's body \
             is larger than the {limit} bytes that are kept for a second try. Send the request again"
        );
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self {
            retry_after: Some(0),
            ..Self::new(
                status,
                "ConnectorExecutionError",
                "Send the request again",
                detail,
            )
        }
    }

    pub(crate) fn store(why: &str) -> Self {
        tracing::error!(%why, "the store is unavailable");
        Self::busy("The vault's store is unavailable; nothing was lost")
    }

    /// More requests than the server takes at once; of this one nothing was looked at.
    pub(crate) fn too_many_requests() -> Self {
        Self::busy("Too many requests are in flight; nothing was done for this one")
    }

    /// Not now, but soon.
    pub(crate) fn busy(detail: &str) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailableError",
                "Service unavailable",
                detail,
            )
        }
    }

    /// A failed refresh is 401 (never 5xx), with Apideck's detail object.
    fn refresh_failed(
        remedy: Remedy,
        message: &str,
        code: Option<&str>,
        retry_at: Option<StoreTime>,
    ) -> Self {
        let mut debug = json!({ "message": message, "remedy": remedy.name() });
        if let Some(code) = code {
            debug["code"] = code.into();
        }
        if let Some(retry_at) = retry_at {
            debug["retry_after_ms"] = retry_at.0.into();
            let left = u64::try_from(wall_clock().until(retry_at).as_millis()).unwrap_or(u64::MAX);
            debug["cooldown_remaining_ms"] = left.into();
        }
        let detail =
            json!({ "type": "refresh_token_connector_error", "message": message, "debug": debug });
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UnauthorizedError",
            "Unauthorized Request",
            detail,
        )
        .with(remedy)
    }

    fn body(&self) -> Value {
        json!({
            "status_code": self.status.as_u16(),
            "error": self.status.canonical_reason().unwrap_or("Error"),
            "type_name": self.type_name,
            "message": self.message,
            "detail": self.detail,
            "ref": format!("https://developers.apideck.com/errors#{}", self.type_name.to_lowercase()),
        })
    }

    /// The response.
    pub fn into_response(self) -> Response<Bytes> {
        let body = Bytes::from(self.body().to_string());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response.headers_mut().insert(ORIGIN, FROM_GATEWAY);
        response
            .headers_mut()
            .insert(REMEDY, HeaderValue::from_static(self.remedy.name()));
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        Self::into_response(self).map(axum::body::Body::from)
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::UnknownConnection(_) => Self::not_found(text).with(Remedy::Authorize),
            TokenError::NotAuthorized(_) => Self::new(
                StatusCode::UNAUTHORIZED,
                "UnauthorizedError",
                "Re-authorize the connection: connector credentials error",
                text,
            )
            .with(Remedy::Authorize),
            TokenError::Disabled(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "InvalidStateError",
                "Connection is disabled",
                text,
            ),
            TokenError::UnknownConnector(_) => Self::new(
                StatusCode::NOT_FOUND,
                "ConnectorNotFoundError",
                "Unknown Connector",
                text,
            ),
            TokenError::NoClient(_) => Self::new(
                StatusCode::NOT_FOUND,
                "OAuthCredentialsNotFoundError",
                "No OAuth client",
                text,
            )
            .with(Remedy::Operator),
            TokenError::Dead { .. } | TokenError::NoRefreshToken => Self {
                message: "Re-authorize the connection".to_owned(),
                ..Self::refresh_failed(Remedy::Authorize, &text, Some("invalid_grant"), None)
            },
            TokenError::UnusableToken => {
                Self::refresh_failed(Remedy::Retry, &text, Some("unusable_token"), None)
            }
            TokenError::AnswerLost { retry_at, .. } => {
                Self::refresh_failed(Remedy::Retry, &text, Some("answer_lost"), Some(retry_at))
            }
            TokenError::Failed { kind, retry_at, .. } => {
                let (code, remedy) = match kind {
                    FailureKind::NotSent => ("not_sent", Remedy::Retry),
                    FailureKind::Throttled => ("throttled", Remedy::Retry),
                    FailureKind::Configuration => ("configuration", Remedy::Operator),
                    FailureKind::Unknown => ("no_answer", Remedy::Retry),
                };
                Self::refresh_failed(remedy, &text, Some(code), Some(retry_at))
            }
            TokenError::Paused { retry_in_ms } => {
                let retry_at = wall_clock() + std::time::Duration::from_millis(retry_in_ms);
                Self::refresh_failed(Remedy::Retry, &text, Some("paused"), Some(retry_at))
            }
            TokenError::DeadlineExceeded { .. } => Self::timed_out(&text),
            TokenError::Store(why) => Self::store(&why),
            TokenError::ShuttingDown => Self {
                message: "Shutting down".to_owned(),
                ..Self::busy(&text)
            },
            TokenError::Seal(_) => {
                tracing::error!(%text, "stored tokens cannot be opened");
                let message = "The stored tokens cannot be opened";
                Self::internal(message, text).with(Remedy::Operator)
            }
            _ => Self::internal("Internal error", text),
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let text = error.to_string();
        match error {
            AdminError::UnknownConnector(_) => Self::new(
                StatusCode::NOT_FOUND,
                "EntityNotFoundError",
                "Unknown Connector",
                text,
            ),
            AdminError::UnknownConnection(_) => Self::not_found(text),
            AdminError::UnknownConsumer(_) => Self::unknown("Consumer", text),
            AdminError::Conflict => Self::conflict(text).with(Remedy::Retry),
            // However often it is imported.
            AdminError::ReplacedToken { .. } => Self::conflict(text).with(Remedy::Authorize),
            AdminError::Store(error) => Self::store(&error.to_string()),
            _ => Self::invalid(text),
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
