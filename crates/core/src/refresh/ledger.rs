//! What a store does to one grant's row: claim, extend, commit, settle, replace.
//!
//! Each verb is a pure function of (row, request, store time). The memory and SQLite stores run
//! these functions inside their write transaction; a store that speaks SQL only must agree with
//! them, which the conformance suite checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::replay::{Replay, ReplayPolicy, replay};
use crate::{
    authorize::Consent,
    id::{ApplicationId, ConnectorId, GrantId, OwnerId},
    time::StoreTime,
};

/// One grant, as the store keeps it. Nothing in it is secret in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrantRow {
    /// The grant's id; also bound into the seal.
    pub id: GrantId,
    /// The application whose OAuth client it belongs to.
    pub application: ApplicationId,
    /// The connector that knows the provider.
    pub connector: ConnectorId,
    /// Grows by one with each committed token set.
    pub version: u64,
    /// The version at which a person last authorized (or imported) it. An answer to a refresh
    /// that began before it is void.
    pub authorized_version: u64,
    /// The sealed token set.
    pub sealed: Vec<u8>,
    /// When the access token expires; `None`: it does not say.
    pub expires_at: Option<StoreTime>,
    /// The access token's whole lifetime, as granted.
    pub lifetime: Option<Duration>,
    /// When a refresh last committed; `None` for a token set that was authorized or imported.
    pub refreshed_at: Option<StoreTime>,
    /// When the refresh token wants to be used lest it dies of disuse.
    pub keep_alive_at: Option<StoreTime>,
    /// Keyed digest of the refresh token, to recognise a second import of the same grant.
    pub fingerprint: Option<[u8; 32]>,
    /// Alive, or dead on the provider's word.
    pub standing: Standing,
    /// The newest claim's number. Grows with each claim.
    pub epoch: u64,
    /// The epoch that committed the present version.
    pub committed_epoch: u64,
    /// The present claim, if any; void once its time has passed.
    pub claim: Option<Claim>,
    /// The use of the present refresh token that has no answer yet.
    pub attempt: Option<Attempt>,
    /// Failures since the last commit.
    pub trouble: Option<Trouble>,
    /// What the person who last authorized it has agreed to; `None`: not known.
    pub consent: Option<Box<Consent>>,
}

/// Whether a grant can be refreshed at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// As far as we know.
    Live,
    /// The provider said no for good. Only a new authorization revives it.
    Dead {
        /// When it said so.
        at: StoreTime,
        /// Its word, scrubbed of secrets.
        reason: String,
    },
}

/// The exclusive right to refresh a grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Which flight holds it.
    pub owner: OwnerId,
    /// Its number; every later statement of the holder names it.
    pub epoch: u64,
    /// Until when, on the store's clock.
    pub until: StoreTime,
}

/// The record of uses of one refresh token, written before each use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// How often it was sent, the present time included.
    pub sends: u32,
    /// When it was first sent: the base of a provider's grace window.
    pub first_at: StoreTime,
    /// When it was last sent: the base of the granted token's expiry.
    pub last_at: StoreTime,
    /// Whether the last use has no outcome yet.
    pub in_flight: bool,
    /// Why an earlier use has no answer.
    pub lost: Option<Lost>,
}

/// An answer that never arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lost {
    /// When it was noticed.
    pub at: StoreTime,
    /// How, in words for a person.
    pub why: String,
}

/// A run of failures. Announced once when it begins and once when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trouble {
    /// When it began.
    pub since: StoreTime,
    /// How many failures in it.
    pub failures: u32,
    /// When the last one was recorded.
    #[serde(default)]
    pub failed_at: StoreTime,
    /// No attempt before this.
    pub retry_at: StoreTime,
    /// Whether the provider itself asked for that.
    #[serde(default)]
    pub asked: bool,
    /// The last one's kind.
    pub kind: FailureKind,
    /// The last one, in words for a person, scrubbed of secrets.
    pub message: String,
}

