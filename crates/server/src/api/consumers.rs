//! `/vault/consumers`: applications' customers. For API keys only.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
};
use http::{StatusCode, request::Parts as Head};
use serde_json::{Map, Value, json};
use tokenward::{
    ApplicationId, ConnectorId, ConsumerId,
    store::{Consumer, ConsumerFilter},
};

use super::{
    ApiError, ApiState, body,
    connections::store,
    listing::{Listing, Page},
    router::Whole,
    wire::{self, envelope},
};
use crate::front::caller::{Caller, Identity, consumer_name};

type Reply = Result<Json<Value>, ApiError>;

/// The list's name in its cursors.
const LIST: &str = "consumers";
/// A consumer's metadata is no larger, as JSON.
const LARGEST_METADATA: usize = 4 * 1024;

/// A consumer of the application that calls.
#[derive(Debug)]
pub(super) struct Of(ApplicationId, ConsumerId);

impl Identity for Of {}

impl FromRequestParts<ApiState> for Of {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Head, state: &ApiState) -> Result<Self, ApiError> {
        let caller = <Caller>::from_request_parts(head, state).await?;
        let Path(id) = Path::<String>::from_request_parts(head, state)
            .await
            .map_err(|_| ApiError::refused(StatusCode::BAD_REQUEST))?;
        Ok(Self(caller.application, consumer_name(&id)?))
    }
}

impl ApiState {
    async fn stored_consumer(
        &self,
        application: &ApplicationId,
        id: &ConsumerId,
    ) -> Result<Consumer, ApiError> {
        let found = self.vault.store().consumer(application, id).await;
        let missing = || ApiError::unknown("Consumer", format!("There is no consumer `{id}`"));
        found.map_err(store)?.ok_or_else(missing)
    }

    /// With its connections.
    async fn whole_consumer(&self, consumer: &Consumer) -> Reply {
        let (application, id) = (&consumer.application, &consumer.id);
        let connections = self.connections_of(application, id).await?;
        let mut services: Vec<&str> = connections
            .iter()
            .map(|it| it.connection.key.service.as_str())
            .collect();
        services.sort_unstable();
        services.dedup();
        let mut object = wire::consumer(consumer, &services);
        let connections = connections.iter().map(|it| {
            let (connection, grant) = (Some(&it.connection), it.grant.as_ref());
            let api = &it.connection.key.unified_api;
            let parts = self.parts(&it.connector, api, connection, grant, true);
            wire::consumer_connection(&parts, id)
        });
        object["connections"] = connections.collect();
        Ok(Json(envelope(object)))
    }
}

/// `POST /vault/consumers`. One that is there already is changed.
pub(super) async fn create(
    caller: Caller,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let body = body::read(&body)?;
    let Some(Value::String(id)) = body.get("consumer_id") else {
        return Err(ApiError::invalid("`consumer_id` must be given, as text"));
    };
    let id = consumer_name(id)?;
    let metadata = metadata(&body, "metadata")?;
    let saved = state.vault.store();
    let saved = saved.save_consumer(&caller.application, &id, metadata);
    state.whole_consumer(&saved.await.map_err(store)?).await
}

/// `GET /vault/consumers`.
pub(super) async fn list(caller: Caller, State(state): State<ApiState>, listing: Listing) -> Reply {
    let [prefix, contains] = listing.filters(["consumer_id", "search"])?;
    let filter = ConsumerFilter { prefix, contains };
    let after = listing.after(LIST)?.map(ConsumerId::from);
    let (application, stores) = (&caller.application, state.vault.store());
    let page = stores.consumers(application, &filter, after.as_ref(), listing.limit + 1);
    let mut consumers = page.await.map_err(store)?;
    let more = consumers.len() > listing.limit;
    consumers.truncate(listing.limit);
    let ids: Vec<_> = consumers.iter().map(|it| it.id.clone()).collect();
    let pairs = stores.consumer_services(application, &ids);
    let mut services: HashMap<ConsumerId, Vec<ConnectorId>> = HashMap::new();
    for (consumer, service) in pairs.await.map_err(store)? {
        services.entry(consumer).or_default().push(service);
    }
    let entries = consumers.iter().map(|consumer| {
        let own = services.get(&consumer.id).map(Vec::as_slice);
        let own: Vec<&str> = own
            .unwrap_or_default()
            .iter()
            .map(ConnectorId::as_str)
            .collect();
        wire::consumer(consumer, &own)
    });
    let page = Page {
        entries: entries.collect(),
        next: ids.last().filter(|_| more).map(ToString::to_string),
    };
    Ok(Json(listing.envelope(&state, LIST, &page)))
}

/// `GET /vault/consumers/{consumer_id}`.
pub(super) async fn get(Of(application, id): Of, State(state): State<ApiState>) -> Reply {
    let consumer = state.stored_consumer(&application, &id).await?;
    state.whole_consumer(&consumer).await
}

/// `PATCH /vault/consumers/{consumer_id}`.
pub(super) async fn update(
    Of(application, id): Of,
    State(state): State<ApiState>,
    Whole(body): Whole,
) -> Reply {
    let metadata = metadata(&body::read(&body)?, "metadata")?;
    // Not made: a name that is misspelt is no new customer.
    state.stored_consumer(&application, &id).await?;
    let saved = state.vault.store();
    let saved = saved.save_consumer(&application, &id, metadata);
    state.whole_consumer(&saved.await.map_err(store)?).await
}

/// `DELETE /vault/consumers/{consumer_id}`, with its connections and their tokens.
pub(super) async fn delete(Of(application, id): Of, State(state): State<ApiState>) -> Reply {
    state.vault.delete_consumer(&application, &id).await?;
    Ok(Json(envelope(json!({ "consumer_id": id }))))
}

/// A consumer's metadata in a body; `None`: nothing is said about it.
pub(super) fn metadata(body: &Value, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
    let metadata = wire::object(body, name).map_err(ApiError::invalid)?;
    if let Some(metadata) = &metadata {
        for (field, value) in metadata {
            // It is shown to people.
            if !matches!(
                value,
                Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null
            ) {
                let shown: String = field.chars().take(40).collect();
                return Err(ApiError::invalid(format!("`{name}.{shown}` must be text")));
            }
        }
        if Value::from(metadata.clone()).to_string().len() > LARGEST_METADATA {
            return Err(ApiError::invalid(format!(
                "`{name}` is larger than {LARGEST_METADATA} bytes"
            )));
        }
    }
    Ok(metadata)
}
