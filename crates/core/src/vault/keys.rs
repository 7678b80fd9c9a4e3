//! The keys, which may change while the vault is open.

use std::{collections::BTreeSet, sync::Arc};

use zeroize::Zeroizing;

use super::{Inner, Vault};
use crate::{
    seal::{KeyId, Keyring, Purpose, SealError},
    store::StoreError,
    sync::lock,
};

/// Why keys are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They do not open the vault.
    #[error("the keys given do not open this vault: {0}")]
    WrongKey(SealError),
}

impl Inner {
    /// The keys as they are now.
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load().clone()
    }

    /// Opens what is sealed. A key that is not here is asked for.
    pub(super) fn unseal(
        &self,
        purpose: Purpose<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let opened = self.keyring.load().open(purpose, sealed);
        if let Err(SealError::UnknownKey(id)) = &opened
            && lock(&self.missing_keys).insert(id.clone())
        {
            tracing::error!(key = %id, "a stored value is sealed with a key that is not among those given");
            self.key_missing.notify_one();
        }
        opened
    }
}

impl Vault {
    /// The keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.inner.keyring()
    }

    /// Returns when something did not open because its key is not among those given: time to read
    /// them again, and to call [`reload_keys`](Self::reload_keys).
    pub async fn key_missing(&self) {
        self.inner.key_missing.notified().await;
    }

    /// Takes other keys: in the place of those of before, without a restart. What did not open
    /// for want of a key is read again when it is used next.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; the keys of before are kept then.
    pub async fn reload_keys(&self, keyring: Keyring) -> Result<(), ReloadError> {
        let purpose = Purpose::Vault { name: "pepper" };
        let fresh = keyring.seal(purpose, &self.inner.pepper[..]);
        let sealed = self.inner.store.value_or_insert("pepper", fresh).await?;
        let pepper = keyring
            .open(purpose, &sealed)
            .map_err(ReloadError::WrongKey)?;
        if *pepper != self.inner.pepper[..] {
            return Err(ReloadError::WrongKey(SealError::Altered));
        }
        lock(&self.inner.missing_keys).retain(|id| keyring.find(id).is_none());
        let keyring = Arc::new(keyring);
        self.inner.keyring.rcu(|_| keyring.clone());
        Ok(())
    }

    /// The keys that stored values name and that were not given, as far as they have come up.
    pub fn missing_keys(&self) -> BTreeSet<KeyId> {
        lock(&self.inner.missing_keys).clone()
    }
}
