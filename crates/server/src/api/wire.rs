//! Apideck's objects, made from the vault's. Times on a connection are epoch milliseconds.

use serde_json::{Map, Value, json};
use tokenward::{
    ConnectorId, ConsumerId,
    connector::{Connector, GrantType, Setting, SettingKind},
    refresh::ledger::{GrantRow, Standing},
    store::{Connection, Consumer},
    time::StoreTime,
    vault::state::{Health, State},
};

use crate::config::public_url::PublicUrl;

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
    pub(super) public: &'a PublicUrl,
    /// Where a login is begun, and where it is ended.
    pub(super) authorize_url: Option<String>,
    pub(super) revoke_url: Option<String>,
}

impl Parts<'_> {
    /// When the last refresh failed, if it is failing.
    fn failed_at(&self) -> Option<i64> {
        self.grant.and_then(|grant| match &grant.standing {
            Standing::Dead { at, .. } => Some(at.0),
            Standing::Live => grant.trouble.as_ref().map(|trouble| trouble.failed_at.0),
        })
    }

    fn metadata(&self) -> Map<String, Value> {
        let Some(connection) = self.connection else {
            return Map::new();
        };
        let mut metadata = connection.metadata.clone();
        if let Some(tenant) = connection.settings.get(TENANT_ID) {
            metadata.insert(COMPANY_ID.to_owned(), tenant.clone());
        }
        metadata
    }

    fn settings(&self) -> Map<String, Value> {
        let connection = self.connection;
        connection.map(|it| it.settings.clone()).unwrap_or_default()
    }
}

/// How Apideck's component draws a setting; what it does not know, it draws without an input.
pub(super) fn field_type(setting: &Setting) -> &'static str {
    match setting.kind {
        SettingKind::Boolean => "select",
        _ if !setting.options.is_empty() => "select",
        SettingKind::Text | SettingKind::Number | SettingKind::Host => "text",
    }
}

pub(super) fn grant_type(connector: &Connector) -> &'static str {
    match connector.token.grant_types.first() {
        Some(GrantType::ClientCredentials) => "client_credentials",
        _ => "authorization_code",
    }
}

/// The URL of a connector's picture.
pub(super) fn icon(public: &PublicUrl, connector: &ConnectorId) -> String {
    public.at(&format!("/vault/icons/{connector}.svg"))
}

fn form_field(id: &str, setting: &Setting, value: Option<&Value>) -> Value {
    let option = |value: &str, label: &str| json!({ "label": label, "value": value, "option_type": "simple" });
    let options: Vec<Value> = match setting.kind {
        SettingKind::Boolean => vec![option("true", "Yes"), option("false", "No")],
        _ => setting.options.iter().map(|it| option(it, it)).collect(),
    };
    // A form begins with it: never nothing. Settings are text, whatever type a client has sent.
    let value = match value {
        None | Some(Value::Null) => setting.default.clone().unwrap_or_default(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    json!({
        "id": id, "label": setting.label, "type": field_type(setting), "value": value, "mask": false,
        "placeholder": setting.default, "description": null, "required": setting.required, "custom_field": false,
        "allow_custom_values": false, "disabled": false, "hidden": false, "deprecated": false, "sensitive": false,
        "prefix": null, "suffix": null, "options": options,
    })
}

/// A connection object.
pub(super) fn connection(parts: &Parts<'_>) -> Value {
    let Parts {
        connector,
        unified_api,
        connection,
        stands: (state, health),
        configured,
        public,
        ..
    } = parts;
    let settings = parts.settings();
    let fields = connector.settings.iter();
    let form_fields: Vec<Value> = fields
        .map(|(id, setting)| form_field(id, setting, settings.get(id)))
        .collect();
    let mut object = json!({
        "id": format!("{unified_api}+{}", connector.id),
        "service_id": connector.id,
        "unified_api": unified_api,
        "name": connector.name,
        "tag_line": connector.description.as_deref().unwrap_or_default(),
        "icon": icon(public, &connector.id),
        "logo": icon(public, &connector.id),
        "state": state.as_str(),
        "health": health.as_str(),
        "integration_state": if *configured { "configured" } else { "needs_configuration" },
        "auth_type": "oauth2",
        "oauth_grant_type": grant_type(connector),
        "status": "live",
        "enabled": connection.is_some_and(|connection| connection.enabled),
        "authorize_url": parts.authorize_url,
        "revoke_url": parts.revoke_url,
        "settings": settings,
        "metadata": parts.metadata(),
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
        "last_refresh_failed_at": parts.failed_at().unwrap_or(0),
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

/// A consumer object. What else a consumer has depends on who asks.
pub(super) fn consumer(consumer: &Consumer, services: &[&str]) -> Value {
    json!({
        "consumer_id": consumer.id,
        "application_id": consumer.application,
        "metadata": consumer.metadata,
        "services": services,
        "created": consumer.created_at.to_string(),
        "modified": consumer.modified_at.to_string(),
    })
}

/// A connection within a consumer: unlike by itself, with times as text.
pub(super) fn consumer_connection(parts: &Parts<'_>, consumer: &ConsumerId) -> Value {
    let connector = parts.connector;
    let icon = icon(parts.public, &connector.id);
    let (state, health) = &parts.stands;
    let time = |at: Option<i64>| at.map(|at| StoreTime(at).to_string());
    let connection = parts.connection;
    let mut object = json!({
        "id": format!("{}+{}", parts.unified_api, connector.id),
        "name": connector.name,
        "icon": icon,
        "logo": icon,
        "tag_line": connector.description.as_deref().unwrap_or_default(),
        "service_id": connector.id,
        "unified_api": parts.unified_api,
        "consumer_id": consumer,
        "auth_type": "oauth2",
        "enabled": connection.is_some_and(|it| it.enabled),
        "settings": parts.settings(),
        "metadata": parts.metadata(),
        "created_at": time(connection.map(|it| it.created_at.0)),
        "updated_at": time(connection.map(|it| it.updated_at.0)),
        "state": state.as_str(),
        "health": health.as_str(),
        "credentials_expire_at": null,
        "last_refresh_failed_at": time(parts.failed_at()),
    });
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
