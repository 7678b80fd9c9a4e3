//! Envelope encryption of everything secret before it reaches a store.
//!
//! A sealed blob is `version ‖ key id ‖ wrapped data key ‖ nonce ‖ ciphertext`. Each blob has a
//! data key of its own, wrapped by a key of the [`Keyring`]; both layers are AES-256-GCM-SIV,
//! which survives a repeated nonce. The associated data binds a blob to what it belongs to, so
//! that rows cannot be swapped (rolling a whole row back stays possible for whoever can write
//! the database).

mod keyring;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

pub use keyring::{Key, KeyId, Keyring, KeyringError};

use crate::{
    id::{AttemptId, ConnectionKey, GrantId},
    secret::Secret,
};

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const WRAPPED_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;
const HEADER_LEN: usize = 1 + KeyId::LEN + WRAPPED_LEN + NONCE_LEN;

/// What a blob belongs to; it opens for nothing else.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// A grant's token set at a version.
    TokenSet {
        /// The grant.
        grant: &'a GrantId,
        /// The version.
        version: u64,
    },
    /// An OAuth client's secret.
    ClientSecret {
        /// The application.
        application: &'a str,
        /// The connector.
        connector: &'a str,
    },
    /// A spooled answer.
    Spool {
        /// The grant.
        grant: &'a GrantId,
    },
    /// An answer that could not be read, of one claim's refresh.
    UnreadAnswer {
        /// The grant.
        grant: &'a GrantId,
        /// The claim's epoch.
        epoch: u64,
    },
    /// What an authorization attempt must remember, for its connection.
    Attempt {
        /// The attempt.
        attempt: &'a AttemptId,
        /// What it is to connect.
        connection: &'a ConnectionKey,
    },
    /// What was granted to an attempt, spooled.
    SpooledAttempt {
        /// The attempt.
        attempt: &'a AttemptId,
    },
    /// The vault's own values, such as the pepper of its digests.
    Vault {
        /// The value's name.
        name: &'a str,
    },
}

impl Purpose<'_> {
    /// Unambiguous bytes: each part with its length in front.
    fn bytes(self) -> Vec<u8> {
        let (number, name);
        let parts: [&[u8]; 3] = match self {
            Self::TokenSet { grant, version: v } => {
                number = v.to_be_bytes();
                [b"token set", grant.as_str().as_bytes(), &number]
            }
            Self::ClientSecret {
                application,
                connector,
            } => [
                b"client secret",
                application.as_bytes(),
                connector.as_bytes(),
            ],
            Self::Spool { grant } => [b"spool", grant.as_str().as_bytes(), b""],
            Self::UnreadAnswer { grant, epoch } => {
                number = epoch.to_be_bytes();
                [b"unread answer", grant.as_str().as_bytes(), &number]
            }
            Self::Attempt {
                attempt,
                connection,
            } => {
                // A map of strings, in one order.
                name = serde_json::to_vec(connection).expect("strings serialize");
                [b"attempt", attempt.as_str().as_bytes(), &name]
            }
            Self::SpooledAttempt { attempt } => {
                [b"spooled attempt", attempt.as_str().as_bytes(), b""]
            }
            Self::Vault { name } => [b"vault", name.as_bytes(), b""],
        };
        let mut bytes = b"tokenward/1".to_vec();
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// Why a blob does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is not a sealed blob.
    #[error("not a sealed value")]
    Malformed,
    /// The keyring lacks its key.
    #[error("sealed with key {0}, which is not among the keys given")]
    UnknownKey(KeyId),
    /// It was altered, or belongs to something else.
    #[error("the sealed value was altered or belongs to another record")]
    Altered,
}

/// Random bytes from the operating system's generator.
///
/// # Panics
///
/// When the operating system has none to give.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives random bytes");
    bytes
}

impl Keyring {
    /// Seals with the active key.
    pub fn seal(&self, purpose: Purpose<'_>, plain: &[u8]) -> Vec<u8> {
        let kek = self.active();
        let aad = purpose.bytes();
        let data_key = Zeroizing::new(random_bytes::<KEY_LEN>());
        let mut blob = Vec::with_capacity(HEADER_LEN + plain.len() + TAG_LEN);
        blob.push(VERSION);
        blob.extend_from_slice(kek.id().as_bytes());
        encrypt(kek.bytes(), &aad, &*data_key, &mut blob);
        encrypt(&data_key, &aad, plain, &mut blob);
        blob
    }

