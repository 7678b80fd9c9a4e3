//! Answers that could not be read: kept, sealed, beside their grant, and read again when somebody
//! knows better.

use std::{sync::Arc, time::Duration};

use super::{AdminError, Inner, Vault, admin::Given, spooling::unread_bytes};
use crate::{
    id::{ConnectionKey, GrantId},
    oauth::{KeptReply, TokenReply, TokenSet},
    refresh::ledger::GrantRow,
    seal::Purpose,
    store::{Connection, ConnectionPatch, UnreadAnswer},
    sync::lock,
    time::{Boxed, StoreTime},
};

/// How often a store that does not take an answer is asked again, and after which pauses.
const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_secs(1);

/// An answer that is kept, opened.
#[derive(Clone, Debug)]
pub struct Unread {
    /// The claim under which the request was sent.
    pub epoch: u64,
    /// The version whose refresh token was used.
    pub base: u64,
    /// When it came.
    pub at: StoreTime,
    /// What came.
    pub reply: KeptReply,
}

/// What became of a recovery.
#[derive(Clone, Debug)]
pub enum Recovered {
    /// The tokens of an answer that was kept are the connection's now.
    Done {
        /// The connection.
        connection: Box<Connection>,
        /// When the answer came.
        at: StoreTime,
    },
    /// None of the answers that are kept can be read in the connector's dialect.
    Unreadable {
        /// How many there are.
        answers: usize,
    },
    /// The grant has moved on since; what is kept is older.
    Outdated,
    /// Nothing is kept.
    Nothing,
}

impl Inner {
    /// Keeps an answer beside its grant. While the store does not take it, it waits in the spool:
    /// when this returns it is durable in one of them, if that can be had.
    pub(super) async fn keep_unread(
        self: &Arc<Self>,
        row: &GrantRow,
        reply: &KeptReply,
        at: StoreTime,
    ) {
        let purpose = Purpose::UnreadAnswer {
            grant: &row.id,
            epoch: row.epoch,
        };
        let answer = UnreadAnswer {
            grant: row.id.clone(),
            epoch: row.epoch,
            base: row.version,
            at,
            sealed: self.keyring().seal(purpose, &reply.to_plain()),
        };
        let mut keeping: Boxed<'static, bool> = {
            let (inner, answer) = (self.clone(), answer.clone());
            Box::pin(async move { inner.try_keep(&answer).await })
        };
        let under_way = tokio::select! {
            biased;
            kept = &mut keeping => {
                if kept {
                    return;
                }
                None
            }
            () = self.clock.sleep(self.config.confirm_within) => Some(keeping),
        };
        let name = format!("{}-{}-{}-unread", row.id, row.version, row.epoch);
        lock(&self.spooling).insert(name.clone());
        self.note_spool_depth();
        let spooled = self.spool.put(&name, &unread_bytes(&answer)).await;
        if let Err(why) = &spooled {
            tracing::error!(grant = %row.id, %why, "an answer of the token endpoint that could not be read is only in memory: the store has not taken it, and the spool cannot be written");
        }
        let inner = self.clone();
        self.tracker.spawn(async move {
            let kept = inner.keep_later(under_way, &answer);
            match inner.closing.run_until_cancelled(kept).await {
                Some(true) => inner.forget_spooled(&name).await,
                _ if spooled.is_ok() => {}
                _ => tracing::error!(grant = %answer.grant, "an answer of the token endpoint that could not be read is lost: the store is away"),
            }
            lock(&inner.spooling).remove(&name);
            inner.note_spool_depth();
        });
    }

    /// Whether the store takes an answer at last.
    async fn keep_later(
        &self,
        under_way: Option<Boxed<'static, bool>>,
        answer: &UnreadAnswer,
    ) -> bool {
        if let Some(under_way) = under_way
            && under_way.await
        {
            return true;
        }
        for _ in 0..TRIES {
            self.clock.sleep(PAUSE).await;
            if self.try_keep(answer).await {
                return true;
            }
        }
        false
    }

    /// Whether nothing is left to be done.
    pub(super) async fn try_keep(&self, answer: &UnreadAnswer) -> bool {
        match self.store.keep_unread(answer.clone()).await {
            Ok(true) => {
                tracing::warn!(grant = %answer.grant, epoch = answer.epoch, "an answer of the token endpoint could not be read; it is kept");
                true
            }
            Ok(false) => true,
            Err(error) => {
                tracing::warn!(grant = %answer.grant, %error, "an answer of the token endpoint that could not be read is not kept yet");
                false
            }
        }
    }
}