impl Trouble {
    /// Whether its retry time holds back a flight with this need. `well_since`: when the token
    /// endpoint was last seen to work after trouble, or its client was mended.
    ///
    /// What the provider asked for binds everybody. Otherwise a person may always try, and a
    /// failure from before the sign that all is well again says nothing any more.
    pub fn binds(&self, need: Need, well_since: Option<StoreTime>) -> bool {
        let over = well_since.is_some_and(|well| self.failed_at < well);
        self.asked || !(need == Need::Forced || over)
    }
}

/// Why a refresh has not succeeded, short of a dead grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request did not reach the provider: DNS, connect or TLS failed.
    NotSent,
    /// The provider said "not now": 429, 503 with `Retry-After`.
    Throttled,
    /// The provider refused the client or the request, not the grant: `invalid_client`.
    Configuration,
    /// Sent, and no answer that could be read.
    Unknown,
}

/// Why a newer version is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// The access token is inside its margin, or ahead of it, or the grant wants keeping alive.
    Stale,
    /// Somebody asked for a refresh whatever the expiry (`validate`).
    Forced,
    /// The API rejected the access token as expired.
    Rejected,
}

impl Need {
    /// What is left of a need that version `seen` was not good enough for, once `newest` is
    /// known. A 401 speaks of the version that was sent: a newer one has not been rejected, it
    /// can only be stale, and under [`ReplayPolicy::Revokes`] there is something to lose. A forced
    /// refresh is not satisfied by what may have been there when it was asked for.
    #[must_use]
    pub fn of(self, seen: u64, newest: u64) -> Self {
        match self {
            Self::Rejected if newest > seen => Self::Stale,
            need => need,
        }
    }
}

/// Asks for the claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Which grant.
    pub grant: GrantId,
    /// The version that is not good enough any more.
    pub seen: u64,
    /// Who asks.
    pub owner: OwnerId,
    /// For how long.
    pub ttl: Duration,
    /// Why.
    pub need: Need,
    /// The connector's replay policy.
    pub policy: ReplayPolicy,
    /// Failures recorded up to this time do not hold it back; see [`Trouble::binds`].
    pub pardoned: Option<StoreTime>,
}

/// What became of a claim. Every variant carries the row as it now stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimReply {
    /// It is ours: the row names our epoch, and the attempt is on record.
    Claimed(GrantRow),
    /// Others have committed a newer version: adopt it.
    Newer(GrantRow),
    /// Somebody else holds it.
    Held(GrantRow),
    /// The grant is dead.
    Dead(GrantRow),
    /// A failure is too recent; [`Trouble::retry_at`] says when.
    Cooling(GrantRow),
    /// An answer was lost and the replay policy forbids to send again before this time.
    Deferred(GrantRow, StoreTime),
    /// No such grant (any more).
    Missing,
}

/// A granted token set, sealed for the version after `base`.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// Which grant.
    pub grant: GrantId,
    /// The version whose refresh token was used.
    pub base: u64,
    /// The claim under which it was used.
    pub epoch: u64,
    /// When it was sent, on the store's clock: expiry counts from here.
    pub sent_at: StoreTime,
    /// The sealed token set.
    pub sealed: Vec<u8>,
    /// The access token's lifetime.
    pub lifetime: Option<Duration>,
    /// How long the refresh token may rest.
    pub keep_alive: Option<Duration>,
    /// Digest of the refresh token.
    pub fingerprint: Option<[u8; 32]>,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitReply {
    /// Durable. `recovered`: it ended a run of failures.
    Committed {
        /// The row with the new version.
        row: GrantRow,
        /// Whether there had been failures since the last commit.
        recovered: bool,
    },
    /// Another refresh of the same authorization was first; its version stands.
    Superseded(GrantRow),
    /// The grant was authorized anew meanwhile; the answer is void and should be revoked.
    Reauthorized(GrantRow),
    /// The grant was deleted meanwhile; the answer is void and should be revoked.
    Missing,
}

