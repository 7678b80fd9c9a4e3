//! What no single value of a connector file shows.

use super::{ClaimSource, Connector, EndpointKind, GrantType};
use crate::endpoint::{Context, EndpointError, HostPattern, Template};

/// A key, and what is wrong with it.
type Fault = (&'static str, String);

pub(super) fn check(connector: &Connector) -> Result<(), Fault> {
    names(connector)?;
    endpoints(connector)?;
    api(connector)?;
    settings(connector)?;
    identity(connector)?;
    rates(connector)
}

fn names(connector: &Connector) -> Result<(), Fault> {
    let id = connector.id.as_str();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(("id", format!("`{id}` may hold only a-z, 0-9 and `-`")));
    }
    if connector.unified_apis.is_empty() {
        return Err(("unified_apis", "at least one is needed".to_owned()));
    }
    let code = GrantType::AuthorizationCode;
    if connector.token.grant_types.contains(&code) && connector.authorization.is_none() {
        let why = "needed for grant type authorization_code";
        return Err(("authorization", why.to_owned()));
    }
    Ok(())
}

/// Every endpoint is checked when it is filled; what can be said now is said now.
fn endpoints(connector: &Connector) -> Result<(), Fault> {
    for kind in EndpointKind::ALL {
        let Some(template) = connector.endpoint_template(kind) else {
            continue;
        };
        let name = kind.name();
        if template.has_places() && connector.oauth.hosts.is_empty() {
            let why = format!("needed, because `{name}.url` has places");
            return Err(("oauth.hosts", why));
        }
        if template.has_places() {
            continue;
        }
        match connector.endpoint(kind, &Context::default()) {
            Ok(_) => {}
            // A list that depends on the operator's values cannot be read yet.
            Err(EndpointError::Unlisted { .. })
                if connector.oauth.hosts.iter().any(HostPattern::has_places) => {}
            Err(error) => return Err(("oauth.hosts", format!("`{name}.url`: {error}"))),
        }
    }
    Ok(())
}

fn api(connector: &Connector) -> Result<(), Fault> {
    if connector.api.hosts.is_empty() {
        return Err((
            "api.hosts",
            "at least one is needed, or no token could ever be used".to_owned(),
        ));
    }
    if !connector.api.authorization.contains("{token}") {
        return Err(("api.authorization", "it must contain `{token}`".to_owned()));
    }
    for name in connector.api.headers.keys() {
        if http::HeaderName::try_from(name).is_err() {
            return Err(("api.headers", format!("`{name}` is not a header name")));
        }
    }
    Ok(())
}

fn settings(connector: &Connector) -> Result<(), Fault> {
    let templates = EndpointKind::ALL
        .into_iter()
        .filter_map(|kind| connector.endpoint_template(kind))
        .chain(&connector.api.base_url)
        .chain(connector.api.headers.values());
    for name in templates.flat_map(Template::settings) {
        if !connector.settings.contains_key(name) {
            return Err((
                "settings",
                format!("`{{settings.{name}}}` is used but [settings.{name}] is missing"),
            ));
        }
    }
    for (name, setting) in &connector.settings {
        if let Some(default) = &setting.default
            && let Err(problem) = setting.check_text(default)
        {
            return Err(("settings", format!("the default of `{name}` {problem}")));
        }
    }
    Ok(())
}

fn identity(connector: &Connector) -> Result<(), Fault> {
    let rules = &connector.identity;
    for claim in rules.claims() {
        let kept = connector.token.dialect.metadata.contains(&claim.field);
        if claim.from == ClaimSource::Reply && !kept {
            let why = format!("`{}` is to be among `token.metadata`", claim.field);
            return Err(("identity", why));
        }
        if claim.from == ClaimSource::Userinfo && rules.userinfo.is_none() {
            return Err(("identity", "`userinfo` is needed".to_owned()));
        }
    }
    Ok(())
}

fn rates(connector: &Connector) -> Result<(), Fault> {
    let rate = connector.token.per_second;
    if rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(("token.per_second", "it must be more than 0".to_owned()));
    }
    Ok(())
}
