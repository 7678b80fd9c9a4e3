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
//! Admit ─ Claim ─ Send ─┬─ granted ── Commit ─────────────────────────────────► Finish(Refreshed)
//!           │      ▲    │                │ not confirmed at once: Spool, Serve ─┐   ▲
//!           └ Rest ┘    │                └──────────────◄── Sleep ◄─────────────┘───┘
//!           taken over  └─ otherwise ─ Settle ────────────────────────────────► Finish(...)
//! ```

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use super::{
    gate::{Admission, LONGEST_WISH},
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
    /// How long the store may take to confirm an answer before the spool keeps it as well.
    pub confirm_within: Duration,
    /// When the token endpoint was last seen to work after trouble, or its client was mended:
    /// failures from before do not hold this flight back.
    pub well_since: Option<Moment>,
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
            confirm_within,
            well_since,
            chance,
        } = self;
        (seen, need, policy, claim_ttl, poll, confirm_within).hash(state);
        (well_since, chance.to_bits()).hash(state);
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
        /// What it speaks against.
        fault: Fault,
        /// In words for a person, scrubbed.
        message: String,
        /// The provider's own wish.
        retry_after: Option<Duration>,
    },
    /// The claim grew old before the request could leave; nothing was sent.
    TooLate,
}

/// What a failure speaks against: only what concerns all grants of a client may hold them all back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The token endpoint: it cannot be reached, does not answer, or asks for a pause.
    Endpoint,
    /// The OAuth client: `invalid_client`, `unauthorized_client`.
    Client,
    /// This grant alone. The endpoint has answered, so it is well.
    Grant,
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
    /// The commit was neither confirmed nor refused in the time given; its statement goes on.
    Unconfirmed,
    /// The end was recorded.
    Settled(Stored<SettleReply>),
    /// Whether the answer is in the spool, durably. A commit that is confirmed while the spool is
    /// being written is told as [`Event::Committed`] instead.
    Spooled(bool),
    /// Callers of this process have the spooled answer.
    Served,
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
    Claim {
        /// The version that is not good enough.
        seen: u64,
        /// Failures recorded up to this time do not hold the claim back.
        pardoned: Option<StoreTime>,
    },
    /// Use the row's refresh token, unless `not_after` has passed when the bytes would leave.
    Send {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// Half of the claim's life: an owner that was paused longer must not send (it may have
        /// been taken over).
        not_after: Moment,
    },
    /// Commit what was granted, or go on waiting for the commit that is under way.
    Commit {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// What was granted.
        granted: T,
        /// After this long without a reply: [`Event::Unconfirmed`].
        within: Option<Duration>,
    },
    /// Keep what was granted in the spool: the store has not taken it yet. A commit that is under
    /// way goes on meanwhile.
    Spool {
        /// The row as claimed.
        row: Box<GrantRow>,
        /// What was granted.
        granted: T,
    },
    /// Give what was granted to the callers of this process: it is durable in the spool.
    Serve {
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
    },
    /// Wait this long, or until the grant is said to have changed.
    Sleep(Duration),
    /// Wait this long, whatever is said.
    Rest(Duration),
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
    /// Whether the row has been read: a forced flight sets out from the version found then.
    looked: bool,
    /// Whether the grant died of this flight.
    died: bool,
    /// The trouble that this flight does not let itself be held back by.
    pardoned: Option<StoreTime>,
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
    Saving(Box<GrantRow>, T, Save),
    Settling(Box<GrantRow>, Verdict),
    Revoking(Box<Ending>),
    Done,
}

/// How far the saving of a granted answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Save {
    in_spool: bool,
    /// A commit has no reply yet.
    under_way: bool,
}

impl<T: Clone> Flight<T> {
    /// A flight about to begin.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            phase: Phase::Idle,
            looked: false,
            died: false,
            pardoned: None,
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
            (Phase::Looking, Event::Looked(Stored::Ok(Some(row), at))) => self.looked(row, at, now),

