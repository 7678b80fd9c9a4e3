//! What is known of a provider: data, read from `connectors/*.toml`.
//!
//! Every fact in a shipped file names its source in the file's `[sources]` table.

mod catalogue;
mod check;
mod identity;
mod settings;
mod signal;

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

pub use catalogue::{Catalogue, ConnectorError};
pub use identity::{CALLBACK_ISSUER_SETTING, Claim, ClaimSource, IdentityRules};
pub use settings::{
    Pattern, Setting, SettingError, SettingKind, SettingProblem, validate_metadata,
    validate_settings,
};
pub use signal::{Meaning, Signal};

use crate::{
    endpoint::{Context, Endpoint, EndpointError, HostPattern, Template},
    id::ConnectorId,
    oauth::{ClientAuth, TokenDialect},
    refresh::{gate::GateLimits, replay::ReplayPolicy, schedule},
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
    /// What holds for all OAuth endpoints.
    #[serde(default)]
    pub oauth: OauthRules,
    /// Where the browser goes; absent for client credentials only.
    #[serde(default)]
    pub authorization: Option<Authorization>,
    /// Where tokens come from.
    pub token: TokenEndpoint,
    /// How refreshing behaves.
    pub refresh: RefreshRules,
    /// How it is known whose account a login is of.
    #[serde(default)]
    pub identity: IdentityRules,
    /// RFC 7009.
    #[serde(default)]
    pub revocation: Option<Revocation>,
    /// RFC 7662.
    #[serde(default)]
    pub introspection: Option<IntrospectionRules>,
    /// The API that tokens are for.
    pub api: Api,
    /// Values that a connection may carry and templates may name as `{settings.NAME}`.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// Where each fact was read: dotted key to sources.
    #[serde(default)]
    pub sources: BTreeMap<String, Vec<String>>,
}

/// What holds for all OAuth endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthRules {
    /// Where the OAuth endpoints may be once their templates are filled; needed as soon as one of
    /// them has places. Browsers, refresh tokens and client secrets go nowhere else.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
}

/// The OAuth endpoints that a connector may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKind {
    /// Where the browser goes.
    Authorization,
    /// Where tokens come from.
    Token,
    /// RFC 7009.
    Revocation,
    /// RFC 7662.
    Introspection,
    /// Who has logged in (OpenID Connect Core section 5.3).
    Userinfo,
}

impl EndpointKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Authorization,
        Self::Token,
        Self::Revocation,
        Self::Introspection,
        Self::Userinfo,
    ];

    /// The name of its table in a connector file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Token => "token",
            Self::Revocation => "revocation",
            Self::Introspection => "introspection",
            Self::Userinfo => "identity.userinfo",
        }
    }
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
    /// Access tokens do not live longer, in seconds, whatever replies say.
    #[serde(default)]
    pub longest_lifetime_s: Option<u64>,
    /// How replies are to be read.
    #[serde(flatten)]
    pub dialect: TokenDialect,
    /// Sustained token requests per second and client.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How long an answer may take, where the provider is known to be slow.
    #[serde(default)]
    pub answer_timeout_s: Option<u64>,
    /// How many may go at once.
    #[serde(default)]
    pub burst: Option<u32>,
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
    /// Whether the old access token goes on living when a new one is granted: then nobody waits
    /// for a refresh while it lives. Unsaid: not known, and callers wait.
    #[serde(default)]
    pub old_token_survives: Option<bool>,
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

/// The introspection endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionRules {
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

impl TokenEndpoint {
    /// How long an answer may take, if the connector says so.
    pub fn answer_timeout(&self) -> Option<Duration> {
        self.answer_timeout_s.map(Duration::from_secs)
    }
}

impl Connector {
    /// The template of an endpoint.
    pub fn endpoint_template(&self, kind: EndpointKind) -> Option<&Template> {
        match kind {
            EndpointKind::Authorization => self.authorization.as_ref().map(|it| &it.url),
            EndpointKind::Token => Some(&self.token.url),
            EndpointKind::Revocation => self.revocation.as_ref().map(|it| &it.url),
            EndpointKind::Introspection => self.introspection.as_ref().map(|it| &it.url),
            EndpointKind::Userinfo => self.identity.userinfo.as_ref(),
        }
    }

    /// An endpoint, filled and checked against the connector's hosts.
    ///
    /// # Errors
    ///
    /// [`EndpointError`].
    pub fn endpoint(
        &self,
        kind: EndpointKind,
        context: &Context<'_>,
    ) -> Result<Endpoint, EndpointError> {
        self.endpoint_template(kind)
            .ok_or(EndpointError::Absent(kind.name()))?
            .fill_endpoint(context, &self.oauth.hosts)
    }

    /// The limiter's setting.
    pub fn gate_limits(&self) -> GateLimits {
        let default = GateLimits::default();
        GateLimits {
            per_second: self.token.per_second.unwrap_or(default.per_second),
            stated: self.token.per_second.is_some(),
            burst: self.token.burst.unwrap_or(default.burst),
        }
    }

    /// How long an idle refresh token lives.
    pub fn idle_lifetime(&self) -> Option<Duration> {
        self.refresh.idle_lifetime_s.map(Duration::from_secs)
    }

    /// The access token's lifetime, of which a reply says `said`.
    ///
    /// Where it says nothing an hour is assumed unless the file says otherwise. Without a refresh
    /// token nothing could be done about the end: then only what is said counts.
    pub fn lifetime(&self, said: Option<Duration>, refreshable: bool) -> Option<Duration> {
        let assumed = match self.token.assumed_lifetime_s {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => refreshable.then_some(Duration::from_secs(3600)),
        };
        let lifetime = said
            .map(|said| said.max(schedule::SHORTEST_LIFETIME))
            .or(assumed)?;
        let longest = self.token.longest_lifetime_s.filter(|_| refreshable);
        Some(longest.map_or(lifetime, |longest| {
            lifetime.min(Duration::from_secs(longest).max(schedule::SHORTEST_LIFETIME))
        }))
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

fn code_grant() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode]
}
