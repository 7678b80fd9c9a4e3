//! What callers ask for: a live token, from memory or from a flight.

use std::{sync::Arc, time::Duration};

use super::{
    Inner, Vault,
    entry::{GrantEntry, Snapshot},
    join::{Joined, Landing, News},
    resolve::Resolved,
    token::{Held, Token},
};
use crate::{
    error::TokenError,
    id::ConnectionKey,
    observe::{Served, Signal},
    refresh::{
        distrust::{Distrust, Newest, Remedy},
        ledger::Need,
        waiting::{Then, Wait, Waiting},
    },
    sync::{atomic::Ordering, lock},
    time::Moment,
};

/// After this many new versions a caller takes one that is stale: a provider may grant tokens that
/// are stale from the start.
const ENOUGH_LANDINGS: u32 = 2;

impl Vault {
    /// A live access token for a connection, refreshed first if it is stale.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within [`VaultConfig::wait`](super::VaultConfig::wait).
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait only; a refresh that is under way goes on.
    pub async fn token(&self, connection: &ConnectionKey) -> Result<Held, TokenError> {
        // Looked at where it lies: counting references to it would be a write.
        if let Some(resolved) = self.inner.connections.pin().get(connection)
            && resolved.trusted()
            && let Ok(token) = self.inner.at_hand(resolved)
        {
            return Ok(token);
        }
        let deadline = self.inner.clock.now() + self.inner.config.wait;
        // Boxed to keep the fast path's future small.
        let search = async {
            let resolved = self.resolve_by(connection, deadline).await?;
            self.token_by(&resolved, deadline).await
        };
        Box::pin(search).await
    }

    /// As [`token`](Self::token), for a connection that was resolved before, and with the
    /// caller's own patience.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within `wait`.
    pub async fn token_for(&self, resolved: &Resolved, wait: Duration) -> Result<Held, TokenError> {
        match self.inner.at_hand(resolved) {
            Ok(token) => Ok(token),
            Err(_) => {
                let deadline = self.inner.clock.now() + wait;
                // Boxed to keep the fast path's future small.
                Box::pin(self.token_by(resolved, deadline)).await
            }
        }
    }

    async fn token_by(&self, resolved: &Resolved, deadline: Moment) -> Result<Held, TokenError> {
        match self.inner.at_hand(resolved) {
            Ok(token) => Ok(token),
            Err(seen) => {
                self.obtain(&resolved.grant, Need::Stale, seen, deadline)
                    .await
            }
        }
    }

    /// The access token if it is fresh: nobody is asked, and nothing waited for.
    pub fn fresh(&self, resolved: &Resolved) -> Option<Held> {
        self.inner.at_hand(resolved).ok()
    }

    /// As [`validate_within`](Self::validate_within), within
    /// [`VaultConfig::wait`](super::VaultConfig::wait).
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub async fn validate(&self, connection: &ConnectionKey) -> Result<Held, TokenError> {
        self.validate_within(connection, self.inner.config.wait)
            .await
    }

    /// Forces one refresh, whatever the expiry, and answers with the new token. Joins a refresh
    /// that is under way; one that others began after this call arrived satisfies it. A token that
    /// lives and cannot be refreshed is answered with as it is.
    ///
    /// # Errors
    ///
    /// [`TokenError`], within `wait`.
    pub async fn validate_within(
        &self,
        connection: &ConnectionKey,
        wait: Duration,
    ) -> Result<Held, TokenError> {
        let deadline = self.inner.clock.now() + wait;
        let resolved = self.resolve_by(connection, deadline).await?;
        if !resolved.grant.snapshot().refreshable {
            // A person may have authorized it anew.
            let reload = self.inner.reload(&resolved.grant);
            self.inner.within(deadline, reload).await?;
        }
        // What other processes have committed by now does not satisfy it: a forced flight begins
        // with a look at the store, and one that is under way knows when it has looked.
        let snapshot = resolved.grant.snapshot();
        if !snapshot.refreshable {
            return match snapshot.alive(self.inner.clock.now()) {
                true => Held::of(snapshot).ok_or(TokenError::NoRefreshToken),
                false => Err(TokenError::NoRefreshToken),
            };
        }
        let seen = snapshot.version;
        drop(snapshot);
        self.obtain(&resolved.grant, Need::Forced, seen, deadline)
            .await
    }

