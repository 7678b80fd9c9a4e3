//! Sealing anew, after a key was added.

use super::{Vault, admin::AdminError};
use crate::{
    seal::{Purpose, SealError},
    store::StoreError,
};

impl Vault {
    /// Seals everything anew that is not sealed with the active key; safe while others work.
    /// Returns how many values were sealed anew.
    ///
    /// # Errors
    ///
    /// [`AdminError::Store`], also for a value that does not open.
    pub async fn reseal(&self) -> Result<usize, AdminError> {
        let inner = &self.inner;
        let mut count = 0;
        let mut after = None;
        loop {
            let page = inner.store.grants_after(after.as_ref(), 256).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for row in page
                .iter()
                .filter(|row| inner.keyring().is_outdated(&row.sealed))
            {
                let purpose = Purpose::TokenSet {
                    grant: &row.id,
                    version: row.version,
                };
                let plain = inner
                    .unseal(purpose, &row.sealed)
                    .map_err(|error| unreadable(&row.id, &error))?;
                // A version that moved meanwhile is sealed with the active key already.
                count += usize::from(
                    inner
                        .store
                        .reseal(&row.id, row.version, inner.keyring().seal(purpose, &plain))
                        .await?,
                );
            }
        }
        for application in inner.store.applications().await? {
            for mut client in inner.store.clients(&application.id).await? {
                if let Some(sealed) = client
                    .sealed_secret
                    .as_ref()
                    .filter(|sealed| inner.keyring().is_outdated(sealed))
                {
                    let secret = inner
                        .open_client_secret(&client, sealed)
                        .map_err(|error| unreadable(&client.connector, &error))?;
                    let purpose = Purpose::ClientSecret {
                        application: client.application.as_str(),
                        connector: client.connector.as_str(),
                    };
                    client.sealed_secret =
                        Some(inner.keyring().seal(purpose, secret.expose().as_bytes()));
                    inner.store.put_client(client).await?;
                    count += 1;
                }
            }
        }
        // The pepper comes last: it is what an opening vault checks its key against.
        let purpose = Purpose::Vault { name: "pepper" };
        inner
            .store
            .put_value("pepper", inner.keyring().seal(purpose, &inner.pepper[..]))
            .await?;
        Ok(count)
    }
}

fn unreadable(what: &impl std::fmt::Display, error: &SealError) -> StoreError {
    StoreError(format!("{what}: {error}"))
}
