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
        count += self.reseal_unread().await?;
        count += self.reseal_clients().await?;
        // The pepper comes last: it is what an opening vault checks its key against.
        let purpose = Purpose::Vault { name: "pepper" };
        if let Some(read) = inner.store.value("pepper").await? {
            let sealed = inner.keyring().seal(purpose, &inner.pepper[..]);
            inner.store.replace_value("pepper", &read, sealed).await?;
        }
        Ok(count)
    }

    async fn reseal_unread(&self) -> Result<usize, AdminError> {
        let inner = &self.inner;
        let (mut count, mut after) = (0, None);
        loop {
            let place = after.as_ref().map(|(grant, epoch)| (grant, *epoch));
            let page = inner.store.unread_after(place, 256).await?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = Some((last.grant.clone(), last.epoch));
            let outdated = |sealed: &[u8]| inner.keyring().is_outdated(sealed);
            for answer in page.iter().filter(|answer| outdated(&answer.sealed)) {
                let purpose = Purpose::UnreadAnswer {
                    grant: &answer.grant,
                    epoch: answer.epoch,
                };
                let plain = inner
                    .unseal(purpose, &answer.sealed)
                    .map_err(|error| unreadable(&answer.grant, &error))?;
                let sealed = inner.keyring().seal(purpose, &plain);
                count += usize::from(inner.store.reseal_unread(answer, sealed).await?);
            }
        }
    }

    async fn reseal_clients(&self) -> Result<usize, AdminError> {
        let inner = &self.inner;
        let (mut count, mut after) = (0, None);
        loop {
            let place = after.as_ref().map(|(application, id)| (application, id));
            let page = inner.store.clients_after(place, 256).await?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = Some((last.application.clone(), last.connector.clone()));
            for client in &page {
                let Some(sealed) = client
                    .sealed_secret
                    .as_ref()
                    .filter(|sealed| inner.keyring().is_outdated(sealed))
                else {
                    continue;
                };
                let secret = inner
                    .open_client_secret(client, sealed)
                    .map_err(|error| unreadable(&client.connector, &error))?;
                let purpose = Purpose::ClientSecret {
                    application: client.application.as_str(),
                    connector: client.connector.as_str(),
                };
                let sealed = inner.keyring().seal(purpose, secret.expose().as_bytes());
                // A secret that was set meanwhile is sealed with the active key already.
                count += usize::from(inner.store.reseal_client(client, sealed).await?);
            }
        }
    }
}

fn unreadable(what: &impl std::fmt::Display, error: &SealError) -> StoreError {
    StoreError::Refused(format!("{what}: {error}"))
}
