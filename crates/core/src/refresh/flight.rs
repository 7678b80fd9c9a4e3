//! One flight: how a process gets a newer version of one grant.
//!
//! [`Flight::step`] is the protocol's decision function: (state, event, time) to (state, effect).
//! The driver performs one effect at a time and feeds back the event that came of it; it decides
//! nothing. `T` is the granted token set, which this module only carries.
//!
//! ```text
//! Look ─ newer ────────────────────────────────────────────────► Finish(Adopted)
//!   │ held: Sleep, Look
//!   ▼
//! Admit ─ Claim ─ Send ─┬─ granted ── Commit ──(store down: Spool, Sleep, Commit)──► Finish(Refreshed)
//!           │      ▲    └─ otherwise ─ Settle ───────────────────────────────────► Finish(...)
//!           └ Sleep┘
//!           taken over
//! ```

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use super::{
    gate::Admission,
    ledger::{
        ClaimReply, CommitReply, FailureKind, GrantRow, Need, SettleReply, Standing, Verdict,
    },
    replay::ReplayPolicy,
};
use crate::time::{Moment, StoreTime, backoff};

/// What a flight is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The version that is not good enough any more.
    pub seen: u64,
    /// Why not.
    pub need: Need,
    /// The connector's replay policy.
    pub policy: ReplayPolicy,
    /// A claim's length. It is extended while the provider is waited for.
    pub claim_ttl: Duration,
    /// How often a claim held by others is looked at.
    pub poll: Duration,
    /// A number in `0.0..1.0` for the jitter of this flight's retry time.
    pub chance: f64,
}

// `chance` is never NaN.
impl Eq for Plan {}

impl Hash for Plan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            seen,
            need,
            policy,
            claim_ttl,
            poll,
            chance,
        } = self;
        (seen, need, policy, claim_ttl, poll, chance.to_bits()).hash(state);
    }
}

/// How one use of a refresh token ended, as the provider's answer was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome<T> {
    /// A token set.
    Granted(T),
    /// The provider's final no, scrubbed.
    Refused {
        /// Its words.
        reason: String,
    },
    /// Not sent, or refused for now, or without a readable answer.
    Failed {
        /// Which of them.
        kind: FailureKind,
        /// In words for a person, scrubbed.
        message: String,
        /// The provider's own wish.
        retry_after: Option<Duration>,
    },
    /// The claim grew old before the request could leave; nothing was sent.
    TooLate,
}

/// A reply of the store with the store's time, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored<R> {
    /// It answered.
    Ok(R, StoreTime),
    /// It did not, or what became of the statement is not known.
    Down(String),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<T> {
    /// The flight begins.
    Begin,
    /// The row was read; `None`: there is no such grant.
    Looked(Stored<Option<GrantRow>>),
    /// The gate answered.
    Admitted(Admission),
    /// The claim was asked for.
    Claimed(Stored<ClaimReply>),
    /// The provider was asked.
    Answered(Outcome<T>),
    /// The commit was tried.
    Committed(Stored<CommitReply>),
    /// The end was recorded.
    Settled(Stored<SettleReply>),
    /// The answer is in the spool (or it could not be written: logged, and carried on in memory).
    Spooled,
    /// The sleep is over, or the grant was said to have changed.
    Woken,
    /// A void answer was revoked (or could not be).
    Revoked,
}

/// What is to be done next. Exactly one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<T> {
    /// Read the row.
    Look,
    /// Ask the gate.
    Admit,
    /// Claim with this flight's owner and [`Plan`].
    Claim,
    /// Use the row's refresh token, unless `not_after` has passed when the bytes would leave.
    Send {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// Half of the claim's life: an owner that was paused longer must not send (it may have
        /// been taken over).
        not_after: Moment,
    },
    /// Commit what was granted.
    Commit {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// What was granted.
        granted: T,
    },
    /// Keep what was granted in the spool: the store does not take it.
    Spool {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// What was granted.
        granted: T,
    },
    /// Record how the use ended.
    Settle {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// How.
        verdict: Verdict,
    },
    /// Revoke a void answer where the connector knows how.
    Revoke {
        /// What was granted.
        granted: T,
        /// Whether the grant still exists under a new authorization.
        reauthorized: bool,
    },
    /// Wait this long, or until the grant is said to have changed.
    Sleep(Duration),
    /// The flight is over.
    Finish(Ending),
}

