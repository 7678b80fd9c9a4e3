//! How a sandbox behaves, and what it hands out.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    books::GrantId,
    ledger::{Rotation, Terms},
    millis,
    secret::fingerprint,
};

/// The behaviour of a sandbox. The default is a provider with a rotation that revokes, and
/// access tokens of half an hour.
#[derive(Clone)]
pub struct SandboxConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The client that exists from the start.
    pub client_id: String,
    /// Its secret. An empty one makes it a public client.
    pub client_secret: String,
    /// Where `/authorize` may redirect the default client; empty allows any http(s) address.
    pub redirect_uris: Vec<String>,
    /// Whether `/authorize` wants a PKCE challenge.
    pub require_pkce: bool,
    /// The rotation policy of grants that do not say otherwise.
    pub rotation: Rotation,
    /// The life of access tokens.
    pub access_ttl: Duration,
    /// The life of refresh tokens since their issue.
    pub refresh_ttl: Option<Duration>,
    /// The life of refresh tokens since their last use.
    pub refresh_idle: Option<Duration>,
    /// Whether replies have `expires_in`.
    pub send_expires_in: bool,
    /// Replies to a refresh leave `refresh_token` out; the presented one stays good.
    pub omit_refresh_token: bool,
    /// A refresh kills the access tokens issued before it.
    pub refresh_kills_access_token: bool,
    /// Added to every token reply, such as `instance_url`.
    pub extra: Map<String, Value>,
    /// How long the token endpoint takes. The decision falls in the middle, so that a client
    /// that dies at a random moment leaves both kinds of unfinished business. A client that
    /// goes away does not stop the request, as it would not at a real provider.
    pub token_latency: Duration,
    /// The number of events that the timeline keeps.
    pub timeline_limit: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            client_id: "sandbox-client".into(),
            client_secret: "sandbox-client-secret".into(),
            redirect_uris: Vec::new(),
            require_pkce: true,
            rotation: Rotation::Revokes,
            access_ttl: Duration::from_secs(1800),
            refresh_ttl: None,
            refresh_idle: None,
            send_expires_in: true,
            omit_refresh_token: false,
            refresh_kills_access_token: false,
            extra: Map::new(),
            token_latency: Duration::ZERO,
            timeline_limit: 100_000,
        }
    }
}

impl SandboxConfig {
    pub(super) fn terms(&self) -> Terms {
        Terms {
            rotation: self.rotation,
            access_ttl: self.access_ttl,
            refresh_ttl: self.refresh_ttl,
            refresh_idle: self.refresh_idle,
            refresh_kills_access_token: self.refresh_kills_access_token,
        }
    }
}

impl fmt::Debug for SandboxConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxConfig")
            .field("listen", &self.listen)
            .field("client_id", &self.client_id)
            .field("rotation", &self.rotation)
            .field("access_ttl", &self.access_ttl)
            .finish_non_exhaustive()
    }
}

/// A grant to mint without a browser. The body of `POST /sandbox/grants`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantRequest {
    /// The client that it is for; the default client if left out.
    pub client_id: Option<String>,
    /// The life of the first access token alone.
    #[serde(rename = "first_access_ttl_ms", with = "millis::option")]
    pub first_access_ttl: Option<Duration>,
    /// The life of every access token of the grant.
    #[serde(rename = "access_ttl_ms", with = "millis::option")]
    pub access_ttl: Option<Duration>,
    /// The rotation policy of the grant.
    pub rotation: Option<Rotation>,
}

/// A grant that was minted. The reply to `POST /sandbox/grants`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedTokens {
    /// The grant.
    pub grant_id: GrantId,
    /// Its access token.
    pub access_token: String,
    /// Its refresh token.
    pub refresh_token: String,
    /// The life of the access token.
    #[serde(rename = "expires_in_ms", with = "millis")]
    pub expires_in: Duration,
}

impl fmt::Debug for IssuedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedTokens")
            .field("grant_id", &self.grant_id)
            .field("access_token", &fingerprint(&self.access_token))
            .field("refresh_token", &fingerprint(&self.refresh_token))
            .field("expires_in", &self.expires_in)
            .finish()
    }
}

/// No client has this id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownClient(pub String);

impl fmt::Display for UnknownClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sandbox has no client {:?}", self.0)
    }
}

impl std::error::Error for UnknownClient {}
