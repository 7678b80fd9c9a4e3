//! The driver of one flight: performs the effects that [`Flight::step`] asks for, one at a time.
//!
//! It decides nothing about the protocol. It is a task of its own: callers wait for it, none owns
//! it.

use std::{sync::Arc, time::Duration};

use super::{
    Inner,
    entry::GrantEntry,
    join::Herald,
    provider::{Granted, Judged},
};
use crate::{
    connector::Connector,
    id::{ApplicationId, ConnectionKey, ConnectorId, OwnerId},
    observe::Signal,
    refresh::{
        flight::{Effect, Ending, Event, Fault, Flight, Outcome, Plan, Stored},
        gate::{Admission, Gate},
        ledger::{
            ClaimReply, ClaimRequest, CommitReply, CommitRequest, FailureKind, GrantRow, Need,
            SettleRequest,
        },
        replay::answer_patience,
    },
    seal::Purpose,
    store::{Stamped, StoreResult},
    sync::{atomic::Ordering, lock},
    time::{Boxed, Moment, StoreTime},
    transport::{LastLook, Patience},
};

/// Flies until the flight is over, then lets everybody know.
pub(super) async fn fly(
    inner: Arc<Inner>,
    entry: Arc<GrantEntry>,
    need: Need,
    seen: u64,
    mut herald: Herald,
) {
    // Whatever happens, even a panic: the slot is left, so that the next caller starts anew.
    let guard = SlotGuard(&entry);
    inner.observer.observe(&Signal::FlightBegan);
    let began = inner.clock.now();
    let mut pilot = Pilot::new(&inner, &entry, need, seen);
    let ending = pilot.fly(&mut herald).await;
    let not_before = match &ending {
        Ending::Refreshed { row, .. } | Ending::Adopted { row, .. } => {
            pilot.seen.last_without(row.version)
        }
        _ => None,
    };
    let (landing, outcome) = inner.land(&entry, ending, pilot.asked, not_before);
    drop(guard);
    inner.observer.observe(&Signal::FlightEnded {
        outcome,
        took: began.until(inner.clock.now()),
        waiters: herald.waiters(),
    });
    herald.announce(landing);
    // Only now: nobody may be served with less than what is committed while the disk is slow.
    pilot.unspool().await;
}

struct SlotGuard<'a>(&'a GrantEntry);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.0.clear_slot();
    }
}

/// The versions that were found in the store, and when it was asked.
#[derive(Default)]
struct Seen {
    newest: Option<(u64, Moment)>,
    before: Option<Moment>,
}

impl Seen {
    fn note(&mut self, version: u64, asked: Moment) {
        if let Some((newest, at)) = self.newest
            && newest < version
        {
            self.before = Some(at);
        }
        self.newest = Some((version, asked));
    }

    /// When the store was last asked and did not have this version yet, the newest.
    fn last_without(&self, version: u64) -> Option<Moment> {
        match self.newest {
            Some((newest, at)) if newest < version => Some(at),
            _ => self.before,
        }
    }
}

struct Pilot<'a> {
    inner: &'a Arc<Inner>,
    entry: &'a Arc<GrantEntry>,
    plan: Plan,
    owner: OwnerId,
    /// Our time before the newest store statement was asked, and the store's time of its reply.
    asked: Moment,
    stamp: StoreTime,
    seen: Seen,
    /// A commit that has no reply yet, and our time when it was asked for.
    saving: Option<(Moment, Boxed<'static, Saved>)>,
    /// The spool entry that this flight makes, and its writing while that goes on.
    spooled: Option<String>,
    spooling: Option<Boxed<'static, Result<(), String>>>,
    /// Its turn at the token endpoint's gate.
    turn: Option<Moment>,
}

type Saved = StoreResult<Stamped<CommitReply>>;

impl<'a> Pilot<'a> {
    fn new(inner: &'a Arc<Inner>, entry: &'a Arc<GrantEntry>, need: Need, seen: u64) -> Self {
        let number = inner.flights.fetch_add(1, Ordering::Relaxed);
        Self {
            inner,
            entry,
            plan: Plan {
                seen,
                need,
                policy: entry.connector.refresh.replay,
                claim_ttl: inner.config.claim_ttl,
                poll: inner.config.claim_poll,
                confirm_within: inner.config.confirm_within,
                well_since: inner.gate(entry, |gate| gate.well_since()),
                chance: inner.chance.fraction(),
            },
            owner: OwnerId::new(format!("{}-{number}", inner.name)),
            asked: inner.clock.now(),
            stamp: StoreTime(0),
            seen: Seen::default(),
            saving: None,
            spooled: None,
            spooling: None,
            turn: None,
        }
    }

