//! Where a request goes, and whether a token may go there.

use std::sync::Arc;

use http::{Response, Uri, header::LOCATION};
use tokenward::{
    Token,
    connector::{Template, TemplateError},
    vault::Resolved,
};
use url::Url;

use crate::{api::ApiError, egress::AddressRules};

/// The absolute URL of `x-apideck-downstream-url`: as given, or relative to the connector's base,
/// with `{setting}` places filled from the connection's settings.
pub(super) fn resolve(
    given: &str,
    resolved: &Resolved,
    token: Option<&Token>,
) -> Result<Url, ApiError> {
    let given = fill_places(given, resolved)?;
    let absolute = given.starts_with("https://") || given.starts_with("http://");
    let text = if absolute {
        given
    } else {
        let base = base(resolved, token)?;
        let slash = if given.starts_with('/') || given.starts_with('?') || given.is_empty() {
            ""
        } else {
            "/"
        };
        format!("{}{slash}{given}", base.trim_end_matches('/'))
    };
    let url = Url::parse(&text)
        .map_err(|_| ApiError::bad_header("x-apideck-downstream-url is not a URL"))?;
    if allowed(&url, resolved) {
        return Ok(url);
    }
    Err(ApiError::forbidden_host(format!(
        "{}{} is not an allowed host of connector {}; allowed: {}",
        url.host_str().unwrap_or("the URL's host"),
        url.port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default(),
        resolved.connector.id,
        resolved
            .connector
            .api
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    )))
}

fn base(resolved: &Resolved, token: Option<&Token>) -> Result<String, ApiError> {
    let Some(template) = &resolved.connector.api.base_url else {
        return Err(ApiError::bad_header(&format!(
            "x-apideck-downstream-url must be absolute: connector {} has no base URL",
            resolved.connector.id
        )));
    };
    fill(template, resolved, token)
}

fn fill(
    template: &Template,
    resolved: &Resolved,
    token: Option<&Token>,
) -> Result<String, ApiError> {
    template
        .fill(&resolved.context(token.map(Token::metadata)))
        .map_err(|error| match error {
            TemplateError::Missing(name) => ApiError::bad_header(&format!(
                "the base URL of connector {} needs `{name}`",
                resolved.connector.id
            )),
            TemplateError::NotAUrl(_) => {
                ApiError::bad_header("the connector's base URL is not a URL")
            }
        })
}

/// Apideck's `{setting}` places. Values may not change what the rest of the URL means.
fn fill_places(given: &str, resolved: &Resolved) -> Result<String, ApiError> {
    let mut text = String::with_capacity(given.len());
    let mut rest = given;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        let value = resolved.settings().get(name).ok_or_else(|| {
            ApiError::bad_header(&format!(
                "x-apideck-downstream-url names `{{{name}}}`, which the connection's settings lack"
            ))
        })?;
        if value.contains(['/', '?', '#', '@', ':', '\\']) {
            return Err(ApiError::bad_header(&format!(
                "setting `{name}` cannot stand in a URL"
            )));
        }
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// Whether the connector's host list has the URL's origin.
pub(super) fn allowed(url: &Url, resolved: &Resolved) -> bool {
    let context = resolved.context(None);
    resolved
        .connector
        .api
        .hosts
        .iter()
        .any(|host| host.matches(url, &context))
}

/// The last check before anything is sent: the list, and addresses that no resolver will see.
pub(super) fn check(
    url: &Url,
    resolved: &Resolved,
    rules: &Arc<AddressRules>,
) -> Result<(), ApiError> {
    if !allowed(url, resolved) {
        return Err(ApiError::forbidden_host(format!(
            "{} is not an allowed host",
            url.host_str().unwrap_or_default()
        )));
    }
    rules
        .check_literal(url)
        .map_err(|refused| ApiError::forbidden_host(refused.to_string()))
}

/// The URL as hyper wants it. A fragment stays at home.
pub(super) fn uri(url: &Url) -> Result<Uri, ApiError> {
    let text = url.as_str().split('#').next().unwrap_or_default();
    text.parse().map_err(|_| {
        ApiError::bad_header("x-apideck-downstream-url cannot be sent as a request target")
    })
}

/// Where a redirect points, if the response is one.
pub(super) fn redirect<B>(response: &Response<B>, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}
