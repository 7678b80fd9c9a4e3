//! What becomes of attempts that nobody comes back to.

use super::super::Vault;
use crate::{
    authorize::Due,
    store::{Stamped, StoreResult},
};

/// How many are looked at at once.
const PAGE: usize = 100;

impl Vault {
    /// Gives up what was not confirmed in time, and forgets what is over for long. Several processes may
    /// do it at once.
    pub(in super::super) async fn tidy_attempts(&self) {
        if let Err(error) = self.try_tidy().await {
            tracing::debug!(%error, "logins that are over are not tidied up yet");
        }
    }

    async fn try_tidy(&self) -> StoreResult<()> {
        let store = &self.inner.store;
        loop {
            let Stamped { value, at } = store.attempts_due(PAGE).await?;
            let mut moved = false;
            for row in &value {
                match row.due(at) {
                    Due::Nothing => {}
                    Due::Forget => moved |= store.remove_attempt(&row.id, row.revision).await?,
                    Due::GiveUp(next) => {
                        let held = self.open_secrets(row).ok().and_then(|it| it.held);
                        if store.replace_attempt(*next).await? {
                            moved = true;
                            tracing::info!(attempt = %row.id, "a login was not confirmed in time");
                            if let Some(held) = held {
                                self.revoke_granted(&row.connection, &held.tokens).await;
                            }
                        }
                    }
                }
            }
            // What others are at is theirs.
            if value.len() < PAGE || !moved {
                return Ok(());
            }
        }
    }
}
