//! What was granted is saved: with the attempt's end, or held back; in the spool while the store is away.

use std::time::Duration;

use super::super::Vault;
use crate::{
    authorize::{
        Account, AttemptRow, Digest, Failure, Held, Identity, Intent, NamedSecret, Outcome, Phase,
        Sameness, Secrets,
    },
    id::{AttemptId, ConnectionKey, GrantId, OwnerId},
    oauth::{KeptReply, TokenSet},
    refresh::{
        ledger::{FreshGrant, GrantRow},
        schedule,
    },
    seal::{Purpose, random_bytes},
    store::{
        Authorize, Authorized, Change, Conflict, Connection, ConnectionPatch, Stamped, StoreResult,
    },
    sync::lock,
    time::StoreTime,
};

/// How often a save is tried at once while others change the same.
const TRIES: usize = 8;
/// After how long a store that does not take it is asked again, and how often for a mere failure.
const PAUSE: Duration = Duration::from_secs(1);
const FAILURE_TRIES: usize = 30;

/// What became of using a grant.
pub(super) enum Landing {
    /// It is the connection's.
    Connected(Box<Connection>),
    /// Somebody has changed something: read again.
    Moved,
    /// It is not to be used.
    Failed(Failure),
}

/// What became of a save.
enum Saved {
    /// It is in the store.
    Done,
    /// Nobody waits for it any more: the attempt is gone, or has ended otherwise.
    Void,
    /// It was not to be used.
    Failed,
}

/// Whether a login may take the place of what the connection has; before anything is stored.
fn check(
    row: &AttemptRow,
    used: Option<&GrantRow>,
    held: &Held,
    now: StoreTime,
) -> Result<(), Failure> {
    let Some(used) = used else {
        return Ok(());
    };
    let Some(kept) = &used.consent else {
        // Tokens that were imported after the code was sent are newer.
        let seen = held.base.as_ref() == Some(&(used.id.clone(), used.authorized_version));
        return if seen {
            Ok(())
        } else {
            Err(Failure::Superseded)
        };
    };
    let came = &held.consent.identity;
    if account(row) == Account::Same {
        differs(&kept.identity, came, kept.identity.compare(came))?;
    }
    // The login whose code was sent last has the tokens that live. A time that has not come yet is from
    // before the clock jumped back.
    if held.consent.at < kept.at && kept.at <= now {
        return Err(Failure::Superseded);
    }
    Ok(())
}

fn differs(kept: &Identity, came: &Identity, how: Sameness) -> Result<(), Failure> {
    match how {
        Sameness::Same => Ok(()),
        Sameness::Other => Err(Failure::OtherAccount {
            kept: Box::new(kept.clone()),
            came: Box::new(came.clone()),
        }),
        Sameness::Untold => Err(Failure::UntoldAccount),
    }
}

fn account(row: &AttemptRow) -> Account {
    match row.intent {
        Intent::Switch => Account::Any,
        Intent::Connect | Intent::Reauthorize => Account::Same,
    }
}

impl Vault {
    /// Saves what was granted, however long that takes.
    pub(super) async fn save(&self, row: &AttemptRow, owner: &OwnerId, held: Held) {
        let inner = &self.inner;
        let name = format!("login-{}", row.id);
        let mut spooled = false;
        loop {
            match self.try_save(&row.connection, &row.id, owner, &held).await {
                Ok(_) => break,
                Err(error) if !spooled => {
                    tracing::error!(attempt = %row.id, %error, "what a login has granted could not be saved; it is kept and tried again");
                    let bytes = inner.spool_login(row, owner, &held);
                    lock(&inner.spooling).insert(name.clone());
                    match inner.spool.put(&name, &bytes).await {
                        Ok(()) => spooled = true,
                        Err(why) => {
                            tracing::error!(attempt = %row.id, %why, "the spool cannot be written; what was granted is only in memory");
                        }
                    }
                    inner.note_spool_depth();
                }
                Err(_) => {}
            }
            if spooled && inner.closing.is_cancelled() {
                // The next process finds it.
                return;
            }
            inner.clock.sleep(PAUSE).await;
        }
        if lock(&inner.spooling).contains(&name) {
            if let Err(why) = inner.spool.remove(&name).await {
                tracing::warn!(%why, "a spool entry that is not needed any more is left behind");
            }
            lock(&inner.spooling).remove(&name);
            inner.note_spool_depth();
        }
    }