    /// A better token than one that the API has rejected as expired: the newer one if there is
    /// one by now, else one refresh for all who ask.
    ///
    /// `Ok(None)`: there is none to be had, and the API's answer stands. A grant whose freshly
    /// granted tokens are rejected, too, is refreshed again only after pauses that grow from a
    /// second to an hour; until it is [`accepted`](Self::accepted).
    ///
    /// # Errors
    ///
    /// [`TokenError`], within `wait`.
    pub async fn rejected(
        &self,
        resolved: &Resolved,
        token: &Token,
        wait: Duration,
    ) -> Result<Option<Held>, TokenError> {
        let deadline = self.inner.clock.now() + wait;
        if token.grant_id() != resolved.grant_id() {
            return self.successor(resolved, token, deadline).await;
        }
        let entry = &resolved.grant;
        if entry.snapshot().version == token.version() && !self.remedy(entry, deadline).await {
            return Ok(None);
        }
        let newer = self.obtain(entry, Need::Rejected, token.version(), deadline);
        match newer.await {
            Err(error @ TokenError::Dead { .. }) => {
                // The API does not take it, and none will follow.
                entry.withdraw(token.version());
                Err(error)
            }
            // The connection may have been authorized anew meanwhile.
            Err(TokenError::NotAuthorized(_)) => self.successor(resolved, token, deadline).await,
            newer => newer.map(Some),
        }
    }

    /// The API took a token of a connection: what was said against the grant's tokens counts no
    /// more. Costs next to nothing where nothing was.
    pub fn accepted(&self, resolved: &Resolved, token: &Token) {
        let entry = &resolved.grant;
        if !entry.distrusted.load(Ordering::Relaxed) || token.grant_id() != &entry.id {
            return;
        }
        let now = self.inner.clock.now();
        let mut distrust = lock(&entry.distrust);
        let Some(distrust) = &mut *distrust else {
            return;
        };
        let before = distrust.refused();
        distrust.accepted(token.version(), now);
        if before.is_some() && distrust.refused().is_none() {
            tracing::info!(grant = %entry.id, "the API takes the grant's tokens again");
            self.inner
                .observer
                .observe(&Signal::TokensAccepted { grant: &entry.id });
        }
    }

    /// How often in a row the API has refused tokens that the provider had just granted, as far as
    /// this process was told; 0 if it takes them.
    pub fn refusals(&self, resolved: &Resolved) -> u32 {
        let distrust = lock(&resolved.grant.distrust);
        let refused = distrust.as_ref().and_then(|distrust| distrust.refused());
        refused.map_or(0, |(refusals, _)| refusals)
    }

    /// Whether something can be done about the rejection of the newest version.
    async fn remedy(&self, entry: &Arc<GrantEntry>, deadline: Moment) -> bool {
        let snapshot = entry.snapshot();
        let version = snapshot.version;
        let newest = Newest {
            refreshable: snapshot.refreshable,
            authorized: snapshot.refreshed.is_none(),
        };
        let (granted, end) = (snapshot.refreshed, snapshot.expires);
        drop(snapshot);
        match self.inner.distrust(entry, version, newest, granted, end) {
            Remedy::Refresh => true,
            Remedy::None => false,
            Remedy::Look => {
                // Another process may have refreshed it, or a person authorized it anew.
                let looked = self.inner.within(deadline, self.inner.reload(entry)).await;
                if let Err(error) = looked {
                    tracing::debug!(grant = %entry.id, %error, "the API's word on a token could not be compared with the store");
                }
                entry.snapshot().version > version
            }
        }
    }

    /// The present token of a connection, instead of another grant's that was rejected.
    ///
    /// Version numbers of two grants say nothing beside each other, and the present grant's token
    /// has not been rejected.
    async fn successor(
        &self,
        resolved: &Resolved,
        token: &Token,
        deadline: Moment,
    ) -> Result<Option<Held>, TokenError> {
        let present = self.resolve_by(&resolved.key, deadline).await?;
        if present.grant_id() == token.grant_id() {
            return Ok(None);
        }
        self.token_by(&present, deadline).await.map(Some)
    }

    /// Waits for a version newer than `seen`, flying as needed.
    async fn obtain(
        &self,
        entry: &Arc<GrantEntry>,
        need: Need,
        seen: u64,
        deadline: Moment,
    ) -> Result<Held, TokenError> {
        entry.note_use();
        let served = self.search(entry, need, seen, deadline).await;
        let how = served.as_ref().map_or(Served::Failed, |(_, how)| *how);
        self.inner.observer.observe(&Signal::Served(how));
        served.map(|(token, _)| token)
    }