/// How a use of the refresh token ended, if not with a grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Refused for good.
    Dead {
        /// The provider's word, scrubbed.
        reason: String,
    },
    /// It can be tried again.
    Failed {
        /// In which way.
        kind: FailureKind,
        /// In words for a person, scrubbed.
        message: String,
        /// Not before this has passed.
        retry_in: Duration,
        /// Whether the provider itself asked for that.
        asked: bool,
    },
    /// Nothing was sent and nothing is wrong: the claim is given back.
    Released,
    /// The grant is dead, and the API has rejected its access token: nothing is left of it. Takes no
    /// claim.
    Spent,
}

/// Records how a use ended.
#[derive(Clone, Debug)]
pub struct SettleRequest {
    /// Which grant.
    pub grant: GrantId,
    /// The version whose refresh token was used.
    pub base: u64,
    /// The claim under which it was used.
    pub epoch: u64,
    /// How it ended.
    pub verdict: Verdict,
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleReply {
    /// On record. `first`: it begins a run of failures (or is the death itself).
    Settled {
        /// The row as it now stands.
        row: GrantRow,
        /// Whether this is the one to announce.
        first: bool,
    },
    /// The version has moved, or another claim is in force: our word does not count.
    Superseded(GrantRow),
    /// No such grant (any more).
    Missing,
}

impl GrantRow {
    /// Whether somebody holds a claim at `now`.
    pub fn held(&self, now: StoreTime) -> bool {
        self.claim.as_ref().is_some_and(|claim| now < claim.until)
    }

    /// Whether somebody holds a claim at `now` that can be waited for: one whose end is further
    /// away than `ttl` was taken before the clock jumped back, and [`claim`](Self::claim) mends it.
    pub fn held_within(&self, ttl: Duration, now: StoreTime) -> bool {
        self.claim
            .as_ref()
            .is_some_and(|claim| now < claim.until && claim.until <= now + ttl)
    }

    /// Whether the newest claim took a use over from somebody who let the claim run out.
    pub fn took_over(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| {
            attempt
                .lost
                .as_ref()
                .is_some_and(|lost| lost.at == attempt.last_at)
        })
    }

    /// Whether a failure is too recent to try again at `now`. One that lies in the future was
    /// recorded before the clock jumped back and says nothing.
    pub fn cooling(&self, now: StoreTime) -> bool {
        self.trouble
            .as_ref()
            .is_some_and(|trouble| trouble.since <= now && now < trouble.retry_at)
    }

    /// Whether the access token is alive at `now`, as far as its expiry tells.
    pub fn access_alive(&self, now: StoreTime) -> bool {
        self.version > 0 && self.expires_at.is_none_or(|at| now < at)
    }

