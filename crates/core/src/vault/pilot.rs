//! The driver of one flight: performs the effects that [`Flight::step`] asks for, one at a time.
//!
//! It decides nothing about the protocol. It is a task of its own: callers wait for it, none owns
//! it.

use std::sync::Arc;

use super::{
    Inner,
    entry::GrantEntry,
    join::Herald,
    provider::{Granted, Judged},
};
use crate::{
    id::OwnerId,
    observe::Signal,
    refresh::{
        flight::{Effect, Ending, Event, Flight, Outcome, Plan, Stored},
        gate::{Admission, Gate},
        ledger::{
            ClaimReply, ClaimRequest, CommitRequest, FailureKind, GrantRow, Need, SettleRequest,
        },
    },
    seal::Purpose,
    store::{Stamped, StoreResult},
    sync::{atomic::Ordering, lock},
    time::{Moment, StoreTime},
    transport::{LastLook, Patience},
};

/// Flies until the flight is over, then lets everybody know.
pub(super) async fn fly(
    inner: Arc<Inner>,
    entry: Arc<GrantEntry>,
    need: Need,
    seen: u64,
    herald: Herald,
) {
    // Whatever happens, even a panic: the slot is left, so that the next caller starts anew.
    let guard = SlotGuard(&entry);
    inner.observer.observe(&Signal::FlightBegan);
    let began = inner.clock.now();
    let mut pilot = Pilot::new(&inner, &entry, need, seen);
    let ending = pilot.fly(seen).await;
    let (landing, outcome) = inner.land(&entry, ending, pilot.asked);
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

struct Pilot<'a> {
    inner: &'a Arc<Inner>,
    entry: &'a Arc<GrantEntry>,
    plan: Plan,
    owner: OwnerId,
    /// Our time before the newest store statement was asked, and the store's time of its reply.
    asked: Moment,
    stamp: StoreTime,
    /// The spool entry that this flight has made.
    spooled: Option<String>,
    /// Its turn at the token endpoint's gate.
    turn: Option<Moment>,
}

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
                chance: inner.chance.fraction(),
            },
            owner: OwnerId::new(format!("{}-{number}", inner.name)),
            asked: inner.clock.now(),
            stamp: StoreTime(0),
            spooled: None,
            turn: None,
        }
    }

    async fn fly(&mut self, seen: u64) -> Ending {
        tracing::debug!(grant = %self.entry.id, seen, need = ?self.plan.need, "refresh flight begins");
        let mut flight = Flight::new(self.plan.clone());
        let mut event = Event::Begin;
        loop {
            let (next, effect) = flight.step(event, self.inner.clock.now());
            flight = next;
            event = match effect {
                Effect::Look => {
                    Event::Looked(self.stored(self.inner.store.grant(&self.entry.id)).await)
                }
                Effect::Admit => Event::Admitted(self.admit()),
                Effect::Claim => {
                    let request = ClaimRequest {
                        grant: self.entry.id.clone(),
                        seen: self.plan.seen,
                        owner: self.owner.clone(),
                        ttl: self.plan.claim_ttl,
                        need: self.plan.need,
                        policy: self.plan.policy,
                    };
                    let stored = self.stored(self.inner.store.claim(request)).await;
                    if !matches!(stored, Stored::Ok(ClaimReply::Claimed(_), _)) {
                        self.gate(Gate::unused);
                    }
                    Event::Claimed(stored)
                }
                Effect::Send { row, not_after } => {
                    Event::Answered(self.send(&row, not_after).await)
                }
                Effect::Commit { row, granted } => {
                    let request = self.commit_request(&row, &granted);
                    let stored = self.stored(self.inner.store.commit(request)).await;
                    if let Stored::Down(why) = &stored {
                        tracing::error!(grant = %row.id, %why, "a granted token could not be saved; it is kept and tried again");
                    }
                    Event::Committed(stored)
                }
                Effect::Spool { row, granted } => {
                    self.spool(&row, &granted).await;
                    Event::Spooled
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
                Effect::Revoke { granted, .. } => {
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
        let key = (
            self.entry.application.clone(),
            self.entry.connector.id.clone(),
        );
        let mut gates = lock(&self.inner.gates);
        ask(gates
            .entry(key)
            .or_insert_with(|| Gate::new(self.entry.connector.gate_limits())))
    }

    fn admit(&mut self) -> Admission {
        let now = self.inner.clock.now();
        let mut turn = self.turn.take();
        let admission = self.gate(|gate| gate.admit(now, &mut turn));
        self.turn = turn;
        admission
    }

    /// Uses the refresh token, extending the claim while the provider thinks.
    async fn send(&self, row: &GrantRow, not_after: Moment) -> Outcome<Arc<Granted>> {
        let prepared = match self.inner.prepare(self.entry, row).await {
            Ok(prepared) => prepared,
            Err(message) => {
                self.gate(Gate::unused);
                return Outcome::Failed {
                    kind: FailureKind::Configuration,
                    message,
                    retry_after: None,
                };
            }
        };
        let Inner {
            config,
            clock,
            transport,
            store,
            observer,
            ..
        } = &**self.inner;
        let patience = Patience {
            connect: config.connect_timeout.min(config.claim_ttl / 2),
            answer: config.answer_timeout,
            not_after: Some(not_after),
            last_look: self.last_look(row),
        };
        let exchange = transport.exchange(prepared.request.clone(), patience);
        tokio::pin!(exchange);
        let mut lost = false;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut exchange => break answer,
                () = clock.sleep(config.claim_ttl / 3) => {}
            }
            // A claim that is lost, or cannot be extended, is no reason to hang up: the answer
            // that is under way may be the only living token, and is adopted while no other
            // version is committed.
            if let Ok(false) = store.extend(&row.id, row.epoch, config.claim_ttl).await
                && !lost
            {
                lost = true;
                tracing::warn!(grant = %row.id, "the claim was taken over while waiting for the provider");
                observer.observe(&Signal::ClaimLost { grant: &row.id });
            }
        };
        let now = clock.now();
        let store_now = self.stamp + self.asked.until(now);
        let Judged {
            outcome,
            of_this_grant,
        } = self.inner.judge(self.entry, &prepared, answer, store_now);
        match &outcome {
            Outcome::Granted(_) | Outcome::Refused { .. } => self.gate(Gate::well),
            Outcome::Failed { .. } if of_this_grant => self.gate(Gate::well),
            Outcome::Failed {
                kind, retry_after, ..
            } => self.gate(|gate| gate.ill(*kind, *retry_after, now)),
            Outcome::TooLate => self.gate(Gate::unused),
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

    async fn spool(&mut self, row: &GrantRow, granted: &Granted) {
        let request = self.commit_request(row, granted);
        let name = format!("{}-{}-{}", row.id, row.version, row.epoch);
        lock(&self.inner.spooling).insert(name.clone());
        self.spooled = Some(name.clone());
        match self
            .inner
            .spool
            .put(&name, &self.inner.spool_bytes(row, &request, granted))
            .await
        {
            Ok(()) => {
                tracing::warn!(grant = %row.id, "the store is down; the granted token waits in the spool");
            }
            Err(why) => {
                tracing::error!(grant = %row.id, %why, "the store is down and the spool cannot be written; the granted token is only in memory");
            }
        }
        self.inner.note_spool_depth().await;
    }

    async fn unspool(&self) {
        if let Some(name) = &self.spooled {
            if let Err(why) = self.inner.spool.remove(name).await {
                tracing::warn!(%why, "a spool entry that is not needed any more is left behind");
            }
            lock(&self.inner.spooling).remove(name);
            self.inner.note_spool_depth().await;
        }
    }
}
