//! `/vault/connections`: list, get, change, delete, import, token, validate.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header, request::Parts as Head};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenward::{
    ApplicationId, ConnectionKey, ConnectorId, ConsumerId, GrantId, TokenError,
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
    ApiError, ApiState, body,
    router::Whole,
    wire::{self, Parts, envelope, object},
};
use crate::{
    connect::{
        link::{Link, Purpose},
        session::Session,
    },
    front::caller::{ConsumerCaller, ForTokens, Identity, Visitor},
    import, wall_clock,
};

type Reply = Result<Json<Value>, ApiError>;

/// A connection of the consumer that calls, with a key or a session.
#[derive(Debug)]
pub(super) struct At {
    key: ConnectionKey,
    asker: Asker,
}

impl Identity for At {}

/// A connection of the consumer that an application names: what no session opens.
#[derive(Debug)]
pub(super) struct AtByKey(ConnectionKey);

impl Identity for AtByKey {}

/// A connection of the consumer that an application names, with a key that is good for handing out tokens.
#[derive(Debug)]
pub(super) struct AtForToken(ConnectionKey);

impl Identity for AtForToken {}

/// Who is answered, as far as the answer depends on it.
#[derive(Debug)]
struct Asker {
    session: Option<Box<Session>>,
    /// The origin of the page that asks.
    origin: Option<String>,
}

impl Asker {
    fn new(visitor: Visitor, headers: &HeaderMap) -> Self {
        let origin = headers.get(header::ORIGIN).and_then(|it| it.to_str().ok());
        let origin = origin.filter(|it| it.len() <= 256 && it.starts_with("http"));
        Self {
            session: match visitor {
                Visitor::Session(session) => Some(session),
                Visitor::Key(_) => None,
            },
            origin: origin.map(Into::into),
        }
    }

    fn allows(&self, action: &str) -> bool {
        self.session.as_ref().is_none_or(|it| it.allows(action))
    }

    fn is_about(&self, api: &str) -> bool {
        self.session.as_ref().is_none_or(|it| it.is_about(api))
    }

    fn may(&self, action: &str) -> Result<(), ApiError> {
        if self.allows(action) {
            return Ok(());
        }
        Err(ApiError::forbidden(&format!(
            "the session does not allow to {action} connections"
        )))
    }
}

#[derive(Debug, Deserialize)]
struct Place {
    unified_api: String,
    service_id: String,
}

impl Place {
    async fn read(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let place = Path::<Self>::from_request_parts(head, state).await;
        let Path(place) = place.map_err(|_| ApiError::refused(StatusCode::BAD_REQUEST))?;
        Ok(place)
    }

    fn of(&self, application: &ApplicationId, consumer: &ConsumerId) -> ConnectionKey {
        let (api, service) = (self.unified_api.as_str(), self.service_id.as_str());
        ConnectionKey::new(application.clone(), consumer.clone(), api, service)
    }
}

impl FromRequestParts<ApiState> for At {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let visitor = Visitor::from_request_parts(head, state).await?;
        let consumer = visitor.consumer().ok_or_else(ApiError::missing_consumer)?;
        let place = Place::read(head, state).await?;
        let key = place.of(visitor.application(), consumer);
        let asker = Asker::new(visitor, &head.headers);
        if !asker.is_about(&key.unified_api) {
            return Err(ApiError::not_found(
                "The session is about other unified APIs",
            ));
        }
        Ok(Self { key, asker })
    }
}

impl FromRequestParts<ApiState> for AtByKey {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let caller = <ConsumerCaller>::from_request_parts(head, state).await?;
        let place = Place::read(head, state).await?;
        Ok(Self(place.of(&caller.application, &caller.consumer)))
    }
}

impl FromRequestParts<ApiState> for AtForToken {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let caller = ConsumerCaller::<ForTokens>::from_request_parts(head, state).await?;
        let place = Place::read(head, state).await?;
        Ok(Self(place.of(&caller.application, &caller.consumer)))
    }
}

/// Who lists connections.
#[derive(Debug)]
pub(super) struct Lister {
    application: ApplicationId,
    consumer: Option<ConsumerId>,
    asker: Asker,
}

impl Identity for Lister {}

impl FromRequestParts<ApiState> for Lister {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let visitor = Visitor::from_request_parts(head, state).await?;
        Ok(Self {
            application: visitor.application().clone(),
            consumer: visitor.consumer().cloned(),
            asker: Asker::new(visitor, &head.headers),
        })
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