    /// Takes the claim, or says why not.
    pub fn claim(&mut self, request: &ClaimRequest, now: StoreTime) -> ClaimReply {
        if self.version > request.seen {
            return ClaimReply::Newer(self.clone());
        }
        if let Standing::Dead { .. } = self.standing {
            return ClaimReply::Dead(self.clone());
        }
        if let Some(claim) = &mut self.claim
            && now < claim.until
        {
            if claim.owner != request.owner {
                // No claim is longer than this: the clock has jumped back since. From now on it
                // has its whole length once more, because its owner may live and extend it.
                claim.until = claim.until.min(now + request.ttl);
                return ClaimReply::Held(self.clone());
            }
            // Our own claim, whose reply was lost: nothing was sent under it yet. Without an
            // attempt it was for an older version, which a late answer has replaced.
            if self
                .attempt
                .as_ref()
                .is_some_and(|attempt| attempt.in_flight)
            {
                claim.until = now + request.ttl;
                return ClaimReply::Claimed(self.clone());
            }
        }
        let pardoned = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| Some(trouble.failed_at) <= request.pardoned);
        if self.cooling(now) && !pardoned {
            return ClaimReply::Cooling(self.clone());
        }
        // Whoever was in flight has let the claim run out: what it sent has no known outcome.
        if let Some(attempt) = &mut self.attempt {
            if attempt.in_flight {
                attempt.in_flight = false;
                attempt.lost = Some(Lost {
                    at: now,
                    why: "the process that was refreshing ended before the answer was saved"
                        .to_owned(),
                });
            }
            if let Replay::NotBefore(at) =
                replay(request.policy, attempt, request.need, self.expires_at, now)
            {
                self.claim = None;
                return ClaimReply::Deferred(self.clone(), at);
            }
        }
        self.epoch += 1;
        self.claim = Some(Claim {
            owner: request.owner.clone(),
            epoch: self.epoch,
            until: now + request.ttl,
        });
        let attempt = self.attempt.get_or_insert(Attempt {
            sends: 0,
            first_at: now,
            last_at: now,
            in_flight: true,
            lost: None,
        });
        attempt.sends += 1;
        attempt.last_at = now;
        attempt.in_flight = true;
        ClaimReply::Claimed(self.clone())
    }

    /// Moves the claim's end; `false` if it is not `epoch`'s any more.
    ///
    /// A claim that ran out while nobody else took it is still its owner's to extend.
    pub fn extend(&mut self, epoch: u64, ttl: Duration, now: StoreTime) -> bool {
        match &mut self.claim {
            Some(claim) if claim.epoch == epoch => {
                claim.until = now + ttl;
                true
            }
            _ => false,
        }
    }

    /// Makes a granted token set the new version.
    ///
    /// The fence is the version, not the claim: a late answer is adopted while nobody else has
    /// committed, because it may be the only living token there is (DESIGN 3.6).
    pub fn commit(&mut self, request: CommitRequest) -> CommitReply {
        if self.version != request.base {
            self.release(request.epoch);
            return if self.committed_epoch == request.epoch {
                // Our own commit, whose reply was lost.
                CommitReply::Committed {
                    row: self.clone(),
                    recovered: false,
                }
            } else if self.authorized_version > request.base {
                CommitReply::Reauthorized(self.clone())
            } else {
                CommitReply::Superseded(self.clone())
            };
        }
        self.version += 1;
        self.committed_epoch = request.epoch;
        self.sealed = request.sealed;
        self.expires_at = request.lifetime.map(|lifetime| request.sent_at + lifetime);
        self.lifetime = request.lifetime;
        self.refreshed_at = Some(request.sent_at);
        self.keep_alive_at = request.keep_alive.map(|after| request.sent_at + after);
        self.fingerprint = request.fingerprint;
        self.standing = Standing::Live;
        self.attempt = None;
        let recovered = self.trouble.take().is_some();
        self.release(request.epoch);
        CommitReply::Committed {
            row: self.clone(),
            recovered,
        }
    }

    /// Records an end without a grant.
    ///
    /// Condemning is part of the same statement that re-reads: a version that moved, or another
    /// claim in force, means that this word is not the last one (I6).
    pub fn settle(&mut self, request: SettleRequest, now: StoreTime) -> SettleReply {
        if request.verdict == Verdict::Spent {
            return self.spend(request.base, now);
        }
        let ours = self
            .claim
            .as_ref()
            .is_some_and(|claim| claim.epoch == request.epoch);
        if self.version != request.base || !ours {
            self.release(request.epoch);
            return SettleReply::Superseded(self.clone());
        }
        self.claim = None;
        let first = match request.verdict {
            Verdict::Released | Verdict::Spent => {
                self.unsend();
                false
            }
            Verdict::Dead { reason } => {
                let reason = match self.attempt.take().and_then(|attempt| attempt.lost) {
                    Some(lost) => format!(
                        "{reason}; an earlier answer was lost at {}: {}",
                        lost.at, lost.why
                    ),
                    None => reason,
                };
                self.standing = Standing::Dead { at: now, reason };
                self.trouble = None;
                true
            }
            Verdict::Failed {
                kind,
                message,
                retry_in,
                asked,
            } => {
                if kind == FailureKind::Unknown {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.in_flight = false;
                        attempt.lost = Some(Lost {
                            at: now,
                            why: message.clone(),
                        });
                    }
                } else {
                    self.unsend();
                }
                let (since, failures) = self
                    .trouble
                    .as_ref()
                    .map_or((now, 0), |t| (t.since, t.failures));
                self.trouble = Some(Trouble {
                    since,
                    failures: failures.saturating_add(1),
                    failed_at: now,
                    retry_at: now + retry_in,
                    asked,
                    kind,
                    message,
                });
                failures == 0
            }
        };
        SettleReply::Settled {
            row: self.clone(),
            first,
        }
    }

    /// Ends the access token of a dead grant, for every process that reads the row from now on.
    fn spend(&mut self, base: u64, now: StoreTime) -> SettleReply {
        if self.version != base || self.standing == Standing::Live {
            return SettleReply::Superseded(self.clone());
        }
        self.expires_at = Some(self.expires_at.map_or(now, |at| at.min(now)));
        SettleReply::Settled {
            row: self.clone(),
            first: false,
        }
    }

    /// A new authorization or import: the next version, whatever was going on.
    ///
    /// Claims and attempts belonged to the old refresh token and are void.
    pub fn authorize(&mut self, fresh: FreshGrant, now: StoreTime) {
        self.version += 1;
        self.authorized_version = self.version;
        self.sealed = fresh.sealed;
        // The process may have been stopped on its way here; no token grows older later for that.
        let from = fresh.counted_from.map_or(now, |from| from.min(now));
        self.expires_at = fresh.expires_in.map(|left| from + left);
        self.lifetime = fresh.lifetime;
        self.refreshed_at = None;
        self.keep_alive_at = fresh.keep_alive.map(|after| from + after);
        self.fingerprint = fresh.fingerprint;
        self.standing = Standing::Live;
        self.claim = None;
        self.attempt = None;
        self.trouble = None;
        self.consent = fresh.consent;
    }

    /// Takes the present use off the record: the token did not leave, or was handed back unused.
    fn unsend(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.sends -= 1;
            attempt.in_flight = false;
            if attempt.sends == 0 {
                self.attempt = None;
            }
        }
    }

    fn release(&mut self, epoch: u64) {
        if self
            .claim
            .as_ref()
            .is_some_and(|claim| claim.epoch == epoch)
        {
            self.claim = None;
        }
    }
}

