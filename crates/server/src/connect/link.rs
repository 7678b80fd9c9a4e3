//! Links that begin something for a connection: what `authorize_url` and `revoke_url` carry as `state`.
//!
//! A link is a signed statement, made anew in each answer and kept nowhere: listing a thousand connections
//! leaves no row. The attempt begins when a browser follows it.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tokenward::{
    ApplicationId, ConnectionKey, ConnectorId, ConsumerId, seal::random_bytes, time::StoreTime,
};

use super::signed::Signer;

/// How long a link can be followed, in seconds.
const HOLDS: i64 = 30 * 60;
/// No link is longer.
const LONGEST: usize = 4 * 1024;

/// What a link begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A login.
    Authorize,
    /// The end of one.
    Revoke,
}

/// What a link is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The application's id.
    #[serde(rename = "application_id")]
    pub application: ApplicationId,
    /// The consumer's id.
    #[serde(rename = "consumer_id")]
    pub consumer: ConsumerId,
    /// The unified API.
    pub unified_api: Arc<str>,
    /// The connector's id.
    #[serde(rename = "service_id")]
    pub service: ConnectorId,
    /// The origin of the page that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Whether it was given to a session, and not to the application itself.
    #[serde(default)]
    pub session: bool,
}

impl Link {
    /// A link for a connection.
    pub fn to(key: &ConnectionKey) -> Self {
        Self {
            application: key.application.clone(),
            consumer: key.consumer.clone(),
            unified_api: key.unified_api.clone(),
            service: key.service.clone(),
            origin: None,
            session: false,
        }
    }

    /// The connection.
    pub fn key(&self) -> ConnectionKey {
        ConnectionKey::new(
            self.application.clone(),
            self.consumer.clone(),
            self.unified_api.clone(),
            self.service.clone(),
        )
    }
}

/// With something that makes each one unlike all others.
#[derive(Serialize, Deserialize)]
struct Once<T> {
    jti: String,
    #[serde(flatten)]
    link: T,
}

/// Makes and reads links.
#[derive(Clone)]
pub struct Links(Arc<[Signer; 2]>);

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Links {
    /// Links that are signed with a key of the vault.
    pub fn new(key: &[u8; 32]) -> Self {
        let signers = ["authorize", "revoke"].map(|audience| Signer::new(key, audience));
        Self(Arc::new(signers))
    }

    /// A fresh `state`.
    pub fn state(&self, purpose: Purpose, link: &Link, now: StoreTime) -> String {
        let jti = URL_SAFE_NO_PAD.encode(random_bytes::<12>());
        self.signer(purpose).sign(Once { jti, link }, now, HOLDS)
    }

    /// What a `state` is about, if it is ours, for this purpose, and holds.
    pub fn read(&self, purpose: Purpose, state: &str, now: StoreTime) -> Option<Link> {
        if state.len() > LONGEST {
            return None;
        }
        let read: Once<Link> = self.signer(purpose).read(state, now)?;
        Some(read.link)
    }

    fn signer(&self, purpose: Purpose) -> &Signer {
        match purpose {
            Purpose::Authorize => &self.0[0],
            Purpose::Revoke => &self.0[1],
        }
    }
}