    async fn search(
        &self,
        entry: &Arc<GrantEntry>,
        need: Need,
        seen: u64,
        deadline: Moment,
    ) -> Result<(Held, Served), TokenError> {
        let Inner { clock, config, .. } = &*self.inner;
        let begun = clock.now();
        let waiting = Waiting {
            begun,
            deadline,
            stale_wait: config.stale_wait,
            old_token_survives: entry.connector.refresh.old_token_survives == Some(true),
        };
        // The old token, where it will do until there is a better one.
        let old = || {
            let snapshot = entry.snapshot();
            let stale = need.of(seen, snapshot.version) == Need::Stale;
            (stale && snapshot.alive(clock.now())).then(|| Held::of(snapshot))?
        };
        let (mut landings, mut refreshed) = (0, false);
        // A forced refresh wants a version that was committed after it was asked for, or by a
        // flight of this process that it has joined.
        let mut after = need != Need::Forced;
        loop {
            if entry.snapshot().replaced() {
                // What others have made of it is to be known before anything else is done.
                self.inner
                    .within(deadline, self.inner.reload(entry))
                    .await?;
            }
            let enough = |newer: &Snapshot| {
                let now = clock.now();
                let after = after || newer.refreshed.is_some_and(|at| at >= begun);
                let good = newer.fresh(now)
                    || refreshed && newer.fleeting()
                    || landings >= ENOUGH_LANDINGS && newer.good_since(begun, now);
                after && good
            };
            let waiter = match self.inner.join(entry, need, seen, enough)? {
                Joined::Newer(token) => return Ok((token, Served::Joined)),
                Joined::Flight(waiter) => waiter,
            };
            let now = clock.now();
            let token = old();
            let patience = match (waiting.wait(now, token.as_ref().map(Held::old)), token) {
                (Wait::Not, Some(token)) => return Ok((token, Served::Stale)),
                (Wait::Until(patience), _) => patience,
                (Wait::Not, None) => deadline,
            };
            let landing = tokio::select! {
                biased;
                landing = waiter.landed() => Some(landing),
                () = clock.sleep(now.until(patience)) => None,
            };
            let (now, token) = (clock.now(), old());
            let life = token.as_ref().map(Held::old);
            let (then, error) = match landing {
                // A version was saved for its refresh token; to ask again at once would help nobody.
                Some(Landing::Newer(_)) if entry.snapshot().token.is_none() => {
                    (Then::GiveUp, TokenError::UnusableToken)
                }
                Some(Landing::Newer(News { ours, not_before })) if now < deadline => {
                    landings += 1;
                    refreshed |= ours;
                    after |= ours || not_before.is_some_and(|at| at >= begun);
                    continue;
                }
                Some(Landing::Failed { error, retry_at }) => {
                    (waiting.failed(life, retry_at), error)
                }
                Some(Landing::Newer(_)) | None => {
                    (waiting.out_of_patience(now, life), overdue(begun, now))
                }
            };
            match (then, token) {
                (Then::ServeOld, Some(token)) => return Ok((token, Served::Stale)),
                (Then::WaitOn, _) => {}
                (Then::TryAgainAt(at), _) => {
                    tokio::select! {
                        biased;
                        () = clock.sleep(now.until(at)) => {}
                        () = entry.changed.notified() => {}
                        () = self.inner.recovered.notified() => {}
                    }
                }
                (Then::GiveUp | Then::ServeOld, _) => return Err(error),
            }
        }
    }
}

fn overdue(begun: Moment, now: Moment) -> TokenError {
    TokenError::DeadlineExceeded {
        waited_ms: u64::try_from(begun.until(now).as_millis()).unwrap_or(u64::MAX),
    }
}

impl Inner {
    /// The token in memory, if it is fresh: no lock, no allocation, nobody is waited for.
    ///
    /// The version that is stale and the token that is fresh are of one look: with a second one a
    /// token that was granted in between would be called stale, and refreshed.
    fn at_hand(&self, resolved: &Resolved) -> Result<Held, u64> {
        let snapshot = resolved.grant.snapshot();
        let version = snapshot.version;
        if !snapshot.fresh(self.clock.now()) {
            return Err(version);
        }
        resolved.grant.note_use();
        self.observer.observe(&Signal::Served(Served::Fresh));
        Held::of(snapshot).ok_or(version)
    }

    /// Waits for the store until a caller's deadline.
    pub(super) async fn within<T>(
        &self,
        deadline: Moment,
        answer: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let begun = self.clock.now();
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.clock.sleep(begun.until(deadline)) => Err(overdue(begun, self.clock.now())),
        }
    }

    fn distrust(
        &self,
        entry: &GrantEntry,
        version: u64,
        newest: Newest,
        granted: Option<Moment>,
        end: Option<Moment>,
    ) -> Remedy {
        let now = self.clock.now();
        let mut distrust = lock(&entry.distrust);
        let distrust = distrust.get_or_insert_with(|| Box::new(Distrust::default()));
        let (before, answered) = (distrust.refused(), distrust.answered());
        let remedy = distrust.rejected(version, newest, now);
        if distrust.answered() != answered
            && let (Some(granted), Some(end)) = (granted, end)
        {
            // Whoever sees this again and again knows what to say in the connector.
            let (age_s, left_s) = (granted.until(now).as_secs(), now.until(end).as_secs());
            tracing::info!(grant = %entry.id, connector = %entry.connector.id, age_s, left_s, "the API has rejected a token before its stated end; it is refreshed. token.longest_lifetime_s tells of tokens that always end early");
        }
        entry.distrusted.store(true, Ordering::Relaxed);
        if let Some((refusals, until)) = distrust.refused()
            && before != Some((refusals, until))
        {
            let pause = self.clock.now().until(until);
            if before.is_none() {
                tracing::warn!(grant = %entry.id, connector = %entry.connector.id, "the API refuses tokens that the provider has just granted; they are refreshed ever more rarely");
            }
            self.observer.observe(&Signal::TokensRefused {
                grant: &entry.id,
                refusals,
                pause,
            });
        }
        remedy
    }
}
