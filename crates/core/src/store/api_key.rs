//! API keys: what they are good for, how long, and when they were last shown.

use std::{fmt, str::FromStr, time::Duration};

use crate::{id::ApplicationId, time::StoreTime};

/// One thing that a key can be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Requests to APIs through the gateway.
    Proxy,
    /// The vault API: connections, and all that belongs to them.
    Vault,
    /// To be handed access tokens themselves.
    Token,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Proxy, Self::Vault, Self::Token];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Vault => "vault",
            Self::Token => "token",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope of an API key; there are proxy, vault and token")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let known = Self::ALL.into_iter().find(|scope| scope.name() == text);
        known.ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// What a key is good for. As text: names with a space between them, in the order of [`Scope::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether the scope is among them.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |s| self.contains(*s))
    }
}

/// What a key gets for which nothing else was asked. Not the tokens themselves.
impl Default for Scopes {
    fn default() -> Self {
        [Scope::Proxy, Scope::Vault].into_iter().collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |all, scope| all | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(f, "{space}{scope}")?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

/// An API key, as it is kept: its digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is not secret.
    pub id: String,
    /// Whose it is.
    pub application: ApplicationId,
    /// SHA-256 of the key. The key has 256 random bits, so that nothing slower is needed.
    pub digest: [u8; 32],
    /// Its first characters, by which people tell keys apart.
    pub hint: String,
    /// What it is good for.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: StoreTime,
    /// When it stops by itself.
    pub expires_at: Option<StoreTime>,
    /// When it was last shown, within a minute or so. Only for people.
    pub last_used_at: Option<StoreTime>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

/// A key to be made. Its times are the store's.
#[derive(Clone)]
pub struct NewApiKey {
    /// [`ApiKey::id`].
    pub id: String,
    /// [`ApiKey::application`].
    pub application: ApplicationId,
    /// [`ApiKey::digest`].
    pub digest: [u8; 32],
    /// [`ApiKey::hint`].
    pub hint: String,
    /// [`ApiKey::scopes`].
    pub scopes: Scopes,
    /// How long it is good.
    pub lifetime: Option<Duration>,
}

impl NewApiKey {
    /// The key, made now.
    #[must_use]
    pub fn made(self, now: StoreTime) -> ApiKey {
        ApiKey {
            id: self.id,
            application: self.application,
            digest: self.digest,
            hint: self.hint,
            scopes: self.scopes,
            created_at: now,
            expires_at: self.lifetime.map(|lifetime| now + lifetime),
            last_used_at: None,
        }
    }
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewApiKey")
            .field("id", &self.id)
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

/// A key that was shown within this before needs no new word of it.
pub const USE_NOTED_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for bits in 0..8 {
            let scopes = Scopes(bits);
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
        }
        assert_eq!(Scopes::default().to_string(), "proxy vault");
        assert!(!Scopes::default().contains(Scope::Token));
        assert!("proxy all".parse::<Scopes>().is_err());
    }
}
