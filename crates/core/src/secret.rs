//! Secret values: never shown, and wiped where they are kept.
//!
//! What is wiped when it is dropped: [`Secret`] itself, keys, opened seals, request bodies. What is
//! not: copies that libraries make on the way (a header's value, a buffer of the TLS or JSON
//! library), and an access token while it is in memory to be sent. Against whoever reads the memory of
//! the process this is no protection; it keeps secrets out of what is left of it.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;

/// A token, client secret, code or key.
///
/// `Debug` prints `[secret]`; there is no `Display` and no `Serialize`. Whoever needs the text
/// calls [`Secret::expose`], which is easy to find in review.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Every call is a place where a secret may leak.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Compared in constant time for equal lengths.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for Secret {}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Removes every occurrence of the given secrets from foreign text, drops control characters and
/// keeps at most 300 characters. For texts from providers, which may echo what was sent to them.
pub fn scrub(text: &str, secrets: &[&Secret]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.expose().len() >= 4) {
        clean = clean.replace(secret.expose(), "[secret]");
    }
    clean
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[test]
    fn scrub_removes_echoed_secrets() {
        let token = Secret::new("rt-12345");
        assert_eq!(
            scrub("bad token rt-12345\n!", &[&token]),
            "bad token [secret] !"
        );
    }
}
