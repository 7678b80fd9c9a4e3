//! The keys that seal: one active, any number of older ones that still open.

use std::fmt;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::random_bytes;
use crate::secret::Secret;

/// A key's name: the first bytes of its digest, so that a wrong key is recognised as such.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    pub(super) const LEN: usize = 8;

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A 256-bit key.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

impl Key {
    /// A new random key.
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(random_bytes()))
    }

    fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let hash = digest::digest(
            &digest::SHA256,
            &[b"tokenward key id".as_slice(), &*bytes].concat(),
        );
        let id = KeyId::from_bytes(&hash.as_ref()[..KeyId::LEN]).expect("eight bytes");
        Self { id, bytes }
    }

    /// The key's name, which is not secret.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The text form: base64 of 32 bytes.
    pub fn to_text(&self) -> Secret {
        Secret::new(STANDARD.encode(*self.bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// Why there is no keyring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// No key at all.
    #[error("no key given")]
    Empty,
    /// An entry is not a key.
    #[error("key {0} is not base64 of exactly 32 bytes")]
    Malformed(usize),
}

/// The active key and the older ones.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// A keyring; the first key is the active one.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Empty`].
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            Err(KeyringError::Empty)
        } else {
            Ok(Self { keys })
        }
    }

    /// Reads keys, separated by commas or white space; `#` begins a comment. The first is active.
    ///
    /// # Errors
    ///
    /// [`KeyringError`].
    pub fn parse(text: &Secret) -> Result<Self, KeyringError> {
        let mut keys = Vec::new();
        let entries = text
            .expose()
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .flat_map(|line| line.split([',', ' ', '\t']))
            .filter(|entry| !entry.is_empty());
        for (index, entry) in entries.enumerate() {
            let bytes = Zeroizing::new(
                STANDARD
                    .decode(entry)
                    .map_err(|_| KeyringError::Malformed(index + 1))?,
            );
            let bytes: [u8; 32] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| KeyringError::Malformed(index + 1))?;
            keys.push(Key::from_bytes(Zeroizing::new(bytes)));
        }
        Self::new(keys)
    }

    /// The key that seals.
    pub fn active(&self) -> &Key {
        &self.keys[0]
    }

    /// A key by its name.
    pub fn find(&self, id: &KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == *id)
    }

    /// The names of all keys, the active one first.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.keys.iter().map(Key::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let (a, b) = (Key::generate(), Key::generate());
        let text = format!(
            "# the new one\n{}\n{} # old\n",
            a.to_text().expose(),
            b.to_text().expose()
        );
        let ring = Keyring::parse(&Secret::new(text)).unwrap();
        assert_eq!(ring.active().id(), a.id());
        assert!(ring.find(b.id()).is_some());
        assert_eq!(
            Keyring::parse(&Secret::new("")).unwrap_err(),
            KeyringError::Empty
        );
        assert_eq!(
            Keyring::parse(&Secret::new("AAAA")).unwrap_err(),
            KeyringError::Malformed(1)
        );
    }

    #[test]
    fn debug_shows_ids_only() {
        let key = Key::generate();
        let shown = format!("{:?}", Keyring::new(vec![key.clone()]).unwrap());
        assert!(shown.contains(&key.id().to_string()) && !shown.contains(key.to_text().expose()));
    }
}