/// A token set that a person authorized or imported, sealed for its version.
#[derive(Clone, Debug)]
pub struct FreshGrant {
    /// From when on the lifetimes count, on the store's clock; `None`: from the save.
    pub counted_from: Option<StoreTime>,
    /// The sealed token set.
    pub sealed: Vec<u8>,
    /// How much life the access token has left; zero: none; `None`: it does not expire.
    pub expires_in: Option<Duration>,
    /// The access token's whole lifetime, if known.
    pub lifetime: Option<Duration>,
    /// How long the refresh token may rest.
    pub keep_alive: Option<Duration>,
    /// Digest of the refresh token.
    pub fingerprint: Option<[u8; 32]>,
    /// What was agreed to, if that is known.
    pub consent: Option<Box<Consent>>,
}

impl FreshGrant {
    /// The row of a grant that did not exist before.
    pub fn into_row(
        self,
        id: GrantId,
        application: ApplicationId,
        connector: ConnectorId,
        now: StoreTime,
    ) -> GrantRow {
        let mut row = GrantRow {
            id,
            application,
            connector,
            version: 0,
            authorized_version: 0,
            sealed: Vec::new(),
            expires_at: None,
            lifetime: None,
            refreshed_at: None,
            keep_alive_at: None,
            fingerprint: None,
            standing: Standing::Live,
            epoch: 0,
            committed_epoch: 0,
            claim: None,
            attempt: None,
            trouble: None,
            consent: None,
        };
        row.authorize(self, now);
        row
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