    /// A connection's parts, without the links.
    pub(super) fn parts<'a>(
        &'a self,
        connector: &'a Connector,
        unified_api: &'a str,
        connection: Option<&'a Connection>,
        grant: Option<&'a Row>,
        configured: bool,
    ) -> Parts<'a> {
        Parts {
            connector,
            unified_api,
            connection,
            grant: grant.and_then(|grant| grant.value.as_ref()),
            stands: self.stands(connector, connection, grant),
            configured,
            public: &self.public,
            authorize_url: None,
            revoke_url: None,
        }
    }

    /// With links, as far as something can be begun: each with a state of its own.
    fn linked(&self, mut parts: Parts<'_>, key: &ConnectionKey, asker: &Asker) -> Value {
        let begins = parts.connector.authorization.is_some() && parts.configured;
        if let Some(links) = self.links.as_ref().filter(|_| begins) {
            let link = Link {
                origin: asker.origin.clone(),
                session: asker.session.is_some(),
                ..Link::to(key)
            };
            let url = |verb: &str, purpose| {
                let state = links.state(purpose, &link, wall_clock());
                let (service, application) = (&key.service, &key.application);
                self.public.at(&format!(
                    "/vault/{verb}/{service}/{application}?state={state}"
                ))
            };
            let works = matches!(parts.stands.0, Stands::Authorized | Stands::Callable);
            if !works || asker.allows("reauthorize") {
                parts.authorize_url = Some(url("authorize", Purpose::Authorize));
            }
            if parts.grant.is_some() && asker.allows("disconnect") {
                parts.revoke_url = Some(url("revoke", Purpose::Revoke));
            }
        }
        wire::connection(&parts)
    }

    /// A consumer's connections, of connectors that are known, with their grants.
    pub(super) async fn connections_of(
        &self,
        application: &ApplicationId,
        consumer: &ConsumerId,
    ) -> Result<Vec<Loaded>, ApiError> {
        let stores = self.vault.store();
        let stored = stores.connections(application, Some(consumer)).await;
        let stored = stored.map_err(store)?;
        let ids: Vec<_> = stored.iter().filter_map(|it| it.grant.clone()).collect();
        let grants = stores.grants(&ids).await.map_err(store)?;
        let at = grants.at;
        let rows = grants.value.into_iter().map(|row| (row.id.clone(), row));
        let grants: HashMap<_, _> = rows.collect();
        let loaded = stored.into_iter().filter_map(|connection| {
            let grant = connection.grant.as_ref().map(|grant| Stamped {
                value: grants.get(grant).cloned(),
                at,
            });
            let connector = self.vault.catalogue().find(connection.key.service.as_str());
            Some(Loaded {
                connector: connector?.clone(),
                connection,
                grant,
            })
        });
        Ok(loaded.collect())
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
    async fn shown(&self, key: &ConnectionKey, asker: &Asker) -> Reply {
        let connector = self.vault.connector_of(key)?;
        let whole = self.vault.store().whole(key).await.map_err(store)?;
        let api = &key.unified_api;
        let parts = match &whole {
            Some(whole) => {
                let (connection, grant) = (Some(&whole.connection), whole.grant.as_ref());
                self.parts(connector, api, connection, grant, whole.client.is_some())
            }
            None => {
                let client = self.vault.store().client(&key.application, &key.service);
                let configured = client.await.map_err(store)?.is_some();
                self.parts(connector, api, None, None, configured)
            }
        };
        Ok(Json(envelope(self.linked(parts, key, asker))))
    }
}

/// A connection with its grant.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) connector: Arc<Connector>,
    pub(super) connection: Connection,
    pub(super) grant: Option<Row>,
}

/// A grant's row, and when it was read.
pub(super) type Row = Stamped<Option<GrantRow>>;

pub(super) fn store(error: StoreError) -> ApiError {
    AdminError::Store(error).into()
}

