//! `/vault/connections`: list, get, change, delete, import, token, validate.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, State},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts as Head};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenward::{
    ConnectionKey, ConnectorId, GrantId, TokenError,
    connector::{Connector, GrantType},
    refresh::ledger::GrantRow,
    store::{Connection, ConnectionPatch, Stamped, StoreError},
    time::StoreTime,
    vault::{
        AdminError, Import,
        state::{Health, State as Stands},
    },
};

use super::{
    ApiError, ApiState,
    router::Whole,
    wire::{self, Parts, envelope, object},
};
use crate::{
    front::caller::{Caller, ConsumerCaller, Identity},
    import,
};

type Reply = Result<Json<Value>, ApiError>;

/// A connection of the consumer that calls.
#[derive(Debug)]
pub(super) struct At(ConnectionKey);

impl Identity for At {}

#[derive(Debug, Deserialize)]
struct Place {
    unified_api: String,
    service_id: String,
}

impl FromRequestParts<ApiState> for At {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let caller = ConsumerCaller::from_request_parts(head, state).await?;
        let Path(place) = Path::<Place>::from_request_parts(head, state)
            .await
            .map_err(|_| ApiError::refused(StatusCode::BAD_REQUEST))?;
        Ok(Self(ConnectionKey::new(
            caller.application,
            caller.consumer,
            place.unified_api.as_str(),
            place.service_id.as_str(),
        )))
    }
}

/// Which connections to list. A parameter without a value is as good as none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    api: String,
    configured: String,
}

impl Filter {
    fn wants(&self, api: &str) -> bool {
        self.api.is_empty() || self.api == api
    }

    /// Only those that the consumer has added, or only those that it has not.
    fn added(&self) -> Result<Option<bool>, ApiError> {
        match self.configured.as_str() {
            "" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(ApiError::invalid("`configured` must be true or false")),
        }
    }
}

impl ApiState {
    async fn stored(&self, key: &ConnectionKey) -> Result<Connection, ApiError> {
        let stored = self.vault.store().connection(key).await.map_err(store)?;
        Ok(stored.ok_or_else(|| TokenError::UnknownConnection(key.to_string()))?)
    }

    async fn grant(&self, id: Option<GrantId>) -> Result<Option<Row>, ApiError> {
        match id {
            Some(id) => Ok(Some(self.vault.store().grant(&id).await.map_err(store)?)),
            None => Ok(None),
        }
    }

    /// A connection object.
    fn object(
        &self,
        connector: &Connector,
        unified_api: &str,
        connection: Option<&Connection>,
        grant: Option<&Row>,
        configured: bool,
    ) -> Value {
        wire::connection(&Parts {
            connector,
            unified_api,
            connection,
            grant: grant.and_then(|grant| grant.value.as_ref()),
            stands: self.stands(connector, connection, grant),
            configured,
        })
    }

    fn stands(
        &self,
        connector: &Connector,
        connection: Option<&Connection>,
        grant: Option<&Row>,
    ) -> (Stands, Health) {
        // Without a grant the time does not matter.
        let at = grant.map_or(StoreTime(0), |grant| grant.at);
        let row = grant.and_then(|grant| grant.value.as_ref());
        self.vault.state(connector, connection, row, at)
    }

    /// The connection as it is now.
    async fn shown(&self, key: &ConnectionKey) -> Reply {
        let connector = self.vault.connector_of(key)?;
        let whole = self.vault.store().whole(key).await.map_err(store)?;
        let object = match &whole {
            Some(whole) => self.object(
                connector,
                &key.unified_api,
                Some(&whole.connection),
                whole.grant.as_ref(),
                whole.client.is_some(),
            ),
            None => {
                let client = self.vault.store().client(&key.application, &key.service);
                let configured = client.await.map_err(store)?.is_some();
                self.object(connector, &key.unified_api, None, None, configured)
            }
        };
        Ok(Json(envelope(object)))
    }
}

/// A grant's row, and when it was read.
type Row = Stamped<Option<GrantRow>>;

fn store(error: StoreError) -> ApiError {
    AdminError::Store(error).into()
}

