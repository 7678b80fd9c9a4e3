//! Whether a process should be given requests.

use std::{fmt, time::Duration};

use super::Vault;
use crate::{seal::KeyId, store::Freeze};

/// Why a process should be given no requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotReady {
    /// The store does not answer. What is in memory is served nevertheless.
    StoreAway(String),
    /// The vault is being moved to another store, or has been: this one takes no refresh.
    Moved,
    /// Stored values are sealed with keys that were not given.
    KeysMissing(Vec<KeyId>),
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoreAway(why) => write!(f, "the store does not answer: {why}"),
            Self::Moved => f.write_str(Freeze::WORDS),
            Self::KeysMissing(ids) => {
                f.write_str("stored values are sealed with keys that were not given: ")?;
                for (index, id) in ids.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{id}")?;
                }
                Ok(())
            }
        }
    }
}

impl Vault {
    /// What stands in the way of serving; empty if nothing does. Asks the store, for at most
    /// `wait`.
    pub async fn readiness(&self, wait: Duration) -> Vec<NotReady> {
        let mut causes = Vec::new();
        let deadline = self.inner.clock.now() + wait;
        let asked = async {
            self.inner.store.changes(None).await?;
            Ok(self.inner.store.frozen().await?)
        };
        match self.inner.within(deadline, asked).await {
            Ok(Freeze::Nothing) => {}
            Ok(_) => causes.push(NotReady::Moved),
            Err(error) => causes.push(NotReady::StoreAway(error.to_string())),
        }
        let missing = self.missing_keys();
        if !missing.is_empty() {
            causes.push(NotReady::KeysMissing(missing.into_iter().collect()));
        }
        causes
    }
}
