//! What each cause is on the wire.

use tokenward::{seal::SealError, store::StoreError};

use super::*;

/// What the answer says, status and remedy.
fn said(error: impl Into<ApiError>) -> (u16, String) {
    let answer = error.into().into_response();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-tokenward-origin"), "gateway");
    (answer.status().as_u16(), header("x-tokenward-remedy"))
}

#[test]
fn every_cause_says_what_will_help() {
    let at = StoreTime(0);
    let name = || "name".to_owned();
    let failed = |kind| TokenError::Failed {
        kind,
        message: name(),
        retry_at: at,
    };
    let lost = TokenError::AnswerLost {
        lost_at: at,
        why: name(),
        retry_at: at,
    };
    for (error, status, remedy) in [
        (TokenError::UnknownConnection(name()), 404, "authorize"),
        (TokenError::NotAuthorized(name()), 401, "authorize"),
        (TokenError::Disabled(name()), 422, "request"),
        (TokenError::UnknownConnector(name()), 404, "request"),
        (TokenError::NoClient(name()), 404, "operator"),
        (TokenError::NoRefreshToken, 401, "authorize"),
        (TokenError::UnusableToken, 401, "retry"),
        (TokenError::Dead { at, reason: name() }, 401, "authorize"),
        (lost, 401, "retry"),
        (failed(FailureKind::NotSent), 401, "retry"),
        (failed(FailureKind::Throttled), 401, "retry"),
        (failed(FailureKind::Configuration), 401, "operator"),
        (failed(FailureKind::Unknown), 401, "retry"),
        (TokenError::Paused { retry_in_ms: 1 }, 401, "retry"),
        (TokenError::DeadlineExceeded { waited_ms: 1 }, 504, "retry"),
        (TokenError::Store(name()), 503, "retry"),
        (TokenError::Seal(SealError::Malformed), 500, "operator"),
        (TokenError::ShuttingDown, 503, "retry"),
    ] {
        let words = error.to_string();
        assert_eq!(said(error), (status, remedy.to_owned()), "{words}");
    }
    let replaced = AdminError::ReplacedToken { at, holder: name() };
    for (error, status, remedy) in [
        (AdminError::UnknownConnector("name".into()), 404, "request"),
        (AdminError::UnknownConnection(name()), 404, "request"),
        (AdminError::Conflict, 409, "retry"),
        (replaced, 409, "authorize"),
        (AdminError::Store(StoreError::Frozen), 503, "retry"),
    ] {
        let words = error.to_string();
        assert_eq!(said(error), (status, remedy.to_owned()), "{words}");
    }
    let has = Scopes::default();
    for (error, status, remedy) in [
        (ApiError::missing_header("x"), 400, "request"),
        (ApiError::header_twice("x"), 400, "request"),
        (ApiError::invalid("x"), 400, "request"),
        (ApiError::unauthorized("x"), 401, "request"),
        (ApiError::expired_key(), 401, "operator"),
        (ApiError::missing_scope(Scope::Token, has), 403, "operator"),
        (ApiError::not_found("x"), 404, "request"),
        (ApiError::no_route(), 404, "request"),
        (ApiError::no_method(), 405, "request"),
        (ApiError::missing_setting("x"), 400, "request"),
        (ApiError::forbidden_host(name()), 400, "request"),
        (ApiError::refused_by(Refusal::Host), 400, "request"),
        (
            ApiError::refused(StatusCode::PAYLOAD_TOO_LARGE),
            413,
            "request",
        ),
        (ApiError::timed_out("x"), 504, "retry"),
        (
            ApiError::downstream(StatusCode::BAD_GATEWAY, name()),
            502,
            "retry",
        ),
        (ApiError::not_replayable(1), 503, "retry"),
        (ApiError::busy("x"), 503, "retry"),
    ] {
        let words = error.message().to_owned();
        assert_eq!(said(error), (status, remedy.to_owned()), "{words}");
    }
}
