//! `/vault/connections`: list, get, change, delete, import, token, validate.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenward::{
    ConnectionKey, TokenError,
    store::{Connection, ConnectionPatch},
    vault::{AdminError, Import},
};

use super::{
    ApiError, ApiState,
    wire::{self, Parts, envelope, object},
};
use crate::import;

type Reply = Result<Json<Value>, ApiError>;

#[derive(Debug, Deserialize)]
pub(super) struct Place {
    unified_api: String,
    service_id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    api: Option<String>,
    configured: Option<bool>,
}

impl ApiState {
    async fn key(&self, headers: &HeaderMap, place: &Place) -> Result<ConnectionKey, ApiError> {
        let caller = self.keys.authenticate(headers).await?;
        let consumer = caller.consumer(headers)?;
        Ok(ConnectionKey::new(
            caller.application,
            consumer,
            place.unified_api.as_str(),
            place.service_id.as_str(),
        ))
    }

    async fn stored(&self, key: &ConnectionKey) -> Result<Connection, ApiError> {
        let stored = self
            .vault
            .store()
            .connection(key)
            .await
            .map_err(AdminError::Store)?;
        Ok(stored.ok_or_else(|| TokenError::UnknownConnection(key.to_string()))?)
    }

    async fn shown(&self, stored: &Connection) -> Reply {
        let object = wire::connection_of(&self.vault, stored)
            .await
            .map_err(AdminError::Store)?;
        let object =
            object.ok_or_else(|| AdminError::UnknownConnector(stored.key.service.clone()))?;
        Ok(Json(envelope(object)))
    }
}

/// `GET /vault/connections`: the consumer's connections, and the connectors that it could add.
pub(super) async fn list(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Reply {
    let caller = state.keys.authenticate(&headers).await?;
    let store = state.vault.store();
    let stored = match super::text(&headers, "x-apideck-consumer-id")? {
        Some(consumer) => store
            .connections(&caller.application, Some(&consumer.into()))
            .await
            .map_err(AdminError::Store)?,
        None => Vec::new(),
    };
    let wanted = |api: &str| filter.api.as_deref().is_none_or(|wanted| wanted == api);
    let mut list = Vec::new();
    for connection in stored
        .iter()
        .filter(|connection| wanted(&connection.key.unified_api))
    {
        list.extend(
            wire::connection_of(&state.vault, connection)
                .await
                .map_err(AdminError::Store)?,
        );
    }
    if filter.configured != Some(true) {
        let clients = store
            .clients(&caller.application)
            .await
            .map_err(AdminError::Store)?;
        for connector in state.vault.catalogue().iter() {
            let configured = clients
                .iter()
                .any(|client| client.connector == connector.id);
            for unified_api in connector.unified_apis.iter().filter(|api| wanted(api)) {
                let added = stored
                    .iter()
                    .any(|c| c.key.service == connector.id && *c.key.unified_api == **unified_api);
                if configured && !added {
                    list.push(wire::connection(&Parts {
                        connector,
                        unified_api,
                        connection: None,
                        grant: None,
                        configured,
                    }));
                }
            }
        }
    }
    Ok(Json(envelope(list.into())))
}

/// `GET /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Reply {
    let key = state.key(&headers, &place).await?;
    let connector = state.vault.connector_of(&key)?;
    match state
        .vault
        .store()
        .connection(&key)
        .await
        .map_err(AdminError::Store)?
    {
        Some(stored) => state.shown(&stored).await,
        None => {
            let client = state
                .vault
                .store()
                .client(&key.application, &key.service)
                .await
                .map_err(AdminError::Store)?;
            let unified_api = &*key.unified_api;
            let configured = client.is_some();
            Ok(Json(envelope(wire::connection(&Parts {
                connector,
                unified_api,
                connection: None,
                grant: None,
                configured,
            }))))
        }
    }
}

/// `PATCH /vault/connections/{unified_api}/{service_id}`: also makes it.
pub(super) async fn update(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    body: Bytes,
) -> Reply {
    let key = state.key(&headers, &place).await?;
    let body = read_json(&body)?;
    let patch = ConnectionPatch {
        grant: None,
        enabled: match body.get("enabled") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(enabled)) => Some(*enabled),
            Some(_) => return Err(ApiError::invalid("`enabled` must be true or false")),
        },
        settings: object(&body, "settings").map_err(ApiError::invalid)?,
        metadata: object(&body, "metadata").map_err(ApiError::invalid)?,
    };
    let stored = state.vault.update(&key, patch).await?;
    state.shown(&stored).await
}

/// `DELETE /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
) -> Result<StatusCode, ApiError> {
    let key = state.key(&headers, &place).await?;
    state.vault.delete(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /vault/connections/{unified_api}/{service_id}/import`.
pub(super) async fn import(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    body: Bytes,
) -> Reply {
    let key = state.key(&headers, &place).await?;
    let import: Import = import::read(&body).map_err(ApiError::invalid)?;
    let stored = state.vault.import(&key, import).await?;
    state.shown(&stored).await
}

/// `POST /vault/connections/{unified_api}/{service_id}/token`: makes sure that there is a live
/// access token; for a connector that takes client credentials, also makes the connection.
pub(super) async fn token(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    body: Bytes,
) -> Reply {
    let key = state.key(&headers, &place).await?;
    read_json(&body)?;
    let stored = state
        .vault
        .store()
        .connection(&key)
        .await
        .map_err(AdminError::Store)?;
    if stored.and_then(|stored| stored.grant).is_none() {
        state
            .vault
            .add_client_credentials(&key, ConnectionPatch::default())
            .await?;
    }
    state.vault.token(&key).await?;
    let stored = state.stored(&key).await?;
    state.shown(&stored).await
}

/// `POST /vault/connections/{unified_api}/{service_id}/validate`: forces one refresh. Calls at
/// once share it.
pub(super) async fn validate(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(place): Path<Place>,
    body: Bytes,
) -> Reply {
    let key = state.key(&headers, &place).await?;
    read_json(&body)?;
    let connector = state.vault.connector_of(&key)?;
    state.vault.validate(&key).await?;
    let stored = state.stored(&key).await?;
    let grant = match &stored.grant {
        Some(grant) => {
            state
                .vault
                .store()
                .grant(grant)
                .await
                .map_err(AdminError::Store)?
                .value
        }
        None => None,
    };
    let state = wire::state_name(connector, &stored, grant.as_ref());
    Ok(Json(envelope(
        json!({ "id": key.wire_id(), "state": state }),
    )))
}

/// A body that may be empty: the SDKs send nothing where the specification shows `{}`.
fn read_json(body: &Bytes) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        Ok(_) => Err(ApiError::invalid("the body must be a JSON object")),
        Err(error) => Err(ApiError::invalid(format!(
            "the body is not JSON: line {}, column {}",
            error.line(),
            error.column()
        ))),
    }
}
