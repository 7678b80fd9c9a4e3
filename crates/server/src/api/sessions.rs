//! `POST /vault/sessions`: an application's backend lets one of its customers in.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenward::store::Theme;

use super::{
    ApiError, ApiState, body, connections::store, consumers, router::Whole, wire::envelope,
};
use crate::{
    connect::{
        CONNECTED,
        session::{self, LARGEST_TOKEN, Session, SessionSettings, SessionTheme},
    },
    front::caller::ConsumerCaller,
    wall_clock,
};

/// What of a body is read as it stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    redirect_uri: Option<String>,
    settings: Option<SessionSettings>,
    theme: Option<SessionTheme>,
}

/// `POST /vault/sessions`. The consumer is made if there is none.
pub(super) async fn create(
    caller: ConsumerCaller,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Result<Json<Value>, ApiError> {
    let body = body::read(&body)?;
    let metadata = consumers::metadata(&body, "consumer_metadata")?;
    let length = body.pointer("/settings/session_length");
    let length = match length.filter(|length| !length.is_null()) {
        None => session::DEFAULT_LENGTH,
        Some(length) => {
            session::length(length.as_str().unwrap_or_default()).map_err(ApiError::invalid)?
        }
    };
    let Asked {
        redirect_uri,
        settings,
        theme,
    } = serde_json::from_value(without_nulls(body))
        .map_err(|error| ApiError::invalid(format!("the session cannot be read: {error}")))?;

    let stores = state.vault.store();
    let application = stores.application(&caller.application).await;
    let own = application
        .map_err(store)?
        .map(|it| it.settings)
        .unwrap_or_default();
    let redirect_uri = own
        .redirect(redirect_uri.as_deref().filter(|uri| !uri.is_empty()))
        .map_err(|error| ApiError::invalid(format!("`redirect_uri` {error}")))?;
    let consumer = stores.save_consumer(&caller.application, &caller.consumer, metadata);
    let consumer = consumer.await.map_err(store)?;

    let session = Session {
        application_id: caller.application,
        consumer_id: caller.consumer,
        consumer_metadata: consumer.metadata,
        redirect_uri: redirect_uri.unwrap_or_else(|| state.public.at(CONNECTED)),
        settings: settings.unwrap_or_default(),
        theme: with_defaults(theme.unwrap_or_default(), own.theme),
    };
    let token = state.sessions.issue(&session, length, wall_clock());
    let token = token.expose();
    if token.len() > LARGEST_TOKEN {
        return Err(ApiError::invalid(format!(
            "the session is too large: its token would have {} bytes, and {LARGEST_TOKEN} are allowed; shorten the \
             consumer's metadata or the theme",
            token.len()
        )));
    }
    Ok(Json(envelope(json!({
        "session_uri": state.public.at(&format!("/session/{token}")),
        "session_token": token,
    }))))
}

/// A `null` says as little as nothing.
fn without_nulls(body: Value) -> Value {
    match body {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name, without_nulls(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        other => other,
    }
}

fn with_defaults(mut theme: SessionTheme, own: Theme) -> SessionTheme {
    let Theme {
        vault_name,
        logo,
        primary_color,
    } = &mut theme.base;
    *vault_name = vault_name.take().or(own.vault_name);
    *logo = logo.take().or(own.logo);
    *primary_color = primary_color.take().or(own.primary_color);
    theme
}