    /// Takes over a login from the spool; whether it is done with.
    pub(in super::super) async fn adopt_login(
        &self,
        key: &ConnectionKey,
        attempt: &AttemptId,
        owner: &OwnerId,
        held: &Held,
    ) -> bool {
        match self.try_save(key, attempt, owner, held).await {
            Ok(saved) => {
                if let Saved::Done = saved {
                    tracing::info!(%attempt, "adopted a login from the spool");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%attempt, %error, "the store does not take a spooled login yet");
                false
            }
        }
    }

    async fn try_save(
        &self,
        key: &ConnectionKey,
        attempt: &AttemptId,
        owner: &OwnerId,
        held: &Held,
    ) -> StoreResult<Saved> {
        for _ in 0..TRIES {
            let Stamped { value, at } = self.inner.store.attempts_at(key).await?;
            let Some(row) = value.into_iter().find(|row| row.id == *attempt) else {
                tracing::warn!(%attempt, "the connection was deleted during a login; what was granted is not kept");
                self.revoke_granted(key, &held.tokens).await;
                return Ok(Saved::Void);
            };
            if !row.is_exchanged_by(owner) {
                let saved = matches!(
                    row.phase,
                    Phase::Unconfirmed { .. }
                        | Phase::Ended {
                            outcome: Outcome::Connected,
                            ..
                        }
                );
                return Ok(if saved { Saved::Done } else { Saved::Void });
            }
            let landing = match row.two_step {
                true => self.hold(&row, held, at).await?,
                false => match self.connect(&row, held, at).await? {
                    Landing::Connected(_) => Some(Ok(())),
                    Landing::Moved => None,
                    Landing::Failed(why) => Some(Err(why)),
                },
            };
            match landing {
                Some(Ok(())) => return Ok(Saved::Done),
                Some(Err(why)) => {
                    tracing::warn!(attempt = %row.id, %why, "a login is not used");
                    if self
                        .inner
                        .store
                        .replace_attempt(row.failed(why, at))
                        .await?
                    {
                        self.revoke_granted(key, &held.tokens).await;
                        return Ok(Saved::Failed);
                    }
                }
                None => {}
            }
        }
        Err(super::contended())
    }

    /// Keeps what was granted, sealed with the attempt, until it is confirmed. `None`: read again.
    async fn hold(
        &self,
        row: &AttemptRow,
        held: &Held,
        at: StoreTime,
    ) -> StoreResult<Option<Result<(), Failure>>> {
        let used = self.used(&row.connection).await?;
        if let Err(why) = check(row, used.as_ref(), held, at) {
            return Ok(Some(Err(why)));
        }
        let Ok(secrets) = self.open_secrets(row) else {
            let why = "what was sealed with it cannot be opened".to_owned();
            return Ok(Some(Err(Failure::Configuration(why))));
        };
        let token = NamedSecret::new(&row.id, random_bytes());
        let digest: Digest = token.digest();
        let secrets = Secrets {
            held: Some(Held {
                confirm: Some(token.secret),
                ..held.clone()
            }),
            ..secrets.kept()
        };
        let next = row.held(digest, self.seal(row, &secrets), at);
        let kept = self.inner.store.replace_attempt(next).await?;
        Ok(kept.then_some(Ok(())))
    }

    pub(super) async fn used(&self, key: &ConnectionKey) -> StoreResult<Option<GrantRow>> {
        let connection = self.inner.store.connection(key).await?;
        match connection.and_then(|connection| connection.grant) {
            Some(grant) => Ok(self.inner.store.grant(&grant).await?.value),
            None => Ok(None),
        }
    }