            (Phase::Pausing, Event::Woken) => self.admit(),
            (Phase::Admitting, Event::Admitted(Admission::Go)) => self.claim(now),
            (Phase::Admitting, Event::Admitted(Admission::Wait(pause))) => {
                self.phase = Phase::Pausing;
                (self, Effect::Rest(pause))
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

            (Phase::Saving(row, granted, save), event) => self.saving(row, granted, save, event),

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
    fn looked(mut self, row: GrantRow, at: StoreTime, now: Moment) -> (Self, Effect<T>) {
        self.tries = 0;
        let row = Box::new(row);
        // What others had committed before somebody asked for a refresh whatever the expiry does
        // not satisfy it; what they commit from now on does.
        if !std::mem::replace(&mut self.looked, true) && self.plan.need == Need::Forced {
            self.plan.seen = self.plan.seen.max(row.version);
        }
        if row.version > self.plan.seen {
            return self.finish(Ending::Adopted { row, at });
        }
        if let Standing::Dead { .. } = row.standing {
            return self.dead(row, at);
        }
        if row.held_within(self.plan.claim_ttl, at) {
            let poll = self.plan.poll;
            return self.wait(poll);
        }
        if row.cooling(at)
            && let Some(trouble) = &row.trouble
        {
            let well_since = self.plan.well_since.map(|then| at - then.until(now));
            if trouble.binds(self.plan.need, well_since) {
                return self.finish(Ending::Failed {
                    row,
                    at,
                    first: false,
                });
            }
            self.pardoned = Some(trouble.failed_at);
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
        let (seen, pardoned) = (self.plan.seen, self.pardoned);
        (self, Effect::Claim { seen, pardoned })
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
                (self, Effect::Rest(pause))
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
            Outcome::Granted(granted) => self.commit(row, granted, Save::default()),
            Outcome::Refused { reason } => self.settle(row, Verdict::Dead { reason }),
            Outcome::Failed {
                kind,
                message,
                retry_after,
                ..
            } => {
                let retry_in = retry_in(kind, &row, retry_after, self.plan.chance);
                self.settle(
                    row,
                    Verdict::Failed {
                        kind,
                        message,
                        retry_in,
                        asked: retry_after.is_some(),
                    },
                )
            }
            Outcome::TooLate => self.settle(row, Verdict::Released),
        }
    }

    /// Commits, or goes on with it. What is only in memory may not stay there for long.
    fn commit(mut self, row: Box<GrantRow>, granted: T, save: Save) -> (Self, Effect<T>) {
        let within = match self.tries {
            _ if save.in_spool => None,
            0 => Some(self.plan.confirm_within),
            _ => Some(self.pause()),
        };
        self.phase = Phase::Saving(row.clone(), granted.clone(), save);
        (
            self,
            Effect::Commit {
                row,
                granted,
                within,
            },
        )
    }

    /// Commit and spool race (I4): what a provider granted is durable in one of them soon, and in
    /// the store in the end, however long that takes.
    fn saving(
        mut self,
        row: Box<GrantRow>,
        granted: T,
        mut save: Save,
        event: Event<T>,
    ) -> (Self, Effect<T>) {
        match event {
            Event::Committed(Stored::Ok(reply, at)) => self.committed(granted, reply, at),
            Event::Committed(Stored::Down(_)) | Event::Unconfirmed => {
                save.under_way = matches!(event, Event::Unconfirmed);
                if save.in_spool {
                    return self.commit_later(row, granted, save);
                }
                self.phase = Phase::Saving(row.clone(), granted.clone(), save);
                (self, Effect::Spool { row, granted })
            }
            Event::Spooled(true) => {
                save.in_spool = true;
                self.phase = Phase::Saving(row.clone(), granted.clone(), save);
                (self, Effect::Serve { row, granted })
            }
            Event::Spooled(false) | Event::Served => self.commit_later(row, granted, save),
            Event::Woken => self.commit(row, granted, save),
            event => unreachable!("the driver answered with {} out of turn", event.name()),
        }
    }

    fn commit_later(mut self, row: Box<GrantRow>, granted: T, save: Save) -> (Self, Effect<T>) {
        self.tries += 1;
        if save.under_way {
            return self.commit(row, granted, save);
        }
        self.phase = Phase::Saving(row, granted, save);
        let pause = self.pause();
        (self, Effect::Sleep(pause))
    }

    fn committed(mut self, granted: T, reply: CommitReply, at: StoreTime) -> (Self, Effect<T>) {
        match reply {
            CommitReply::Committed { row, recovered } => self.finish(Ending::Refreshed {
                row: Box::new(row),
                at,
                recovered,
            }),
            // A sibling of the same authorization: revoking ours might end theirs.
            CommitReply::Superseded(row) => self.finish(Ending::Adopted {
                row: Box::new(row),
                at,
            }),
            CommitReply::Reauthorized(row) => {
                self.phase = Phase::Revoking(Box::new(Ending::Adopted {
                    row: Box::new(row),
                    at,
                }));
                (self, Effect::Revoke { granted })
            }
            CommitReply::Missing => {
                self.phase = Phase::Revoking(Box::new(Ending::Missing));
                (self, Effect::Revoke { granted })
            }
        }
    }

    /// The grant is dead. If the API has rejected its last access token, that is on record for all
    /// processes.
    fn dead(self, row: Box<GrantRow>, at: StoreTime) -> (Self, Effect<T>) {
        let rejected = self.plan.need == Need::Rejected && self.plan.seen == row.version;
        if rejected && row.access_alive(at) {
            return self.settle(row, Verdict::Spent);
        }
        let first = self.died;
        self.finish(Ending::Dead { row, at, first })
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
                    Verdict::Dead { .. } => {
                        self.died = first;
                        self.dead(row, at)
                    }
                    Verdict::Spent => {
                        let first = self.died;
                        self.finish(Ending::Dead { row, at, first })
                    }
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
                match (&verdict, &row.standing) {
                    // Whose token the API rejects next will say so again.
                    (Verdict::Spent, Standing::Dead { at, .. }) => {
                        let (at, first) = (*at, self.died);
                        self.finish(Ending::Dead { row, at, first })
                    }
                    // The claim will run out, and its taker will treat the attempt as unknown: safe.
                    _ => self.finish(Ending::StoreDown(why)),
                }
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
            Self::Unconfirmed => "Unconfirmed",
            Self::Spooled(_) => "Spooled",
            Self::Served => "Served",
            Self::Woken => "Woken",
            Self::Revoked => "Revoked",
        }
    }
}

/// The longest pause between two attempts on one grant.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// How long to leave a grant alone after a failure: what the provider asks for, else exponential
/// with jitter, and no longer than a quarter of the time that the trouble has lasted, so that its
/// end is noticed soon after it. A client that is misconfigured is not worth asking often.
fn retry_in(kind: FailureKind, row: &GrantRow, wish: Option<Duration>, chance: f64) -> Duration {
    // Spread what the provider asks of everybody at once, by up to a tenth, never earlier.
    if let Some(wish) = wish {
        return wish.min(LONGEST_WISH).mul_f64(1.0 + 0.1 * chance);
    }
    let base = match kind {
        FailureKind::Configuration => Duration::from_secs(10),
        FailureKind::NotSent | FailureKind::Throttled | FailureKind::Unknown => {
            Duration::from_secs(1)
        }
    };
    let (failures, lasted) = match (&row.trouble, &row.attempt) {
        (Some(trouble), Some(attempt)) => (trouble.failures, trouble.since.until(attempt.last_at)),
        (Some(trouble), None) => (trouble.failures, Duration::ZERO),
        (None, _) => (0, Duration::ZERO),
    };
    let longest = LONGEST_RETRY.min(base.max(lasted / 4));
    backoff(base, longest, failures, chance)
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
