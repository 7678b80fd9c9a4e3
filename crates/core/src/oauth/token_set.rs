//! What a provider grants, and what of it is kept.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// A successful token reply, as read.
#[derive(Clone, Debug)]
pub struct TokenResponse {
    /// The new access token; never empty, and such that a header can carry it. `None`: the reply
    /// has none, but a new refresh token.
    pub access_token: Option<Secret>,
    /// The new refresh token; `None` where the reply omits it or leaves it blank, which means
    /// that the old one goes on (RFC 6749 section 6).
    pub refresh_token: Option<Secret>,
    /// The access token's lifetime; `None` where the reply does not say.
    pub expires_in: Option<Duration>,
    /// The refresh token's own lifetime, under whatever name the provider gives it.
    pub refresh_expires_in: Option<Duration>,
    /// Granted scopes; empty: unchanged.
    pub scope: Vec<String>,
    /// The connector's chosen extra fields, for example `instance_url`.
    pub metadata: BTreeMap<String, String>,
    /// What was odd about the reply, in words for a person.
    pub notes: Vec<String>,
}

/// What is kept of a grant, sealed as one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    /// The access token; `None` for a grant that was imported or created without one.
    pub access_token: Option<Secret>,
    /// The refresh token, if there is one.
    pub refresh_token: Option<Secret>,
    /// Granted scopes.
    pub scope: Vec<String>,
    /// Provider metadata, for example `instance_url`.
    pub metadata: BTreeMap<String, String>,
    /// Whether it comes from the client credentials grant: a new one is minted, not refreshed.
    pub client_credentials: bool,
}

/// The sealed form: this is the only place where tokens are serialized.
#[derive(Serialize, Deserialize)]
struct Plain<'a> {
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    access_token: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "rt", default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "sc", default, skip_serializing_if = "Vec::is_empty")]
    scope: Vec<String>,
    #[serde(rename = "md", default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(rename = "cc", default, skip_serializing_if = "std::ops::Not::not")]
    client_credentials: bool,
}

impl TokenSet {
    /// One with nothing in it.
    pub fn empty() -> Self {
        Self {
            access_token: None,
            refresh_token: None,
            scope: Vec::new(),
            metadata: BTreeMap::new(),
            client_credentials: false,
        }
    }

    /// Whether a newer set can be had without a person.
    pub fn refreshable(&self) -> bool {
        self.refresh_token.is_some() || self.client_credentials
    }

    /// The set after a reply: what the reply omits stays (failure mode 15).
    pub fn succeeded_by(&self, reply: TokenResponse) -> Self {
        let mut metadata = self.metadata.clone();
        metadata.extend(reply.metadata);
        Self {
            access_token: reply.access_token,
            refresh_token: reply.refresh_token.or_else(|| self.refresh_token.clone()),
            scope: if reply.scope.is_empty() {
                self.scope.clone()
            } else {
                reply.scope
            },
            metadata,
            client_credentials: self.client_credentials,
        }
    }

    /// The plain bytes that are to be sealed; zeroized when dropped.
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let plain = Plain {
            access_token: self
                .access_token
                .as_ref()
                .map(|token| token.expose().into()),
            refresh_token: self
                .refresh_token
                .as_ref()
                .map(|token| token.expose().into()),
            scope: self.scope.clone(),
            metadata: self.metadata.clone(),
            client_credentials: self.client_credentials,
        };
        Zeroizing::new(serde_json::to_vec(&plain).expect("strings serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote; `None` if it is something else.
    pub fn from_plain(bytes: &[u8]) -> Option<Self> {
        let plain: Plain<'_> = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            access_token: plain
                .access_token
                .map(|token| Secret::new(token.into_owned())),
            refresh_token: plain
                .refresh_token
                .map(|token| Secret::new(token.into_owned())),
            scope: plain.scope,
            metadata: plain.metadata,
            client_credentials: plain.client_credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reply_omits_stays() {
        let old = TokenSet {
            access_token: Some(Secret::new("at1")),
            refresh_token: Some(Secret::new("rt1")),
            scope: vec!["a".into()],
            metadata: [("instance_url".to_owned(), "https://one".to_owned())].into(),
            client_credentials: false,
        };
        let new = old.succeeded_by(TokenResponse {
            access_token: Some(Secret::new("at2")),
            refresh_token: None,
            expires_in: None,
            refresh_expires_in: None,
            scope: vec![],
            metadata: [("instance_url".to_owned(), "https://two".to_owned())].into(),
            notes: vec![],
        });
        assert_eq!(new.refresh_token, Some(Secret::new("rt1")));
        assert_eq!(new.scope, ["a"]);
        assert_eq!(new.metadata["instance_url"], "https://two");
        assert_eq!(TokenSet::from_plain(&new.to_plain()), Some(new));
    }
}
