//! An access token as it is handed out.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, Range},
    sync::Arc,
};

use http::HeaderValue;

use super::entry::Snapshot;
use crate::{
    connector::Connector,
    error::TokenError,
    id::GrantId,
    oauth::TokenSet,
    refresh::{ledger::GrantRow, waiting::OldToken},
    seal::SealError,
    secret::Secret,
    sync::Guard,
    time::StoreTime,
};

/// An access token, ready to be sent.
pub struct Token {
    authorization: HeaderValue,
    /// Where in it the token itself stands.
    text: Range<usize>,
    grant: GrantId,
    version: u64,
    expires_at: Option<StoreTime>,
    /// `None` for most: what is kept for each grant should be small.
    extra: Option<Arc<Extra>>,
}

/// What some providers send along.
struct Extra {
    metadata: BTreeMap<String, String>,
    scope: Vec<String>,
}

impl Token {
    /// The access token of a row, whose token set was opened; `None` if it holds none.
    pub(super) fn of(
        row: &GrantRow,
        tokens: TokenSet,
        connector: &Connector,
    ) -> Result<Option<Self>, TokenError> {
        let Some(access_token) = &tokens.access_token else {
            return Ok(None);
        };
        let (authorization, text) = authorization(connector, access_token)?;
        let extra = Extra {
            metadata: tokens.metadata,
            scope: tokens.scope,
        };
        let none = extra.metadata.is_empty() && extra.scope.is_empty();
        Ok(Some(Self {
            authorization,
            text,
            grant: row.id.clone(),
            version: row.version,
            expires_at: row.expires_at,
            extra: (!none).then(|| Arc::new(extra)),
        }))
    }

    /// The same token once more. For the snapshots of one grant only: a caller holds a [`Held`].
    pub(super) fn again(&self) -> Self {
        Self {
            authorization: self.authorization.clone(),
            text: self.text.clone(),
            grant: self.grant.clone(),
            version: self.version,
            expires_at: self.expires_at,
            extra: self.extra.clone(),
        }
    }

    /// The token's text.
    pub fn secret(&self) -> Secret {
        let text = &self.authorization.as_bytes()[self.text.clone()];
        Secret::new(String::from_utf8_lossy(text))
    }

    /// The value of the `Authorization` header, marked sensitive.
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The grant that it belongs to.
    pub fn grant_id(&self) -> &GrantId {
        &self.grant
    }

    /// The grant's version that it belongs to. Says nothing beside another grant's.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the provider sent with it, such as `instance_url`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.extra.as_ref().map_or(&NONE, |extra| &extra.metadata)
    }

    /// Granted scopes; empty where the provider does not say.
    pub fn scope(&self) -> &[String] {
        self.extra.as_ref().map_or(&[], |extra| &extra.scope)
    }

    /// When it expires, on the store's clock.
    pub fn expires_at(&self) -> Option<StoreTime> {
        self.expires_at
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("grant", &self.grant)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A token that was handed out: it stays what it is, whatever is granted after it.
///
/// To take it and to leave it writes to nothing that other threads read (as long as a thread has
/// no more than eight at a time; then it counts references, as an `Arc` does).
pub struct Held(Guard<Arc<Snapshot>>);

impl Held {
    /// `None` if there is no token in it.
    pub(super) fn of(snapshot: Guard<Arc<Snapshot>>) -> Option<Self> {
        snapshot.token.is_some().then_some(Self(snapshot))
    }

    /// What a caller that waits for a better one needs to know of it.
    pub(super) fn old(&self) -> OldToken {
        OldToken(self.0.expires)
    }
}

impl Deref for Held {
    type Target = Token;

    fn deref(&self) -> &Token {
        let token = self.0.token.as_ref();
        token.expect("nothing is held without a token")
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The header's value, and where in it the token stands.
fn authorization(
    connector: &Connector,
    token: &Secret,
) -> Result<(HeaderValue, Range<usize>), TokenError> {
    let template = &connector.api.authorization;
    let from = template.find("{token}").unwrap_or(0);
    let text = template.replace("{token}", token.expose());
    // A token that no header can carry can never be used.
    let mut value = HeaderValue::try_from(text).map_err(|_| SealError::Malformed)?;
    value.set_sensitive(true);
    Ok((value, from..from + token.expose().len()))
}