/// How a flight ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// We refreshed it.
    Refreshed {
        /// The new row.
        row: Box<GrantRow>,
        /// The store's time.
        at: StoreTime,
        /// Whether that ended a run of failures.
        recovered: bool,
    },
    /// Others had, or did while we waited.
    Adopted {
        /// The newer row.
        row: Box<GrantRow>,
        /// The store's time.
        at: StoreTime,
    },
    /// It failed, and may be tried again.
    Failed {
        /// The row, with [`GrantRow::trouble`].
        row: Box<GrantRow>,
        /// The store's time.
        at: StoreTime,
        /// Whether this failure begins a run.
        first: bool,
    },
    /// The answer was lost and the policy forbids to send again before `until`.
    Deferred {
        /// The row, with the lost attempt.
        row: Box<GrantRow>,
        /// The store's time.
        at: StoreTime,
        /// When it may be tried again.
        until: StoreTime,
    },
    /// The grant is dead.
    Dead {
        /// The row.
        row: Box<GrantRow>,
        /// The store's time.
        at: StoreTime,
        /// Whether it died of this flight.
        first: bool,
    },
    /// The gate is shut; nothing was claimed or sent.
    GateShut {
        /// When to ask again.
        until: Moment,
    },
    /// The grant does not exist (any more).
    Missing,
    /// The store does not answer; nothing was sent.
    StoreDown(String),
}

/// How often a statement before the send is tried on a silent store.
const STORE_TRIES: u32 = 3;

/// One flight's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight<T> {
    plan: Plan,
    phase: Phase<T>,
    /// When the claim was asked for, on our clock: the base of `not_after`.
    asked_at: Moment,
    tries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase<T> {
    Idle,
    Looking,
    Waiting,
    Admitting,
    Pausing,
    Claiming,
    ReClaiming,
    Yielding(Box<GrantRow>),
    Sending(Box<GrantRow>),
    Committing(Box<GrantRow>, T, Kept),
    Settling(Box<GrantRow>, Verdict),
    Revoking(Box<Ending>),
    Done,
}

/// Whether a granted answer has been given to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kept {
    InMemory,
    InSpool,
}