impl Vault {
    /// The answers that are kept of a connection's grant, oldest first.
    ///
    /// # Errors
    ///
    /// [`AdminError`], also for one that does not open.
    pub async fn unread(&self, key: &ConnectionKey) -> Result<Vec<Unread>, AdminError> {
        let connection = self.inner.store.connection(key).await?;
        let connection =
            connection.ok_or_else(|| AdminError::UnknownConnection(key.to_string()))?;
        let Some(grant) = connection.grant else {
            return Ok(Vec::new());
        };
        let answers = self.inner.store.unread(&grant).await?;
        answers
            .iter()
            .map(|answer| self.open_unread(answer))
            .collect()
    }

    fn open_unread(&self, answer: &UnreadAnswer) -> Result<Unread, AdminError> {
        let purpose = Purpose::UnreadAnswer {
            grant: &answer.grant,
            epoch: answer.epoch,
        };
        let reply = self
            .inner
            .unseal(purpose, &answer.sealed)
            .map_err(|error| error.to_string())
            .and_then(|plain| {
                KeptReply::from_plain(&plain).ok_or_else(|| "it is malformed".to_owned())
            })
            .map_err(|why| AdminError::SealedAnswer(answer.grant.to_string(), why))?;
        Ok(Unread {
            epoch: answer.epoch,
            base: answer.base,
            at: answer.at,
            reply,
        })
    }

    /// Reads the answers that are kept again, newest first, in the connector's dialect as it is
    /// now. The first that has tokens is the connection's new authorization, unless the grant has
    /// moved on since.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn recover(&self, key: &ConnectionKey) -> Result<Recovered, AdminError> {
        let connector = self.connector_of(key)?;
        let answers = self.unread(key).await?;
        if answers.is_empty() {
            return Ok(Recovered::Nothing);
        }
        let connection = self.inner.store.connection(key).await?;
        let grant = connection.and_then(|connection| connection.grant);
        let row = match &grant {
            Some(grant) => self.inner.store.grant(grant).await?.value,
            None => None,
        };
        let Some(row) = row else {
            return Ok(Recovered::Nothing);
        };
        if answers.iter().all(|answer| answer.base != row.version) {
            return Ok(Recovered::Outdated);
        }
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let old = self.inner.unseal(purpose, &row.sealed).ok();
        let old = old.and_then(|plain| TokenSet::from_plain(&plain));
        let old = old.unwrap_or_else(TokenSet::empty);
        for answer in answers.iter().rev().filter(|it| it.base == row.version) {
            let dialect = &connector.token.dialect;
            let TokenReply::Granted(response) = answer.reply.read(dialect, answer.at.0) else {
                continue;
            };
            let said = response.expires_in;
            let rest = response.refresh_expires_in.or(connector.idle_lifetime());
            let tokens = old.succeeded_by(response);
            let lifetime = match tokens.access_token {
                Some(_) => connector.lifetime(said, tokens.refreshable()),
                None => Some(Duration::ZERO),
            };
            let at = answer.at;
            let life = move |now: StoreTime| {
                let left = lifetime.map(|lifetime| now.until(at.min(now) + lifetime));
                (left, lifetime)
            };
            let patch = ConnectionPatch::default();
            let connection = self
                .authorize(key, &tokens, patch, rest, life, Given::Later)
                .await?;
            self.forget_unread(&row.id, &answers).await?;
            let connection = Box::new(connection);
            return Ok(Recovered::Done { connection, at });
        }
        let answers = answers.len();
        Ok(Recovered::Unreadable { answers })
    }

    async fn forget_unread(&self, grant: &GrantId, answers: &[Unread]) -> Result<(), AdminError> {
        for answer in answers {
            self.inner.store.remove_unread(grant, answer.epoch).await?;
        }
        Ok(())
    }
}