    /// Opens a blob with whichever key it names.
    ///
    /// # Errors
    ///
    /// [`SealError`]; never a wrong plain text.
    pub fn open(&self, purpose: Purpose<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let id = key_of(blob)?;
        let kek = self.find(&id).ok_or(SealError::UnknownKey(id))?;
        let aad = purpose.bytes();
        let wrapped = &blob[1 + KeyId::LEN..1 + KeyId::LEN + WRAPPED_LEN];
        let data_key = decrypt(kek.bytes(), &aad, wrapped)?;
        let data_key: &[u8; KEY_LEN] = data_key
            .as_slice()
            .try_into()
            .map_err(|_| SealError::Malformed)?;
        decrypt(data_key, &aad, &blob[1 + KeyId::LEN + WRAPPED_LEN..])
    }

    /// Whether a blob is sealed with another key than the active one.
    pub fn is_outdated(&self, blob: &[u8]) -> bool {
        key_of(blob).is_ok_and(|id| id != *self.active().id())
    }
}

/// A keyed digest that recognises a token without holding it.
pub fn fingerprint(pepper: &[u8; 32], scope: &[&str], token: &Secret) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, pepper));
    for part in scope.iter().copied().chain([token.expose()]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context
        .sign()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn key_of(blob: &[u8]) -> Result<KeyId, SealError> {
    if blob.len() < HEADER_LEN + TAG_LEN || blob[0] != VERSION {
        return Err(SealError::Malformed);
    }
    KeyId::from_bytes(&blob[1..1 + KeyId::LEN]).ok_or(SealError::Malformed)
}

fn encrypt(key: &[u8; KEY_LEN], aad: &[u8], plain: &[u8], blob: &mut Vec<u8>) {
    let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).expect("the key has the right length");
    let mut buffer = Zeroizing::new(plain.to_vec());
    let nonce = key
        .seal_in_place_append_tag(Aad::from(aad), &mut *buffer)
        .expect("the plain text is far below the cipher's limit");
    blob.extend_from_slice(nonce.as_ref());
    blob.extend_from_slice(&buffer);
}

fn decrypt(
    key: &[u8; KEY_LEN],
    aad: &[u8],
    nonce_and_text: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, text) = nonce_and_text
        .split_at_checked(NONCE_LEN)
        .ok_or(SealError::Malformed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Malformed)?;
    let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).expect("the key has the right length");
    let mut buffer = Zeroizing::new(text.to_vec());
    let length = key
        .open_in_place(nonce, Aad::from(aad), &mut buffer)
        .map_err(|_| SealError::Altered)?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(grant: &GrantId, version: u64) -> Purpose<'_> {
        Purpose::TokenSet { grant, version }
    }

    #[test]
    fn opens_for_its_own_record_only() {
        let ring = Keyring::new(vec![Key::generate()]).unwrap();
        let (a, b) = (GrantId::new("a"), GrantId::new("b"));
        let blob = ring.seal(purpose(&a, 1), b"secret");
        assert_eq!(
            ring.open(purpose(&a, 1), &blob).unwrap().as_slice(),
            b"secret"
        );
        assert_eq!(ring.open(purpose(&b, 1), &blob), Err(SealError::Altered));
        assert_eq!(ring.open(purpose(&a, 2), &blob), Err(SealError::Altered));
        assert_eq!(
            ring.open(Purpose::Spool { grant: &a }, &blob),
            Err(SealError::Altered)
        );
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let ring = Keyring::new(vec![Key::generate()]).unwrap();
        let grant = GrantId::new("a");
        let blob = ring.seal(purpose(&grant, 1), b"secret");
        for index in 0..blob.len() {
            let mut altered = blob.clone();
            altered[index] ^= 1;
            assert!(
                ring.open(purpose(&grant, 1), &altered).is_err(),
                "byte {index}"
            );
            assert!(
                ring.open(purpose(&grant, 1), &blob[..index]).is_err(),
                "cut at {index}"
            );
        }
    }

    #[test]
    fn several_keys_at_once() {
        let (old, new) = (Key::generate(), Key::generate());
        let before = Keyring::new(vec![old.clone()]).unwrap();
        let after = Keyring::new(vec![new.clone(), old]).unwrap();
        let grant = GrantId::new("a");
        let blob = before.seal(purpose(&grant, 1), b"secret");
        assert_eq!(
            after.open(purpose(&grant, 1), &blob).unwrap().as_slice(),
            b"secret"
        );
        assert!(after.is_outdated(&blob) && !before.is_outdated(&blob));
        let alone = Keyring::new(vec![new]).unwrap();
        assert!(matches!(
            alone.open(purpose(&grant, 1), &blob),
            Err(SealError::UnknownKey(_))
        ));
    }

    #[test]
    fn fingerprints_depend_on_all_parts() {
        let (token, pepper) = (Secret::new("t"), [7; 32]);
        let one = fingerprint(&pepper, &["a", "bc"], &token);
        assert_eq!(one, fingerprint(&pepper, &["a", "bc"], &token));
        assert_ne!(one, fingerprint(&pepper, &["ab", "c"], &token));
        assert_ne!(one, fingerprint(&[8; 32], &["a", "bc"], &token));
    }
}