/// `GET /vault/connections`: the consumer's connections, and the connectors that it could add.
pub(super) async fn list(
    caller: Caller,
    State(state): State<ApiState>,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Reply {
    let Ok(Query(filter)) = filter else {
        return Err(ApiError::invalid(
            "the query must name `api` and `configured` once at most",
        ));
    };
    let added = filter.added()?;
    let stores = state.vault.store();
    let mut stored = match &caller.consumer {
        Some(consumer) => stores
            .connections(&caller.application, Some(consumer))
            .await
            .map_err(store)?,
        None => Vec::new(),
    };
    stored.retain(|connection| filter.wants(&connection.key.unified_api));
    let clients = stores.clients(&caller.application).await.map_err(store)?;
    let configured =
        |connector: &ConnectorId| clients.iter().any(|client| client.connector == *connector);
    let mut list = Vec::new();
    if added != Some(false) {
        let ids: Vec<_> = stored.iter().filter_map(|it| it.grant.clone()).collect();
        let grants = stores.grants(&ids).await.map_err(store)?;
        let at = grants.at;
        let grants: HashMap<_, _> = grants
            .value
            .into_iter()
            .map(|row| (row.id.clone(), row))
            .collect();
        for connection in &stored {
            let grant = connection.grant.as_ref().map(|grant| Stamped {
                value: grants.get(grant).cloned(),
                at,
            });
            let key = &connection.key;
            let Some(connector) = state.vault.catalogue().find(key.service.as_str()) else {
                continue;
            };
            let configured = configured(&key.service);
            let api = &key.unified_api;
            list.push(state.object(connector, api, Some(connection), grant.as_ref(), configured));
        }
    }
    if added != Some(true) {
        for connector in state.vault.catalogue().iter() {
            let apis = connector
                .unified_apis
                .iter()
                .filter(|api| filter.wants(api));
            for unified_api in apis.filter(|_| configured(&connector.id)) {
                let mut those = stored.iter().map(|connection| &connection.key);
                if !those.any(|c| c.service == connector.id && *c.unified_api == **unified_api) {
                    list.push(state.object(connector, unified_api, None, None, true));
                }
            }
        }
    }
    Ok(Json(envelope(list.into())))
}

/// `GET /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn get(At(key): At, State(state): State<ApiState>) -> Reply {
    state.shown(&key).await
}

/// `PATCH /vault/connections/{unified_api}/{service_id}`: also makes it.
pub(super) async fn update(
    At(key): At,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let body = read_json(&body)?;
    refuse_what_is_not_kept(&body)?;
    let patch = ConnectionPatch {
        enabled: match body.get("enabled") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(enabled)) => Some(*enabled),
            Some(_) => return Err(ApiError::invalid("`enabled` must be true or false")),
        },
        settings: object(&body, "settings").map_err(ApiError::invalid)?,
        metadata: object(&body, "metadata")
            .map_err(ApiError::invalid)?
            .map(writable),
    };
    state.vault.update(&key, patch).await?;
    state.shown(&key).await
}

/// `DELETE /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn delete(
    At(key): At,
    State(state): State<ApiState>,
) -> Result<StatusCode, ApiError> {
    state.vault.delete(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /vault/connections/{unified_api}/{service_id}/import`.
pub(super) async fn import(
    At(key): At,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let mut import: Import = import::read(&body).map_err(ApiError::invalid)?;
    import.metadata = import.metadata.map(writable);
    state.vault.import(&key, import).await?;
    state.shown(&key).await
}

/// `POST /vault/connections/{unified_api}/{service_id}/token`: makes sure that there is a live
/// access token; for a connector that takes client credentials, also makes the connection.
pub(super) async fn token(At(key): At, State(state): State<ApiState>, Whole(body): Whole) -> Reply {
    read_json(&body)?;
    let connector = state.vault.connector_of(&key)?;
    let stores = state.vault.store();
    let stored = stores.connection(&key).await.map_err(store)?;
    let authorized = stored.is_some_and(|stored| stored.grant.is_some());
    let grant_types = &connector.token.grant_types;
    if !authorized && grant_types.contains(&GrantType::ClientCredentials) {
        state
            .vault
            .add_client_credentials(&key, ConnectionPatch::default())
            .await?;
    }
    // Says of others that they do not exist, or are not authorized.
    state.vault.token(&key).await?;
    state.shown(&key).await
}

/// `POST /vault/connections/{unified_api}/{service_id}/validate`: forces one refresh. Calls at
/// once share it.
pub(super) async fn validate(
    At(key): At,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    read_json(&body)?;
    let connector = state.vault.connector_of(&key)?;
    match state.vault.validate(&key).await {
        // Nothing to refresh with: it is callable as long as its token lives.
        Err(TokenError::NoRefreshToken) => state.vault.token(&key).await?,
        answer => answer?,
    };
    let stored = state.stored(&key).await?;
    let grant = state.grant(stored.grant.clone()).await?;
    let (stands, _) = state.stands(connector, Some(&stored), grant.as_ref());
    Ok(Json(envelope(
        json!({ "id": key.wire_id(), "state": stands.as_str() }),
    )))
}

/// What Apideck keeps on a connection and we do not: a value for it would be lost in silence. What a
/// client sends back as it got it is no value.
fn refuse_what_is_not_kept(body: &Value) -> Result<(), ApiError> {
    for name in ["configuration", "custom_mappings", "consent_state"] {
        let nothing = match body.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::Array(values)) => values.is_empty(),
            Some(value) => value == "implicit",
        };
        if !nothing {
            return Err(ApiError::invalid(format!(
                "`{name}` is not kept by this server; leave it out"
            )));
        }
    }
    Ok(())
}

/// Without what the server itself fills in.
fn writable(mut metadata: Map<String, Value>) -> Map<String, Value> {
    metadata.remove(wire::COMPANY_ID);
    metadata
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
