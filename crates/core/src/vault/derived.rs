//! Keys that are derived from the vault's pepper: the same for all processes on it, whatever becomes of the
//! keys that it is sealed with, and wherever it is moved.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::Vault;

/// What a derived key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerivedKey {
    /// Signs customers' sessions, and the links in what they are shown.
    Sessions,
}

impl Vault {
    /// A key of the vault's own.
    pub fn derived_key(&self, which: DerivedKey) -> Zeroizing<[u8; 32]> {
        derive(&self.inner.pepper, which)
    }
}

fn derive(pepper: &[u8; 32], which: DerivedKey) -> Zeroizing<[u8; 32]> {
    let info: &[&[u8]] = match which {
        DerivedKey::Sessions => &[b"sessions"],
    };
    let mut key = Zeroizing::new([0; 32]);
    // Extracted first: the pepper itself is the key of digests.
    Salt::new(HKDF_SHA256, b"tokenward/1 derived keys")
        .extract(pepper)
        .expand(info, HKDF_SHA256)
        .and_then(|derived| derived.fill(&mut *key))
        .expect("HKDF gives 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_for_a_pepper_and_shows_nothing_of_it() {
        let key = derive(&[7; 32], DerivedKey::Sessions);
        assert_eq!(key, derive(&[7; 32], DerivedKey::Sessions));
        assert_ne!(key, derive(&[8; 32], DerivedKey::Sessions));
        assert_ne!(*key, [7; 32]);
    }
}
