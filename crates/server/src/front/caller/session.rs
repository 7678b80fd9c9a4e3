//! Callers that come with a session: customers' browsers.

use axum::extract::{FromRef, FromRequestParts};
use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use tokenward::{ApplicationId, ConsumerId, Vault};

use super::{APP_ID, ApiError, CONSUMER_ID, Caller, Identity, Keys, bearer, only, text};
use crate::{
    connect::session::{Session, Sessions},
    wall_clock,
};

/// Tells what the `Authorization` header holds.
const AUTH_TYPE: &str = "x-apideck-auth-type";

/// Who may ask for connections: an application, or a customer of one for himself.
#[derive(Clone, Debug)]
pub(crate) enum Visitor {
    /// With an API key.
    Key(Caller),
    /// With a session.
    Session(Box<Session>),
}

impl Identity for Visitor {}

impl Visitor {
    pub(crate) fn application(&self) -> &ApplicationId {
        match self {
            Self::Key(caller) => &caller.application,
            Self::Session(session) => &session.application_id,
        }
    }

    /// The consumer that it names, or is.
    pub(crate) fn consumer(&self) -> Option<&ConsumerId> {
        match self {
            Self::Key(caller) => caller.consumer.as_ref(),
            Self::Session(session) => Some(&session.consumer_id),
        }
    }
}

/// Whether a request says that it comes with a session.
pub(super) fn is_announced(headers: &HeaderMap) -> Result<bool, ApiError> {
    let kind = text(headers, AUTH_TYPE)?;
    Ok(kind.is_some_and(|kind| kind.eq_ignore_ascii_case("jwt")))
}

impl<S> FromRequestParts<S> for Visitor
where
    Keys: FromRef<S>,
    Sessions: FromRef<S>,
    Vault: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if !is_announced(&parts.headers)? {
            return <Caller>::from_request_parts(parts, state)
                .await
                .map(Self::Key);
        }
        let session = read(&parts.headers, &Sessions::from_ref(state))?;
        // What the token says decides; a header may repeat it.
        for (name, own) in [
            (APP_ID, session.application_id.as_str()),
            (CONSUMER_ID, session.consumer_id.as_str()),
        ] {
            if text(&parts.headers, name)?.is_some_and(|named| named != own) {
                return Err(ApiError::unauthorized(&format!(
                    "{name} is not the one of the session"
                )));
            }
        }
        // Signed is not enough: a session ends with its consumer, and with its application.
        let vault = Vault::from_ref(state);
        let (application, consumer) = (&session.application_id, &session.consumer_id);
        let known = vault.store().consumer(application, consumer).await;
        match known.map_err(|error| ApiError::store(&error.to_string()))? {
            Some(_) => Ok(Self::Session(session)),
            None => Err(ApiError::unauthorized("The session's consumer was deleted")),
        }
    }
}

fn read(headers: &HeaderMap, sessions: &Sessions) -> Result<Box<Session>, ApiError> {
    let token = only(headers, AUTHORIZATION.as_str())?
        .ok_or_else(|| ApiError::unauthorized("Missing authentication"))?;
    bearer(token.as_bytes())
        .and_then(|token| std::str::from_utf8(token).ok())
        .and_then(|token| sessions.read(token, wall_clock()))
        .map(Box::new)
        .ok_or_else(|| ApiError::unauthorized("The session is not valid, or has expired"))
}