impl<T: Clone> Flight<T> {
    /// A flight about to begin.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            phase: Phase::Idle,
            asked_at: Moment(Duration::ZERO),
            tries: 0,
        }
    }

    /// The next effect.
    ///
    /// # Panics
    ///
    /// When `event` does not answer the effect that was asked for last: a bug in the driver.
    pub fn step(mut self, event: Event<T>, now: Moment) -> (Self, Effect<T>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        match (phase, event) {
            (Phase::Idle, Event::Begin) => self.look(),
            (Phase::Waiting, Event::Woken) => self.look(),

            (Phase::Looking, Event::Looked(Stored::Down(why))) => {
                self.store_down(why, Self::look_again)
            }
            (Phase::Looking, Event::Looked(Stored::Ok(None, _))) => self.finish(Ending::Missing),
            (Phase::Looking, Event::Looked(Stored::Ok(Some(row), at))) => self.looked(row, at),

            (Phase::Pausing, Event::Woken) => self.admit(),
            (Phase::Admitting, Event::Admitted(Admission::Go)) => self.claim(now),
            (Phase::Admitting, Event::Admitted(Admission::Wait(pause))) => {
                self.phase = Phase::Pausing;
                (self, Effect::Sleep(pause))
            }
            (Phase::Admitting, Event::Admitted(Admission::Open { until })) => {
                self.finish(Ending::GateShut { until })
            }

            (Phase::ReClaiming, Event::Woken) => self.claim(now),
            (Phase::Claiming, Event::Claimed(Stored::Down(why))) => {
                self.store_down(why, Self::claim_again)
            }
            (Phase::Claiming, Event::Claimed(Stored::Ok(reply, at))) => self.claimed(reply, at),

            (Phase::Yielding(row), Event::Woken) => self.send(row),
            (Phase::Sending(row), Event::Answered(outcome)) => self.answered(row, outcome),

            (Phase::Committing(row, granted, kept), Event::Committed(stored)) => {
                self.committed(row, granted, kept, stored)
            }
            (Phase::Committing(row, granted, _), Event::Spooled) => {
                self.phase = Phase::Committing(row, granted, Kept::InSpool);
                let pause = self.pause();
                (self, Effect::Sleep(pause))
            }
            (Phase::Committing(row, granted, kept), Event::Woken) => {
                self.commit(row, granted, kept)
            }

            (Phase::Settling(row, verdict), Event::Settled(stored)) => {
                self.settled(row, verdict, stored)
            }
            (Phase::Settling(row, verdict), Event::Woken) => self.settle(row, verdict),

            (Phase::Revoking(ending), Event::Revoked) => self.finish(*ending),

            (_, event) => unreachable!("the driver answered with {} out of turn", event.name()),
        }
    }

    fn look(mut self) -> (Self, Effect<T>) {
        self.phase = Phase::Looking;
        (self, Effect::Look)
    }

    fn look_again(self) -> (Self, Effect<T>) {
        self.wait(Duration::from_millis(50))
    }

    fn wait(mut self, pause: Duration) -> (Self, Effect<T>) {
        self.phase = Phase::Waiting;
        (self, Effect::Sleep(pause))
    }

    /// Reading first costs microseconds and spares the claim (a write) whenever others were
    /// faster, and the gate whenever nothing will be sent.
    fn looked(mut self, row: GrantRow, at: StoreTime) -> (Self, Effect<T>) {
        self.tries = 0;
        let row = Box::new(row);
        if row.version > self.plan.seen {
            return self.finish(Ending::Adopted { row, at });
        }
        if let Standing::Dead { .. } = row.standing {
            return self.finish(Ending::Dead {
                row,
                at,
                first: false,
            });
        }
        if row.held_within(self.plan.claim_ttl, at) {
            let poll = self.plan.poll;
            return self.wait(poll);
        }
        if row.cooling(at) {
            return self.finish(Ending::Failed {
                row,
                at,
                first: false,
            });
        }
        self.admit()
    }

    fn admit(mut self) -> (Self, Effect<T>) {
        self.phase = Phase::Admitting;
        (self, Effect::Admit)
    }

    fn claim(mut self, now: Moment) -> (Self, Effect<T>) {
        // The earliest time at which the claim can have begun: a lost reply does not renew it.
        if self.tries == 0 {
            self.asked_at = now;
        }
        self.phase = Phase::Claiming;
        (self, Effect::Claim)
    }

    fn claim_again(mut self) -> (Self, Effect<T>) {
        self.phase = Phase::ReClaiming;
        let pause = self.pause();
        (self, Effect::Sleep(pause))
    }

    fn claimed(mut self, reply: ClaimReply, at: StoreTime) -> (Self, Effect<T>) {
        self.tries = 0;
        match reply {
            ClaimReply::Claimed(row) => {
                let row = Box::new(row);
                if !row.took_over() {
                    return self.send(row);
                }
                // Whoever let the claim run out may have an answer that waits for the disk, as our
                // claim did: it gets a moment, and the look right before the first byte will see it.
                self.phase = Phase::Yielding(row);
                let pause = self.plan.claim_ttl / 10;
                (self, Effect::Sleep(pause))
            }
            ClaimReply::Newer(row) => self.finish(Ending::Adopted {
                row: Box::new(row),
                at,
            }),
            ClaimReply::Held(_) => {
                let poll = self.plan.poll;
                self.wait(poll)
            }
            ClaimReply::Dead(row) => self.finish(Ending::Dead {
                row: Box::new(row),
                at,
                first: false,
            }),
            ClaimReply::Cooling(row) => self.finish(Ending::Failed {
                row: Box::new(row),
                at,
                first: false,
            }),
            ClaimReply::Deferred(row, until) => self.finish(Ending::Deferred {
                row: Box::new(row),
                at,
                until,
            }),
            ClaimReply::Missing => self.finish(Ending::Missing),
        }
    }

    fn send(mut self, row: Box<GrantRow>) -> (Self, Effect<T>) {
        let not_after = self.asked_at + self.plan.claim_ttl / 2;
        self.phase = Phase::Sending(row.clone());
        (self, Effect::Send { row, not_after })
    }

    fn answered(self, row: Box<GrantRow>, outcome: Outcome<T>) -> (Self, Effect<T>) {
        match outcome {
            Outcome::Granted(granted) => self.commit(row, granted, Kept::InMemory),
            Outcome::Refused { reason } => self.settle(row, Verdict::Dead { reason }),
            Outcome::Failed {
                kind,
                message,
                retry_after,
            } => {
                let failures = row.trouble.as_ref().map_or(0, |trouble| trouble.failures);
                let retry_in = retry_in(kind, failures, retry_after, self.plan.chance);
                self.settle(
                    row,
                    Verdict::Failed {
                        kind,
                        message,
                        retry_in,
                    },
                )
            }
            Outcome::TooLate => self.settle(row, Verdict::Released),
        }
    }

    fn commit(mut self, row: Box<GrantRow>, granted: T, kept: Kept) -> (Self, Effect<T>) {
        self.phase = Phase::Committing(row.clone(), granted.clone(), kept);
        (self, Effect::Commit { row, granted })
    }

    fn committed(
        mut self,
        row: Box<GrantRow>,
        granted: T,
        kept: Kept,
        stored: Stored<CommitReply>,
    ) -> (Self, Effect<T>) {
        match stored {
            Stored::Ok(CommitReply::Committed { row, recovered }, at) => {
                self.finish(Ending::Refreshed {
                    row: Box::new(row),
                    at,
                    recovered,
                })
            }
            // A sibling of the same authorization: revoking ours might end theirs.
            Stored::Ok(CommitReply::Superseded(row), at) => self.finish(Ending::Adopted {
                row: Box::new(row),
                at,
            }),
            Stored::Ok(CommitReply::Reauthorized(row), at) => {
                self.phase = Phase::Revoking(Box::new(Ending::Adopted {
                    row: Box::new(row),
                    at,
                }));
                (
                    self,
                    Effect::Revoke {
                        granted,
                        reauthorized: true,
                    },
                )
            }
            Stored::Ok(CommitReply::Missing, _) => {
                self.phase = Phase::Revoking(Box::new(Ending::Missing));
                (
                    self,
                    Effect::Revoke {
                        granted,
                        reauthorized: false,
                    },
                )
            }
            // What a provider granted is never dropped (I4): spool it once, then try for ever.
            Stored::Down(_) => {
                self.tries += 1;
                self.phase = Phase::Committing(row.clone(), granted.clone(), kept);
                match kept {
                    Kept::InMemory => (self, Effect::Spool { row, granted }),
                    Kept::InSpool => {
                        let pause = self.pause();
                        (self, Effect::Sleep(pause))
                    }
                }
            }
        }
    }

    fn settle(mut self, row: Box<GrantRow>, verdict: Verdict) -> (Self, Effect<T>) {
        self.phase = Phase::Settling(row.clone(), verdict.clone());
        (self, Effect::Settle { row, verdict })
    }

    fn settled(
        mut self,
        row: Box<GrantRow>,
        verdict: Verdict,
        stored: Stored<SettleReply>,
    ) -> (Self, Effect<T>) {
        match stored {
            Stored::Ok(SettleReply::Settled { row, first }, at) => {
                let row = Box::new(row);
                match verdict {
                    Verdict::Dead { .. } => self.finish(Ending::Dead { row, at, first }),
                    Verdict::Failed { .. } => self.finish(Ending::Failed { row, at, first }),
                    Verdict::Released => self.look(),
                }
            }
            // A race was lost: what stands now decides.
            Stored::Ok(SettleReply::Superseded(_), _) => self.look(),
            Stored::Ok(SettleReply::Missing, _) => self.finish(Ending::Missing),
            Stored::Down(why) => {
                self.tries += 1;
                if self.tries < STORE_TRIES {
                    self.phase = Phase::Settling(row, verdict);
                    let pause = self.pause();
                    return (self, Effect::Sleep(pause));
                }
                // The claim will run out, and its taker will treat the attempt as unknown: safe.
                self.finish(Ending::StoreDown(why))
            }
        }
    }

    fn store_down(
        mut self,
        why: String,
        again: fn(Self) -> (Self, Effect<T>),
    ) -> (Self, Effect<T>) {
        self.tries += 1;
        if self.tries < STORE_TRIES {
            again(self)
        } else {
            self.finish(Ending::StoreDown(why))
        }
    }

    fn pause(&self) -> Duration {
        backoff(
            Duration::from_millis(50),
            Duration::from_secs(1),
            self.tries,
            self.plan.chance,
        )
    }

    fn finish(mut self, ending: Ending) -> (Self, Effect<T>) {
        self.phase = Phase::Done;
        (self, Effect::Finish(ending))
    }
}

