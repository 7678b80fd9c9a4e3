//! `/connector`: what this server can connect to. For API keys only.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use tokenward::connector::Connector;

use super::{
    ApiError, ApiState,
    listing::Listing,
    wire::{self, envelope},
};
use crate::front::caller::Caller;

type Reply = Result<Json<Value>, ApiError>;

/// The unified APIs that Apideck's SDKs know; the strict ones refuse every other.
const APIS: [(&str, &str); 28] = [
    ("accounting", "Accounting"),
    ("ats", "ATS"),
    ("calendar", "Calendar"),
    ("crm", "CRM"),
    ("csp", "CSP"),
    ("customer-support", "Customer Support"),
    ("data-warehouse", "Data Warehouse"),
    ("ecommerce", "Ecommerce"),
    ("email", "Email"),
    ("email-marketing", "Email Marketing"),
    ("expense-management", "Expense Management"),
    ("file-storage", "File Storage"),
    ("form", "Form"),
    ("hris", "HRIS"),
    ("issue-tracking", "Issue Tracking"),
    ("lead", "Lead"),
    ("payroll", "Payroll"),
    ("pos", "POS"),
    ("procurement", "Procurement"),
    ("project-management", "Project Management"),
    ("script", "Script"),
    ("sms", "SMS"),
    ("spreadsheet", "Spreadsheet"),
    ("subscription-analytics", "Subscription Analytics"),
    ("team-messaging", "Team Messaging"),
    ("time-registration", "Time Registration"),
    ("transactional-email", "Transactional Email"),
    ("vault", "Vault"),
];

fn api_name(id: &str) -> Option<String> {
    let found = APIS.iter().find(|(known, _)| *known == id);
    found.map(|(_, name)| format!("{name} API"))
}

/// `GET /connector/connectors`.
pub(super) async fn list(_: Caller, State(state): State<ApiState>, listing: Listing) -> Reply {
    let [api, status] = listing.filters(["unified_api", "status"])?;
    let all = state.vault.catalogue().iter().filter(|connector| {
        let serves = |api: &String| connector.unified_apis.contains(api);
        api.as_ref().is_none_or(serves) && status.as_ref().is_none_or(|status| status == "live")
    });
    let all = all.map(|connector| {
        (
            connector.id.to_string(),
            connector_object(&state, connector),
        )
    });
    let page = listing.page_of("connectors", all)?;
    Ok(Json(listing.envelope(&state, "connectors", &page)))
}

/// `GET /connector/connectors/{id}`.
pub(super) async fn get(_: Caller, Path(id): Path<String>, State(state): State<ApiState>) -> Reply {
    match state.vault.catalogue().find(&id) {
        Some(connector) => Ok(Json(envelope(connector_object(&state, connector)))),
        None => Err(ApiError::unknown("Connector", "There is no such connector")),
    }
}

/// `GET /connector/apis`.
pub(super) async fn apis(_: Caller, State(state): State<ApiState>, listing: Listing) -> Reply {
    let [status] = listing.filters(["status"])?;
    let all = apis_of(&state).into_iter();
    let all = all.filter(|_| status.as_ref().is_none_or(|status| status == "live"));
    let page = listing.page_of("apis", all)?;
    Ok(Json(listing.envelope(&state, "apis", &page)))
}

/// `GET /connector/apis/{id}`.
pub(super) async fn api(_: Caller, Path(id): Path<String>, State(state): State<ApiState>) -> Reply {
    match apis_of(&state).remove(&id) {
        Some(api) => Ok(Json(envelope(api))),
        None => Err(ApiError::unknown("API", "No connector serves such an API")),
    }
}

/// Those that a connector serves, and the vault's own, by id.
fn apis_of(state: &ApiState) -> BTreeMap<String, Value> {
    let catalogue = state.vault.catalogue();
    let served = catalogue
        .iter()
        .flat_map(|connector| &connector.unified_apis);
    let mut ids: BTreeSet<&str> = served.map(String::as_str).collect();
    ids.insert("vault");
    let named = ids.into_iter().filter_map(|id| Some((id, api_name(id)?)));
    named
        .map(|(id, name)| {
            let platform = id == "vault";
            let object = json!({
                "id": id,
                "type": if platform { "platform" } else { "unified" },
                "name": name,
                "description": "",
                "status": "live",
                "resources": [],
                "events": [],
            });
            (id.to_owned(), object)
        })
        .collect()
}

fn connector_object(state: &ApiState, connector: &Connector) -> Value {
    let apis = connector.unified_apis.iter().filter_map(|id| {
        Some(json!({ "id": id, "name": api_name(id)?, "oauth_scopes": [], "auth_only": true }))
    });
    let settings = connector.settings.iter().map(|(id, setting)| {
        json!({
            "id": id,
            "label": setting.label,
            "type": wire::field_type(setting),
            "required": setting.required,
        })
    });
    let scopes = connector.authorization.iter().flat_map(|it| &it.scopes);
    let scopes = scopes.map(
        |scope| json!({ "id": scope, "label": scope, "default_apis": connector.unified_apis }),
    );
    let mut object = json!({
        "id": connector.id,
        "name": connector.name,
        "status": "live",
        "description": connector.description.as_deref().unwrap_or_default(),
        "icon_url": wire::icon(&state.public, &connector.id),
        "logo_url": wire::icon(&state.public, &connector.id),
        "auth_type": "oauth2",
        "auth_only": true,
        "oauth_grant_type": wire::grant_type(connector),
        "oauth_credentials_source": "integration",
        "oauth_scopes": scopes.collect::<Vec<_>>(),
        "custom_scopes": true,
        "settings": settings.collect::<Vec<_>>(),
        "service_id": connector.id,
        "unified_apis": apis.collect::<Vec<_>>(),
        "supported_resources": [],
        "configurable_resources": [],
        "supported_events": [],
        "docs": [],
    });
    if let Some(website) = &connector.website {
        object["website_url"] = website.as_str().into();
    }
    object
}
