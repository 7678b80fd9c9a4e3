//! What waits in the spool, written and adopted.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Inner, Vault,
    provider::{Granted, Whose},
};
use crate::{
    authorize::{AttemptRow, Held},
    id::{ApplicationId, AttemptId, ConnectionKey, ConnectorId, GrantId, OwnerId},
    oauth::TokenSet,
    observe::Signal,
    refresh::ledger::{CommitReply, CommitRequest, GrantRow},
    seal::{Purpose, SealError},
    spool::Spooled,
    store::UnreadAnswer,
    sync::{atomic::Ordering, lock},
    time::StoreTime,
};

/// The file: what is needed to open it stands outside the seal.
#[derive(Serialize, Deserialize)]
struct Envelope {
    grant: GrantId,
    sealed: String,
    /// What stands beside an answer that could not be read; `None`: tokens are sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unread: Option<UnreadLabel>,
}

#[derive(Serialize, Deserialize)]
struct UnreadLabel {
    epoch: u64,
    base: u64,
    at: StoreTime,
}

/// The entry of an answer that could not be read. It is sealed already.
pub(super) fn unread_bytes(answer: &UnreadAnswer) -> Vec<u8> {
    let envelope = Envelope {
        grant: answer.grant.clone(),
        sealed: STANDARD.encode(&answer.sealed),
        unread: Some(UnreadLabel {
            epoch: answer.epoch,
            base: answer.base,
            at: answer.at,
        }),
    };
    serde_json::to_vec(&envelope).expect("plain data serializes")
}

/// What [`unread_bytes`] wrote; `None`: it is something else.
fn read_unread(bytes: &[u8]) -> Option<UnreadAnswer> {
    let envelope: Envelope = serde_json::from_slice(bytes).ok()?;
    let UnreadLabel { epoch, base, at } = envelope.unread?;
    Some(UnreadAnswer {
        grant: envelope.grant,
        epoch,
        base,
        at,
        sealed: STANDARD.decode(&envelope.sealed).ok()?,
    })
}

/// The file of a login.
#[derive(Serialize, Deserialize)]
struct LoginEnvelope {
    attempt: AttemptId,
    sealed: String,
}

/// Inside the seal.
#[derive(Serialize, Deserialize)]
struct LoginLetter {
    connection: ConnectionKey,
    owner: OwnerId,
    held: String,
}

/// Inside the seal.
#[derive(Serialize, Deserialize)]
struct Letter {
    base: u64,
    epoch: u64,
    sent_at: StoreTime,
    lifetime_ms: Option<u64>,
    keep_alive_ms: Option<u64>,
    fingerprint: Option<[u8; 32]>,
    tokens: String,
    /// Where to revoke it, should the grant be gone by then.
    application: ApplicationId,
    connector: ConnectorId,
}

fn millis(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

enum Unreadable {
    /// The key is not here now, but may come.
    NoKey(SealError),
    /// Nothing will ever open it.
    Corrupt,
}

impl Unreadable {
    fn of(error: SealError) -> Self {
        match error {
            SealError::UnknownKey(_) => Self::NoKey(error),
            SealError::Malformed | SealError::Altered => Self::Corrupt,
        }
    }
}

impl Inner {
    pub(super) fn spool_bytes(
        &self,
        row: &GrantRow,
        request: &CommitRequest,
        granted: &Granted,
    ) -> Vec<u8> {
        let letter = Letter {
            base: request.base,
            epoch: request.epoch,
            sent_at: request.sent_at,
            lifetime_ms: millis(request.lifetime),
            keep_alive_ms: millis(request.keep_alive),
            fingerprint: request.fingerprint,
            tokens: STANDARD.encode(granted.tokens.to_plain()),
            application: row.application.clone(),
            connector: row.connector.clone(),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&letter).expect("plain data serializes"));
        let sealed = self.keyring().seal(
            Purpose::Spool {
                grant: &request.grant,
            },
            &plain,
        );
        let envelope = Envelope {
            grant: request.grant.clone(),
            sealed: STANDARD.encode(sealed),
            unread: None,
        };
        serde_json::to_vec(&envelope).expect("plain data serializes")
    }

    /// What a login has granted.
    pub(super) fn spool_login(&self, row: &AttemptRow, owner: &OwnerId, held: &Held) -> Vec<u8> {
        let letter = LoginLetter {
            connection: row.connection.clone(),
            owner: owner.clone(),
            held: STANDARD.encode(held.to_plain()),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&letter).expect("plain data serializes"));
        let purpose = Purpose::SpooledAttempt { attempt: &row.id };
        let envelope = LoginEnvelope {
            attempt: row.id.clone(),
            sealed: STANDARD.encode(self.keyring().seal(purpose, &plain)),
        };
        serde_json::to_vec(&envelope).expect("plain data serializes")
    }

    fn read_login(&self, envelope: &LoginEnvelope) -> Result<(LoginLetter, Held), Unreadable> {
        let sealed = STANDARD
            .decode(&envelope.sealed)
            .map_err(|_| Unreadable::Corrupt)?;
        let purpose = Purpose::SpooledAttempt {
            attempt: &envelope.attempt,
        };
        let plain = self.unseal(purpose, &sealed).map_err(Unreadable::of)?;
        let letter: LoginLetter =
            serde_json::from_slice(&plain).map_err(|_| Unreadable::Corrupt)?;
        let held = Zeroizing::new(
            STANDARD
                .decode(&letter.held)
                .map_err(|_| Unreadable::Corrupt)?,
        );
        let held = Held::from_plain(&held).ok_or(Unreadable::Corrupt)?;
        Ok((letter, held))
    }

    fn read_spooled(&self, bytes: &[u8]) -> Result<(GrantId, Letter, TokenSet), Unreadable> {
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| Unreadable::Corrupt)?;
        let sealed = STANDARD
            .decode(&envelope.sealed)
            .map_err(|_| Unreadable::Corrupt)?;
        let plain = self
            .unseal(
                Purpose::Spool {
                    grant: &envelope.grant,
                },
                &sealed,
            )
            .map_err(Unreadable::of)?;
        let letter: Letter = serde_json::from_slice(&plain).map_err(|_| Unreadable::Corrupt)?;
        let tokens = Zeroizing::new(
            STANDARD
                .decode(&letter.tokens)
                .map_err(|_| Unreadable::Corrupt)?,
        );
        let tokens = TokenSet::from_plain(&tokens).ok_or(Unreadable::Corrupt)?;
        Ok((envelope.grant, letter, tokens))
    }

    pub(super) async fn forget_spooled(&self, name: &str) {
        if let Err(why) = self.spool.remove(name).await {
            tracing::warn!(%why, "an adopted spool entry is left behind; adopting it again is harmless");
        }
    }

    /// Tells how many answers wait. Flights count their own; the rest were counted when the spool
    /// was last adopted. To read the spool for this would make an outage's work grow with its
    /// square.
    pub(super) fn note_spool_depth(&self) {
        let depth = lock(&self.spooling).len() + self.spool_rest.load(Ordering::Relaxed);
        self.observer.observe(&Signal::SpoolDepth(depth));
    }
}