    async fn fly(&mut self, herald: &mut Herald) -> Ending {
        tracing::debug!(grant = %self.entry.id, seen = self.plan.seen, need = ?self.plan.need, "refresh flight begins");
        let mut flight = Flight::new(self.plan.clone());
        let mut event = Event::Begin;
        loop {
            let (next, effect) = flight.step(event, self.inner.clock.now());
            flight = next;
            event = match effect {
                Effect::Look => {
                    let stored = self.stored(self.inner.store.grant(&self.entry.id)).await;
                    if let Stored::Ok(Some(row), _) = &stored {
                        self.seen.note(row.version, self.asked);
                    }
                    Event::Looked(stored)
                }
                Effect::Admit => Event::Admitted(self.admit()),
                Effect::Claim { seen, pardoned } => {
                    let request = ClaimRequest {
                        grant: self.entry.id.clone(),
                        seen,
                        owner: self.owner.clone(),
                        ttl: self.plan.claim_ttl,
                        need: self.plan.need,
                        policy: self.plan.policy,
                        pardoned,
                    };
                    let stored = self.stored(self.inner.store.claim(request)).await;
                    match &stored {
                        Stored::Ok(ClaimReply::Claimed(row), _) => {
                            self.seen.note(row.version, self.asked);
                        }
                        Stored::Ok(ClaimReply::Held(row) | ClaimReply::Newer(row), _) => {
                            self.seen.note(row.version, self.asked);
                            self.gate(Gate::unused);
                        }
                        _ => self.gate(Gate::unused),
                    }
                    Event::Claimed(stored)
                }
                Effect::Send { row, not_after } => {
                    Event::Answered(self.send(&row, not_after).await)
                }
                Effect::Commit {
                    row,
                    granted,
                    within,
                } => self.commit(&row, &granted, within).await,
                Effect::Spool { row, granted } => self.spool(&row, &granted).await,
                Effect::Serve { row, granted } => {
                    self.serve(*row, &granted, herald);
                    Event::Served
                }
                Effect::Settle { row, verdict } => {
                    let request = SettleRequest {
                        grant: row.id.clone(),
                        base: row.version,
                        epoch: row.epoch,
                        verdict,
                    };
                    Event::Settled(self.stored(self.inner.store.settle(request)).await)
                }
                Effect::Revoke { granted } => {
                    // A task of its own: what stands now is known, and nobody waits for the
                    // provider to hear of what does not.
                    let (inner, entry) = (self.inner.clone(), self.entry.clone());
                    self.inner.tracker.spawn(async move {
                        inner
                            .revoke_void(entry.whose(), &granted.tokens, true)
                            .await;
                    });
                    Event::Revoked
                }
                Effect::Sleep(pause) => {
                    tokio::select! {
                        biased;
                        () = self.inner.clock.sleep(pause) => {}
                        () = self.entry.changed.notified() => {}
                    }
                    Event::Woken
                }
                Effect::Rest(pause) => {
                    self.inner.clock.sleep(pause).await;
                    Event::Woken
                }
                Effect::Finish(ending) => return ending,
            };
        }
    }

    async fn stored<R>(
        &mut self,
        verb: impl Future<Output = StoreResult<Stamped<R>>>,
    ) -> Stored<R> {
        self.asked = self.inner.clock.now();
        match verb.await {
            Ok(stamped) => {
                self.stamp = stamped.at;
                Stored::Ok(stamped.value, stamped.at)
            }
            Err(error) => Stored::Down(error.to_string()),
        }
    }

    fn gate<R>(&self, ask: impl FnOnce(&mut Gate) -> R) -> R {
        self.inner.gate(self.entry, ask)
    }

    fn admit(&mut self) -> Admission {
        let now = self.inner.clock.now();
        let mut turn = self.turn.take();
        let admission = self.gate(|gate| gate.admit(now, self.plan.need, &mut turn));
        self.turn = turn;
        admission
    }