impl<T> Event<T> {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin => "Begin",
            Self::Looked(_) => "Looked",
            Self::Admitted(_) => "Admitted",
            Self::Claimed(_) => "Claimed",
            Self::Answered(_) => "Answered",
            Self::Committed(_) => "Committed",
            Self::Settled(_) => "Settled",
            Self::Spooled => "Spooled",
            Self::Woken => "Woken",
            Self::Revoked => "Revoked",
        }
    }
}

/// The longest pause between two attempts on one grant.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// How long to leave a grant alone after a failure: what the provider asks for, else exponential
/// with jitter. A client that is misconfigured is not worth asking often.
fn retry_in(kind: FailureKind, failures: u32, wish: Option<Duration>, chance: f64) -> Duration {
    let base = match kind {
        FailureKind::Configuration => Duration::from_secs(10),
        FailureKind::NotSent | FailureKind::Throttled | FailureKind::Unknown => {
            Duration::from_secs(1)
        }
    };
    let own = backoff(base, LONGEST_RETRY, failures, chance);
    match wish {
        // Spread what the provider asks of everybody at once, by up to a tenth, never earlier.
        Some(wish) => wish
            .mul_f64(1.0 + 0.1 * chance)
            .min(Duration::from_secs(3600)),
        None => own,
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