    /// Lets the connection use what was granted; the attempt ends with the same statement.
    pub(super) async fn connect(
        &self,
        row: &AttemptRow,
        held: &Held,
        at: StoreTime,
    ) -> StoreResult<Landing> {
        let inner = &self.inner;
        let key = &row.connection;
        let used = self.used(key).await?;
        if let Err(why) = check(row, used.as_ref(), held, at) {
            return Ok(Landing::Failed(why));
        }
        let tokens = &held.tokens;
        let fingerprint = inner.fingerprint(&key.application, &key.service, tokens);
        let (application, service) = (&key.application, &key.service);
        let twin = match &fingerprint {
            Some(token) => {
                inner
                    .store
                    .grant_by_fingerprint(application, service, token)
                    .await?
            }
            None => None,
        };
        // A provider that gives an account the same token each time: it is shared, never copied.
        let present = twin.or_else(|| used.clone().filter(|_| row.intent != Intent::Switch));
        let (grant, expected) = match present {
            Some(present) => (present.id, present.version),
            None => (GrantId::new(uuid::Uuid::now_v7().to_string()), 0),
        };
        let purpose = Purpose::TokenSet {
            grant: &grant,
            version: expected + 1,
        };
        let fresh = FreshGrant {
            counted_from: Some(held.consent.at),
            sealed: inner.keyring().seal(purpose, &tokens.to_plain()),
            expires_in: held.lifetime,
            lifetime: held.lifetime,
            keep_alive: held
                .rest
                .filter(|_| tokens.refresh_token.is_some())
                .map(|rest| schedule::keep_alive(rest, inner.chance.fraction())),
            fingerprint,
            consent: Some(Box::new(held.consent.clone())),
        };
        let request = Authorize {
            connection: key.clone(),
            held: used.as_ref().map(|used| used.id.clone()),
            grant,
            expected,
            account: account(row),
            fresh,
            patch: ConnectionPatch::default(),
            attempt: Some(Box::new(row.connected(at))),
        };
        let asked = inner.clock.now();
        let Stamped { value, at } = inner.store.authorize(request).await?;
        match value {
            Authorized::Done(connection, grant) => {
                tracing::info!(attempt = %row.id, grant = %grant.id, connector = %key.service, "a login was saved");
                let entry = inner.grants.pin().get(&grant.id).cloned();
                if let Some(entry) = entry {
                    // One that does not open is withdrawn, and the next who needs it is told why.
                    let _ = inner.adopt(&entry, &grant, at, asked);
                }
                self.apply(&[Change::Connection(key.clone())]).await;
                if let Some(before) = used.filter(|before| before.id != grant.id) {
                    self.revoke_replaced(row, &before);
                }
                Ok(Landing::Connected(connection))
            }
            Authorized::Conflict(Conflict::OtherAccount(kept, how)) => {
                let why = differs(&kept, &held.consent.identity, how);
                Ok(why.map_or_else(Landing::Failed, |()| Landing::Moved))
            }
            Authorized::Conflict(_) => Ok(Landing::Moved),
        }
    }

    /// What another account had granted is given back, unless another connection uses it. Nobody waits.
    fn revoke_replaced(&self, row: &AttemptRow, before: &GrantRow) {
        let (vault, before) = (self.clone(), before.clone());
        let key = row.connection.clone();
        self.inner.tracker.spawn(async move {
            let inner = &vault.inner;
            inner.grants.pin().remove(&before.id);
            let Ok(Stamped { value: None, .. }) = inner.store.grant(&before.id).await else {
                return;
            };
            let purpose = Purpose::TokenSet {
                grant: &before.id,
                version: before.version,
            };
            let opened = inner.unseal(purpose, &before.sealed).ok();
            if let Some(tokens) = opened.and_then(|plain| TokenSet::from_plain(&plain)) {
                vault.revoke_granted(&key, &tokens).await;
            }
        });
    }

    /// What is held is not used after all: it is forgotten, and given back where that harms nobody.
    pub(super) async fn give_up(&self, row: &AttemptRow, why: Failure, held: &Held, at: StoreTime) {
        tracing::warn!(attempt = %row.id, %why, "a login is not used");
        if let Ok(true) = self.inner.store.replace_attempt(row.failed(why, at)).await {
            self.revoke_granted(&row.connection, &held.tokens).await;
        }
    }

    /// Puts a failure on record, so that whoever comes back sees why.
    pub(super) async fn record_failure(
        &self,
        row: &AttemptRow,
        owner: &OwnerId,
        why: Failure,
        kept: Option<KeptReply>,
    ) {
        let inner = &self.inner;
        for _ in 0..FAILURE_TRIES {
            if let Ok(Stamped { value, at }) = inner.store.attempts_at(&row.connection).await {
                let present = value.into_iter().find(|it| it.id == row.id);
                let Some(present) = present.filter(|it| it.is_exchanged_by(owner)) else {
                    return;
                };
                let mut next = present.failed(why.clone(), at);
                if let Some(kept) = &kept {
                    // It may hold what nothing else does.
                    let secrets = Secrets {
                        unread: Some(kept.clone()),
                        ..Secrets::default()
                    };
                    next.sealed = self.seal(row, &secrets);
                }
                match inner.store.replace_attempt(next).await {
                    Ok(true) => return,
                    Ok(false) => continue,
                    Err(_) => {}
                }
            }
            if inner.closing.is_cancelled() {
                return;
            }
            inner.clock.sleep(PAUSE).await;
        }
    }
}