    /// Uses the refresh token, extending the claim while the provider thinks.
    async fn send(&mut self, row: &GrantRow, not_after: Moment) -> Outcome<Arc<Granted>> {
        let prepared = match self.inner.prepare(self.entry, row).await {
            Ok(prepared) => prepared,
            Err(message) => {
                self.gate(Gate::unused);
                return Outcome::Failed {
                    kind: FailureKind::Configuration,
                    fault: Fault::Grant,
                    message,
                    retry_after: None,
                };
            }
        };
        let inner = self.inner;
        let Inner {
            config,
            clock,
            transport,
            store,
            observer,
            ..
        } = &**inner;
        let (stamp, asked) = (self.stamp, self.asked);
        let store_now = |now| stamp + asked.until(now);
        let stated = self.entry.connector.token.answer_timeout();
        let patience = Patience {
            connect: config.connect_timeout.min(config.claim_ttl / 2),
            answer: answer_patience(
                self.plan.policy,
                stated.unwrap_or(config.answer_timeout),
                row.expires_at,
                store_now(clock.now()),
            ),
            not_after: Some(not_after),
            last_look: self.last_look(row),
        };
        let keep_claim = async {
            loop {
                clock.sleep(config.claim_ttl / 3).await;
                // A claim that is lost, or cannot be extended, is no reason to hang up: the answer
                // that is under way may be the only living token, and is adopted while no other
                // version is committed.
                if let Ok(false) = store.extend(&row.id, row.epoch, config.claim_ttl).await {
                    tracing::warn!(grant = %row.id, "the claim was taken over while waiting for the provider");
                    observer.observe(&Signal::ClaimLost { grant: &row.id });
                    return std::future::pending::<()>().await;
                }
            }
        };
        // Both at once: a store that takes its time does not keep the answer waiting, nor the
        // answer's own time limits from being looked at.
        let answer = tokio::select! {
            biased;
            answer = transport.exchange(prepared.request.clone(), patience) => answer,
            () = keep_claim => unreachable!("a claim is kept for as long as it takes"),
        };
        let now = clock.now();
        let Judged { outcome, kept } =
            self.inner
                .judge(self.entry, &prepared, answer, store_now(now));
        let over = match &outcome {
            Outcome::Granted(_) | Outcome::Refused { .. } => self.gate(|gate| gate.well(now)),
            Outcome::Failed {
                fault, retry_after, ..
            } => self.gate(|gate| gate.ill(*fault, *retry_after, now)),
            Outcome::TooLate => {
                self.gate(Gate::unused);
                false
            }
        };
        if over {
            self.inner.recovered.notify_waiters();
        }
        if let Some(reply) = kept {
            self.inner.keep_unread(row, &reply, store_now(now)).await;
        }
        outcome
    }

    /// A refresh token that may be spent is sent again because nothing is left to lose. While the
    /// connection is made, the answer that was missed may still come home to who asked before, and
    /// be saved: then there is.
    fn last_look(&self, row: &GrantRow) -> Option<LastLook> {
        row.attempt.as_ref().filter(|attempt| attempt.sends > 1)?;
        let (store, grant) = (self.inner.store.clone(), row.id.clone());
        let (version, epoch) = (row.version, row.epoch);
        Some(LastLook::new(move || {
            let (store, grant) = (store.clone(), grant.clone());
            Box::pin(async move {
                let read = store.grant(&grant).await.ok().and_then(|read| read.value);
                read.is_some_and(|row| (row.version, row.epoch) == (version, epoch))
            })
        }))
    }

    fn commit_request(&self, row: &GrantRow, granted: &Granted) -> CommitRequest {
        let version = row.version + 1;
        CommitRequest {
            grant: row.id.clone(),
            base: row.version,
            epoch: row.epoch,
            sent_at: row
                .attempt
                .as_ref()
                .map_or(row.expires_at.unwrap_or(StoreTime(0)), |a| a.last_at),
            sealed: self.inner.keyring().seal(
                Purpose::TokenSet {
                    grant: &row.id,
                    version,
                },
                &granted.tokens.to_plain(),
            ),
            lifetime: granted.lifetime,
            keep_alive: granted.keep_alive,
            fingerprint: self
                .inner
                .fingerprint(&row.application, &row.connector, &granted.tokens),
        }
    }

    /// Commits, or goes on with the commit that is under way.
    async fn commit(
        &mut self,
        row: &GrantRow,
        granted: &Granted,
        within: Option<Duration>,
    ) -> Event<Arc<Granted>> {
        let clock = &self.inner.clock;
        let (asked, mut reply) = self.saving.take().unwrap_or_else(|| {
            let (store, request) = (self.inner.store.clone(), self.commit_request(row, granted));
            let commit = Box::pin(async move { store.commit(request).await });
            (clock.now(), commit)
        });
        let impatient = async {
            match within {
                Some(within) => clock.sleep(within).await,
                None => std::future::pending().await,
            }
        };
        let saved = tokio::select! {
            biased;
            saved = &mut reply => saved,
            () = impatient => {
                self.saving = Some((asked, reply));
                return Event::Unconfirmed;
            }
        };
        self.saved(row, asked, saved)
    }

