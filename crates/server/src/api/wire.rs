//! Apideck's objects, made from the vault's. Times on a connection are epoch milliseconds.

use serde_json::{Map, Value, json};
use tokenward::{
    connector::{Connector, GrantType},
    refresh::ledger::{GrantRow, Standing},
    store::Connection,
    vault::state::{Health, State},
};

/// In a connection's metadata, and read-only: which company at the provider it is for.
pub(super) const COMPANY_ID: &str = "company_id";
/// The setting that says so, by whatever connector.
const TENANT_ID: &str = "tenant_id";

/// The success envelope.
pub(super) fn envelope(data: Value) -> Value {
    let mut envelope = Map::new();
    envelope.insert("status_code".to_owned(), 200.into());
    envelope.insert("status".to_owned(), "OK".into());
    envelope.insert("data".to_owned(), data);
    envelope.into()
}

/// What a connection object is made of.
pub(super) struct Parts<'a> {
    pub(super) connector: &'a Connector,
    pub(super) unified_api: &'a str,
    pub(super) connection: Option<&'a Connection>,
    pub(super) grant: Option<&'a GrantRow>,
    pub(super) stands: (State, Health),
    /// Whether the application has an OAuth client for the connector.
    pub(super) configured: bool,
}

/// A connection object.
pub(super) fn connection(parts: &Parts<'_>) -> Value {
    let Parts {
        connector,
        unified_api,
        connection,
        grant,
        stands: (state, health),
        configured,
    } = *parts;
    let settings = connection
        .map(|connection| connection.settings.clone())
        .unwrap_or_default();
    let form_fields: Vec<Value> = connector
        .settings
        .iter()
        .map(|(id, setting)| {
            let mut field = json!({
                "id": id, "label": setting.label, "type": "text", "placeholder": setting.default, "description": null,
                "required": setting.required, "custom_field": false, "allow_custom_values": false, "disabled": false,
                "hidden": false, "deprecated": false, "sensitive": false, "prefix": null, "suffix": null, "options": [],
                "mask": false,
            });
            if let Some(value) = settings.get(id) {
                field["value"] = value.clone();
            }
            field
        })
        .collect();
    let grant_type = match connector.token.grant_types.first() {
        Some(GrantType::ClientCredentials) => "client_credentials",
        _ => "authorization_code",
    };
    let failed_at = grant.and_then(|grant| match &grant.standing {
        Standing::Dead { at, .. } => Some(at.0),
        Standing::Live => grant.trouble.as_ref().map(|trouble| trouble.since.0),
    });
    let mut metadata = connection
        .map(|connection| connection.metadata.clone())
        .unwrap_or_default();
    if let Some(tenant) = settings.get(TENANT_ID) {
        metadata.insert(COMPANY_ID.to_owned(), tenant.clone());
    }
    let mut object = json!({
        "id": format!("{unified_api}+{}", connector.id),
        "service_id": connector.id,
        "unified_api": unified_api,
        "name": connector.name,
        "tag_line": connector.description.as_deref().unwrap_or_default(),
        "state": state.as_str(),
        "health": health.as_str(),
        "integration_state": if configured { "configured" } else { "needs_configuration" },
        "auth_type": "oauth2",
        "oauth_grant_type": grant_type,
        "status": "live",
        "enabled": connection.is_some_and(|connection| connection.enabled),
        "settings": settings,
        "metadata": metadata,
        "form_fields": form_fields,
        "configuration": [],
        "configurable_resources": [],
        "resource_schema_support": [],
        "resource_settings_support": [],
        "settings_required_for_authorization": [],
        "validation_support": true,
        "schema_support": false,
        "has_guide": false,
        "subscriptions": [],
        "custom_mappings": [],
        "consent_state": "implicit",
        "consents": [],
        "credentials_expire_at": 0,
        "last_refresh_failed_at": failed_at.unwrap_or(0),
        "last_downstream_error_at": 0,
    });
    if let Some(connection) = connection {
        object["created_at"] = connection.created_at.0.into();
        object["updated_at"] = connection.updated_at.0.into();
    }
    if let Some(website) = &connector.website {
        object["website"] = website.as_str().into();
    }
    object
}

/// A JSON object out of an optional field of a body.
pub(super) fn object(body: &Value, name: &str) -> Result<Option<Map<String, Value>>, String> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map.clone())),
        Some(_) => Err(format!("`{name}` must be an object")),
    }
}
