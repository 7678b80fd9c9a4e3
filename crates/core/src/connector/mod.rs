//! What is known of a provider: data, read from `connectors/*.toml`.
//!
//! Every fact in a shipped file names its source in the file's `[sources]` table.

mod catalogue;
mod host;
mod signal;
mod template;

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

pub use catalogue::{Catalogue, ConnectorError};
pub use host::HostPattern;
pub use signal::{Meaning, Signal};
pub use template::{Context, Template, TemplateError};

use crate::{
    id::ConnectorId,
    oauth::ClientAuth,
    refresh::{gate::GateLimits, replay::ReplayPolicy},
};

/// A provider, as its file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connector {
    /// The service id, for example `xero`.
    pub id: ConnectorId,
    /// The name for people.
    pub name: String,
    /// One line about it.
    #[serde(default)]
    pub description: Option<String>,
    /// The provider's web site.
    #[serde(default)]
    pub website: Option<String>,
    /// The unified APIs under which its connections stand; the first is the default.
    pub unified_apis: Vec<String>,
    /// Where the browser goes; absent for client credentials only.
    #[serde(default)]
    pub authorization: Option<Authorization>,
    /// Where tokens come from.
    pub token: TokenEndpoint,
    /// How refreshing behaves.
    pub refresh: RefreshRules,
    /// RFC 7009.
    #[serde(default)]
    pub revocation: Option<Revocation>,
    /// RFC 7662.
    #[serde(default)]
    pub introspection: Option<Endpoint>,
    /// The API that tokens are for.
    pub api: Api,
    /// Values that a connection may carry and templates may name as `{settings.NAME}`.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// Where each fact was read: dotted key to sources.
    #[serde(default)]
    pub sources: BTreeMap<String, Vec<String>>,
}

/// The authorization endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// Its URL.
    pub url: Template,
    /// Scopes that are always asked for, such as `offline_access`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What stands between scopes.
    #[serde(default = "space")]
    pub scope_separator: String,
    /// Static parameters.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// Whether PKCE is sent.
    #[serde(default = "yes")]
    pub pkce: bool,
}

/// The token endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEndpoint {
    /// Its URL.
    pub url: Template,
    /// Where it may point once its template is filled; required when the template names settings.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    /// How the client authenticates.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Grants that this connector takes.
    #[serde(default = "code_grant")]
    pub grant_types: Vec<GrantType>,
    /// Static parameters of every token request.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// Access-token lifetime where the reply does not say, in seconds.
    #[serde(default)]
    pub assumed_lifetime_s: Option<u64>,
    /// How replies are to be read.
    #[serde(flatten)]
    pub dialect: TokenDialect,
    /// Sustained token requests per second and client.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How many may go at once.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// How a provider's token replies deviate.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenDialect {
    /// Error codes that mean the grant is dead. `invalid_grant` where none are given.
    #[serde(default = "invalid_grant")]
    pub dead_errors: Vec<String>,
    /// Error codes that mean "not now".
    #[serde(default)]
    pub throttled_errors: Vec<String>,
    /// The field of an absolute expiry.
    #[serde(default)]
    pub expires_at_field: Option<String>,
    /// The field of the refresh token's own lifetime in seconds.
    #[serde(default)]
    pub refresh_expires_in_field: Option<String>,
    /// Fields that are kept with the tokens, such as `instance_url`.
    #[serde(default)]
    pub metadata: Vec<String>,
}

impl Default for TokenDialect {
    fn default() -> Self {
        Self {
            dead_errors: invalid_grant(),
            throttled_errors: Vec::new(),
            expires_at_field: None,
            refresh_expires_in_field: None,
            metadata: Vec::new(),
        }
    }
}

impl TokenDialect {
    /// Whether an error is the provider's last word on a grant. An entry may name the code, or
    /// `code: words` that the description must contain.
    pub fn is_dead(&self, code: &str, description: Option<&str>) -> bool {
        self.dead_errors
            .iter()
            .any(|dead| match dead.split_once(": ") {
                Some((dead_code, words)) => {
                    dead_code == code
                        && description.is_some_and(|description| description.contains(words))
                }
                None => dead == code,
            })
    }
}

/// The grants of RFC 6749 that a connection may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// Section 4.1, with a refresh token.
    AuthorizationCode,
    /// Section 4.4: a new token is minted instead of refreshed.
    ClientCredentials,
}

/// How refreshing behaves at a provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRules {
    /// Whether refresh tokens change with use, for people; the engine stores what comes back.
    pub rotation: Rotation,
    /// What happens when a used refresh token is sent again.
    pub replay: ReplayPolicy,
    /// After how many seconds without use a refresh token dies.
    #[serde(default)]
    pub idle_lifetime_s: Option<u64>,
}

/// Whether refresh tokens change with use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Each refresh returns a new one.
    Always,
    /// By the application's or the customer's choice.
    Optional,
    /// The same one goes on.
    Never,
}

/// The revocation endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Its URL.
    pub url: Template,
    /// How much ends with one token.
    #[serde(default)]
    pub scope: RevocationScope,
}

/// How much a revocation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationScope {
    /// The token's own authorization.
    Grant,
    /// Everything between this user and this client (Xero). The cautious default: a void answer
    /// is then not revoked, since a newer authorization would die with it.
    #[default]
    User,
}

/// An endpoint that is only a URL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its URL.
    pub url: Template,
}

/// The API that tokens are for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// What relative downstream URLs are relative to.
    #[serde(default)]
    pub base_url: Option<Template>,
    /// Where tokens may go. Anything else is refused.
    pub hosts: Vec<HostPattern>,
    /// The `Authorization` value; `{token}` stands for the access token.
    #[serde(default = "bearer")]
    pub authorization: String,
    /// Further headers; one whose values are missing is left out.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// How error replies are read; the first that matches counts. A 401 that none matches is
    /// taken for an expired token.
    #[serde(default)]
    pub signals: Vec<Signal>,
}

/// A value that a connection may carry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The label for people.
    pub label: String,
    /// The value where a connection has none.
    #[serde(default)]
    pub default: Option<String>,
    /// Whether API calls need it.
    #[serde(default)]
    pub required: bool,
}

impl Connector {
    /// The limiter's setting.
    pub fn gate_limits(&self) -> GateLimits {
        let default = GateLimits::default();
        GateLimits {
            per_second: self.token.per_second.unwrap_or(default.per_second),
            burst: self.token.burst.unwrap_or(default.burst),
        }
    }

    /// How long an idle refresh token lives.
    pub fn idle_lifetime(&self) -> Option<Duration> {
        self.refresh.idle_lifetime_s.map(Duration::from_secs)
    }

    /// The access token's lifetime where a reply says nothing.
    ///
    /// Without a refresh token nothing could be done about it, so it counts as endless; with one,
    /// an hour is assumed unless the file says otherwise.
    pub fn assumed_lifetime(&self, refreshable: bool) -> Option<Duration> {
        match self.token.assumed_lifetime_s {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => refreshable.then_some(Duration::from_secs(3600)),
        }
    }
}

fn space() -> String {
    " ".to_owned()
}

fn yes() -> bool {
    true
}

fn bearer() -> String {
    "Bearer {token}".to_owned()
}

fn invalid_grant() -> Vec<String> {
    vec!["invalid_grant".to_owned()]
}

fn code_grant() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode]
}
