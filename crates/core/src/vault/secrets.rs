//! Keys of the vault's own, beside its pepper: made when they are first asked for, sealed in its store, the
//! same for all processes on it.

use zeroize::Zeroizing;

use super::{OpenError, Vault, admin::AdminError, reseal::Resealed};
use crate::seal::{Purpose, SealError, random_bytes};

/// A key of the vault's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultSecret {
    /// Signs customers' sessions.
    Sessions,
}

impl VaultSecret {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Sessions];

    /// The name of the value that holds it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "session key",
        }
    }

    fn purpose(self) -> Purpose<'static> {
        Purpose::Vault { name: self.name() }
    }
}

impl Vault {
    /// A key of the vault's own.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn secret(&self, which: VaultSecret) -> Result<Zeroizing<[u8; 32]>, OpenError> {
        let inner = &self.inner;
        let fresh = inner.keyring().seal(which.purpose(), &random_bytes::<32>());
        let sealed = inner.store.value_or_insert(which.name(), fresh).await?;
        let wrong = |error| {
            let ids: Vec<_> = inner.keyring().ids().map(ToString::to_string).collect();
            OpenError::WrongKey(error, ids.join(", "))
        };
        let opened = inner.unseal(which.purpose(), &sealed).map_err(wrong)?;
        let key = opened.as_slice().try_into();
        key.map(Zeroizing::new)
            .map_err(|_| wrong(SealError::Malformed))
    }

    pub(super) async fn reseal_secrets(&self, done: &mut Resealed) -> Result<(), AdminError> {
        let inner = &self.inner;
        for which in VaultSecret::ALL {
            let Some(read) = inner.store.value(which.name()).await? else {
                continue;
            };
            if !inner.keyring().is_outdated(&read) {
                continue;
            }
            let opened = inner.unseal(which.purpose(), &read);
            let Some(plain) = done.opened(&which.name(), opened) else {
                continue;
            };
            let sealed = inner.keyring().seal(which.purpose(), &plain);
            let replaced = inner.store.replace_value(which.name(), &read, sealed);
            done.count += usize::from(replaced.await?);
        }
        Ok(())
    }
}