/// `GET /vault/connections`: the consumer's connections, and the connectors that it could add.
pub(super) async fn list(
    lister: Lister,
    State(state): State<ApiState>,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Reply {
    let Ok(Query(filter)) = filter else {
        return Err(ApiError::invalid(
            "the query must name `api` and `configured` once at most",
        ));
    };
    let added = filter.added()?;
    let Lister {
        application,
        consumer,
        asker,
    } = lister;
    let wants = |api: &str| filter.wants(api) && asker.is_about(api);
    let mut stored = match &consumer {
        Some(consumer) => state.connections_of(&application, consumer).await?,
        None => Vec::new(),
    };
    stored.retain(|it| wants(&it.connection.key.unified_api));
    let clients = state.vault.store().clients(&application).await;
    let clients = clients.map_err(store)?;
    let configured = |id: &ConnectorId| clients.iter().any(|client| client.connector == *id);
    let mut list = Vec::new();
    for it in stored.iter().filter(|_| added != Some(false)) {
        let key = &it.connection.key;
        let configured = configured(&key.service);
        let (connection, grant) = (Some(&it.connection), it.grant.as_ref());
        let parts = state.parts(
            &it.connector,
            &key.unified_api,
            connection,
            grant,
            configured,
        );
        list.push(state.linked(parts, key, &asker));
    }
    let has = |connector: &Connector, api: &str| {
        let mut keys = stored.iter().map(|it| &it.connection.key);
        keys.any(|key| key.service == connector.id && *key.unified_api == *api)
    };
    for connector in state.vault.catalogue().iter() {
        if added == Some(true) || !configured(&connector.id) {
            continue;
        }
        for api in connector.unified_apis.iter().filter(|api| wants(api)) {
            if has(connector, api) {
                continue;
            }
            let parts = state.parts(connector, api, None, None, true);
            list.push(match &consumer {
                Some(consumer) => {
                    let (application, api) = (application.clone(), api.as_str());
                    let service = connector.id.clone();
                    let key = ConnectionKey::new(application, consumer.clone(), api, service);
                    state.linked(parts, &key, &asker)
                }
                None => wire::connection(&parts),
            });
        }
    }
    Ok(Json(envelope(list.into())))
}

/// `GET /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn get(At { key, asker }: At, State(state): State<ApiState>) -> Reply {
    state.shown(&key, &asker).await
}

/// `PATCH /vault/connections/{unified_api}/{service_id}`: also makes it.
pub(super) async fn update(
    At { key, asker }: At,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let body = body::read(&body)?;
    refuse_what_is_not_kept(&body)?;
    if asker.session.is_some() && body.get("metadata").is_some_and(|it| !it.is_null()) {
        return Err(ApiError::forbidden(
            "`metadata` is the application's own: no session writes it",
        ));
    }
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
    if patch.enabled == Some(false) {
        asker.may("disable")?;
    }
    state.vault.update(&key, patch).await?;
    state.shown(&key, &asker).await
}

/// `DELETE /vault/connections/{unified_api}/{service_id}`.
pub(super) async fn delete(
    At { key, asker }: At,
    State(state): State<ApiState>,
) -> Result<StatusCode, ApiError> {
    asker.may("delete")?;
    state.vault.delete(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /vault/connections/{unified_api}/{service_id}/import`.
pub(super) async fn import(
    AtByKey(key): AtByKey,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let mut import: Import = import::read(&body).map_err(ApiError::invalid)?;
    import.metadata = import.metadata.map(writable);
    state.vault.import(&key, import).await?;
    let asker = Asker {
        session: None,
        origin: None,
    };
    state.shown(&key, &asker).await
}

/// `POST /vault/connections/{unified_api}/{service_id}/token`: makes sure that there is a live
/// access token; for a connector that takes client credentials, also makes the connection.
pub(super) async fn token(
    At { key, asker }: At,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    body::read(&body)?;
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
    state.shown(&key, &asker).await
}

/// `GET /vault/connections/{unified_api}/{service_id}/access-token`: the access token itself, refreshed when
/// it is stale as for any request. For keys that are good for that only.
pub(super) async fn access_token(
    AtForToken(key): AtForToken,
    State(state): State<ApiState>,
) -> Result<Response, ApiError> {
    let token = state.vault.token(&key).await?;
    // As the API wants to see it.
    let authorization = &state.vault.connector_of(&key)?.api.authorization;
    let scheme = authorization
        .split_once(' ')
        .map_or("Bearer", |(scheme, _)| scheme);
    let scope = token.scope();
    let mut data = json!({
        "access_token": token.secret().expose(),
        "token_type": scheme,
        "expires_at": token.expires_at().map(|at| at.to_string()),
    });
    if !scope.is_empty() {
        data["scope"] = scope.join(" ").into();
    }
    // RFC 6749 section 5.1.
    let kept_nowhere = [
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
    ];
    Ok((kept_nowhere, Json(envelope(data))).into_response())
}

/// `POST /vault/connections/{unified_api}/{service_id}/validate`: forces one refresh. Calls at
/// once share it.
pub(super) async fn validate(
    AtByKey(key): AtByKey,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    body::read(&body)?;
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