impl Vault {
    /// Commits every answer that waits in the spool, oldest first. Called at the start and by the
    /// upkeep; safe to call from several processes at once. Returns how many are left.
    pub async fn adopt_spool(&self) -> usize {
        let inner = &self.inner;
        let entries = match inner.spool.entries().await {
            Ok(entries) => entries,
            Err(why) => {
                tracing::error!(%why, "the spool cannot be read; what waits in it is kept");
                return 0;
            }
        };
        let (mut ours, mut rest) = (0, 0);
        for entry in entries {
            if lock(&inner.spooling).contains(&entry.name) {
                ours += 1;
            } else if !self.adopt_one(&entry).await {
                rest += 1;
            }
        }
        inner.spool_rest.store(rest, Ordering::Relaxed);
        inner.note_spool_depth();
        ours + rest
    }

    /// Whether the entry is done with.
    async fn adopt_one(&self, entry: &Spooled) -> bool {
        let inner = &self.inner;
        let name = &entry.name;
        if let Ok(envelope) = serde_json::from_slice::<LoginEnvelope>(&entry.bytes) {
            return self.adopt_spooled_login(name, &envelope).await;
        }
        if let Some(answer) = read_unread(&entry.bytes) {
            let kept = inner.try_keep(&answer).await;
            if kept {
                inner.forget_spooled(name).await;
            }
            return kept;
        }
        let (grant, letter, tokens) = match inner.read_spooled(&entry.bytes) {
            Ok(read) => read,
            Err(unreadable) => return self.unreadable(name, unreadable).await,
        };
        let purpose = Purpose::TokenSet {
            grant: &grant,
            version: letter.base + 1,
        };
        let request = CommitRequest {
            grant: grant.clone(),
            base: letter.base,
            epoch: letter.epoch,
            sent_at: letter.sent_at,
            sealed: inner.keyring().seal(purpose, &tokens.to_plain()),
            lifetime: letter.lifetime_ms.map(Duration::from_millis),
            keep_alive: letter.keep_alive_ms.map(Duration::from_millis),
            fingerprint: letter.fingerprint,
        };
        let void = match inner.store.commit(request).await {
            Err(error) => {
                tracing::warn!(%grant, %error, "the store does not take a spooled token yet");
                return false;
            }
            Ok(stamped) => match stamped.value {
                CommitReply::Committed { row, .. } => {
                    tracing::info!(%grant, version = row.version, "adopted a token from the spool");
                    false
                }
                CommitReply::Superseded(_) => {
                    tracing::info!(%grant, "a spooled token was superseded");
                    false
                }
                CommitReply::Reauthorized(_) | CommitReply::Missing => true,
            },
        };
        if void && let Some(connector) = inner.catalogue.find(letter.connector.as_str()) {
            let whose = Whose {
                grant: Some(&grant),
                application: &letter.application,
                connector,
                settings: None,
            };
            inner.revoke_void(whose, &tokens, true).await;
        }
        inner.forget_spooled(name).await;
        true
    }

    /// Whether the entry is done with.
    async fn adopt_spooled_login(&self, name: &str, envelope: &LoginEnvelope) -> bool {
        let (letter, held) = match self.inner.read_login(envelope) {
            Ok(read) => read,
            Err(unreadable) => return self.unreadable(name, unreadable).await,
        };
        let (key, owner) = (&letter.connection, &letter.owner);
        let adopted = self.adopt_login(key, &envelope.attempt, owner, &held);
        if !adopted.await {
            return false;
        }
        self.inner.forget_spooled(name).await;
        true
    }

    /// Whether an entry that does not open is done with.
    async fn unreadable(&self, name: &str, unreadable: Unreadable) -> bool {
        match unreadable {
            Unreadable::NoKey(error) => {
                tracing::error!(entry = %name, %error, "a spooled token is sealed with another key; give that key too");
                false
            }
            Unreadable::Corrupt => {
                tracing::error!(entry = %name, "a spool entry is corrupt; it is put aside, not deleted");
                if let Err(why) = self.inner.spool.set_aside(name).await {
                    tracing::error!(%why, "it could not even be put aside");
                }
                true
            }
        }
    }
}
