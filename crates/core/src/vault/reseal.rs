//! Sealing anew, after a key was added.

use std::fmt;

use super::{Vault, admin::AdminError};
use crate::{
    authorize::AttemptRow,
    seal::{Purpose, SealError},
};

impl Vault {
    /// Seals everything anew that is not sealed with the active key; safe while others work.
    /// Returns how many values were sealed anew.
    ///
    /// # Errors
    ///
    /// [`AdminError::Store`]; [`AdminError::Unreadable`] in the end if there are values that do not
    /// open, which keeps none of the others from being sealed anew.
    pub async fn reseal(&self) -> Result<usize, AdminError> {
        let inner = &self.inner;
        let mut done = Resealed::default();
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
                let Some(plain) = done.opened(&row.id, inner.unseal(purpose, &row.sealed)) else {
                    continue;
                };
                // A version that moved meanwhile is sealed with the active key already.
                let sealed = inner.keyring().seal(purpose, &plain);
                done.count += usize::from(inner.store.reseal(&row.id, row.version, sealed).await?);
            }
        }
        self.reseal_unread(&mut done).await?;
        self.reseal_attempts(&mut done).await?;
        self.reseal_clients(&mut done).await?;
        // The pepper comes last: it is what an opening vault checks its key against.
        let purpose = Purpose::Vault { name: "pepper" };
        if let Some(read) = inner.store.value("pepper").await? {
            let sealed = inner.keyring().seal(purpose, &inner.pepper[..]);
            inner.store.replace_value("pepper", &read, sealed).await?;
        }
        done.result()
    }

    async fn reseal_unread(&self, done: &mut Resealed) -> Result<(), AdminError> {
        let inner = &self.inner;
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(grant, epoch)| (grant, *epoch));
            let page = inner.store.unread_after(place, 256).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.grant.clone(), last.epoch));
            let outdated = |sealed: &[u8]| inner.keyring().is_outdated(sealed);
            for answer in page.iter().filter(|answer| outdated(&answer.sealed)) {
                let purpose = Purpose::UnreadAnswer {
                    grant: &answer.grant,
                    epoch: answer.epoch,
                };
                let opened = inner.unseal(purpose, &answer.sealed);
                let Some(plain) = done.opened(&answer.grant, opened) else {
                    continue;
                };
                let sealed = inner.keyring().seal(purpose, &plain);
                done.count += usize::from(inner.store.reseal_unread(answer, sealed).await?);
            }
        }
    }

    async fn reseal_attempts(&self, done: &mut Resealed) -> Result<(), AdminError> {
        let inner = &self.inner;
        let mut after = None;
        loop {
            let page = inner.store.attempts_after(after.as_ref(), 256).await?;
            if page.is_empty() {
                return Ok(());
            }
            after = page.last().map(|row| row.id.clone());
            let outdated = |sealed: &[u8]| inner.keyring().is_outdated(sealed);
            for row in page.into_iter().filter(|row| outdated(&row.sealed)) {
                let purpose = Purpose::Attempt {
                    attempt: &row.id,
                    connection: &row.connection,
                };
                let opened = inner.unseal(purpose, &row.sealed);
                let Some(plain) = done.opened(&row.id, opened) else {
                    continue;
                };
                let sealed = inner.keyring().seal(purpose, &plain);
                // What moved meanwhile is sealed with the active key already.
                let resealed = AttemptRow { sealed, ..row };
                done.count += usize::from(inner.store.replace_attempt(resealed).await?);
            }
        }
    }

    async fn reseal_clients(&self, done: &mut Resealed) -> Result<(), AdminError> {
        let inner = &self.inner;
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(application, id)| (application, id));
            let page = inner.store.clients_after(place, 256).await?;
            let Some(last) = page.last() else {
                return Ok(());
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
                let opened = inner.open_client_secret(client, sealed);
                let Some(secret) = done.opened(&client.connector, opened) else {
                    continue;
                };
                let purpose = Purpose::ClientSecret {
                    application: client.application.as_str(),
                    connector: client.connector.as_str(),
                };
                let sealed = inner.keyring().seal(purpose, secret.expose().as_bytes());
                // A secret that was set meanwhile is sealed with the active key already.
                done.count += usize::from(inner.store.reseal_client(client, sealed).await?);
            }
        }
    }
}

/// What has been sealed anew, and what could not be.
#[derive(Default)]
struct Resealed {
    count: usize,
    unreadable: Vec<String>,
}

impl Resealed {
    fn opened<T>(&mut self, what: &impl fmt::Display, opened: Result<T, SealError>) -> Option<T> {
        opened
            .map_err(|error| self.unreadable.push(format!("{what}: {error}")))
            .ok()
    }

    fn result(self) -> Result<usize, AdminError> {
        if self.unreadable.is_empty() {
            return Ok(self.count);
        }
        let first = self.unreadable.iter().take(5).cloned();
        Err(AdminError::Unreadable {
            resealed: self.count,
            unreadable: self.unreadable.len(),
            first: first.collect::<Vec<_>>().join("; "),
        })
    }
}