    fn saved(&mut self, row: &GrantRow, asked: Moment, saved: Saved) -> Event<Arc<Granted>> {
        self.asked = asked;
        Event::Committed(match saved {
            Ok(stamped) => {
                self.stamp = stamped.at;
                Stored::Ok(stamped.value, stamped.at)
            }
            Err(error) => {
                tracing::error!(grant = %row.id, %error, "a granted token could not be saved; it is kept and tried again");
                Stored::Down(error.to_string())
            }
        })
    }

    /// Writes the spool's entry, unless a commit that is under way is quicker.
    async fn spool(&mut self, row: &GrantRow, granted: &Granted) -> Event<Arc<Granted>> {
        let request = self.commit_request(row, granted);
        let name = format!("{}-{}-{}", row.id, row.version, row.epoch);
        let bytes = self.inner.spool_bytes(row, &request, granted);
        let mut put: Boxed<'static, _> = {
            let (spool, name) = (self.inner.spool.clone(), name.clone());
            Box::pin(async move { spool.put(&name, &bytes).await })
        };
        lock(&self.inner.spooling).insert(name.clone());
        self.inner.note_spool_depth();
        self.spooled = Some(name);
        let reply = async {
            match &mut self.saving {
                Some((asked, reply)) => (*asked, reply.await),
                None => std::future::pending().await,
            }
        };
        let kept = tokio::select! {
            biased;
            (asked, saved) = reply => {
                self.saving = None;
                // What is being written is still to be removed.
                self.spooling = Some(put);
                return self.saved(row, asked, saved);
            }
            kept = &mut put => kept,
        };
        match &kept {
            Ok(()) => {
                tracing::warn!(grant = %row.id, "the store has not taken the granted token yet; it is safe in the spool");
            }
            Err(why) => {
                tracing::error!(grant = %row.id, %why, "the store has not taken the granted token, and the spool cannot be written; it is only in memory");
            }
        }
        Event::Spooled(kept.is_ok())
    }

    /// Gives callers what is durable in the spool, as the version that it will be.
    fn serve(&self, row: GrantRow, granted: &Granted, herald: &mut Herald) {
        let mut row = row;
        row.commit(self.commit_request(&row, granted));
        let now = self.inner.clock.now();
        let at = self.stamp + self.asked.until(now);
        match self.inner.adopt_ahead(self.entry, &row, at, now) {
            Ok(true) => {
                tracing::info!(grant = %row.id, version = row.version, "the token in the spool is served until the store takes it");
                herald.announce_ahead(self.entry);
            }
            // Something newer is there already. It may be older than what those who wait have asked for.
            Ok(false) => {}
            Err(error) => {
                tracing::error!(grant = %row.id, %error, "what is in the spool cannot be read");
            }
        }
    }

    async fn unspool(&mut self) {
        if let Some(name) = &self.spooled {
            if let Some(put) = self.spooling.take() {
                // Whether it was written or not: it goes.
                let _ = put.await;
            }
            if let Err(why) = self.inner.spool.remove(name).await {
                tracing::warn!(%why, "a spool entry that is not needed any more is left behind");
            }
            lock(&self.inner.spooling).remove(name);
            self.inner.note_spool_depth();
        }
    }
}

impl Inner {
    /// The gate of a grant's token endpoint and client.
    pub(super) fn gate<R>(&self, entry: &GrantEntry, ask: impl FnOnce(&mut Gate) -> R) -> R {
        self.gate_of(&entry.application, &entry.connector, ask)
    }

    pub(super) fn gate_of<R>(
        &self,
        application: &ApplicationId,
        connector: &Connector,
        ask: impl FnOnce(&mut Gate) -> R,
    ) -> R {
        let key = (application.clone(), connector.id.clone());
        let mut gates = lock(&self.gates);
        ask(gates
            .entry(key)
            .or_insert_with(|| Gate::new(connector.gate_limits())))
    }

    /// A token endpoint failed somebody who has no grant yet.
    pub(super) fn gate_ill(
        &self,
        key: &ConnectionKey,
        connector: &Connector,
        fault: Fault,
        retry_after: Option<Duration>,
    ) {
        let now = self.clock.now();
        self.gate_of(&key.application, connector, |gate| {
            gate.ill(fault, retry_after, now)
        });
    }

    /// An OAuth client was set: what its grants were refused for may be mended.
    pub(super) fn client_mended(&self, application: &ApplicationId, connector: &ConnectorId) {
        let Some(connector) = self.catalogue.find(connector.as_str()) else {
            return;
        };
        let now = self.clock.now();
        self.gate_of(application, connector, |gate| gate.mended(now));
        self.recovered.notify_waiters();
    }
}
