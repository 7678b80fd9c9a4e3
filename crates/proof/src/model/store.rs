//! The store: one row, whose verbs are the real ones, performed one at a time.

use tokenward::refresh::{
    flight::Stored,
    ledger::{
        Claim, ClaimReply, ClaimRequest, CommitReply, GrantRow, SettleReply, SettleRequest,
        Standing, Verdict,
    },
    replay::ReplayPolicy,
};
use tokenward::time::StoreTime;

use super::{
    Breach, Mutant, Scope, Tokens, World,
    world::{CLAIM, Letter, owner_id},
};

impl World {
    /// What the driver makes of a verb: its reply, or nothing. `heard`: whether the reply comes
    /// back.
    fn stored<R>(&mut self, heard: bool, verb: impl FnOnce(&mut Self) -> R) -> Stored<R> {
        if !self.store_up {
            return Stored::Down(String::new());
        }
        let reply = verb(self);
        if heard {
            Stored::Ok(reply, self.store_time())
        } else {
            Stored::Down(String::new())
        }
    }

    pub(super) fn read(&mut self) -> Stored<Option<GrantRow>> {
        self.stored(true, |world| world.row.clone())
    }

    pub(super) fn claim(
        &mut self,
        r: usize,
        seen: u64,
        pardoned: Option<StoreTime>,
        heard: bool,
        scope: &Scope,
    ) -> Stored<ClaimReply> {
        let air = self.air(r);
        let request = ClaimRequest {
            grant: "g".into(),
            seen,
            owner: owner_id(air.owner),
            ttl: air.plan.claim_ttl,
            need: air.plan.need,
            policy: if scope.has(Mutant::BlindReplay) {
                ReplayPolicy::Harmless
            } else {
                air.plan.policy
            },
            pardoned,
        };
        let stored = self.stored(heard, |world| {
            let now = world.store_time();
            let Some(row) = &mut world.row else {
                return ClaimReply::Missing;
            };
            let reply = row.claim(&request, now);
            if scope.has(Mutant::NoIntent) && matches!(reply, ClaimReply::Claimed(_)) {
                row.attempt = None;
            }
            reply
        });
        if let Stored::Ok(ClaimReply::Claimed(row), at) = &stored {
            let until = *at + CLAIM;
            let epoch = row.epoch;
            let air = self.air(r);
            air.epoch = epoch;
            air.until = until;
        }
        stored
    }

    /// Commits what a flight or the spool brings.
    pub(super) fn commit(
        &mut self,
        letter: Letter,
        heard: bool,
        scope: &Scope,
    ) -> Stored<CommitReply> {
        let Letter {
            base,
            epoch,
            tokens,
            ..
        } = letter;
        self.stored(heard, |world| {
            let mut request = letter.request();
            let used = world.books.committed[usize::try_from(base - 1).expect("few")].seal();
            let Some(row) = &mut world.row else {
                if heard && world.close(tokens) {
                    world.books.void += 1;
                }
                return CommitReply::Missing;
            };
            let (version, sealed) = (row.version, row.sealed.clone());
            let claimed = row.claim.as_ref().is_some_and(|claim| claim.epoch == epoch);
            if scope.has(Mutant::NoVersionCheck) {
                request.base = version;
            }
            let reply = if scope.has(Mutant::LateAnswerDropped) && !claimed {
                CommitReply::Superseded(row.clone())
            } else {
                row.commit(request)
            };
            if scope.has(Mutant::ForeignRelease) {
                row.claim = None;
            }
            if row.version > version {
                let late = version != base || sealed != used;
                world.books.committed.push(tokens);
                world.books.sent.push(0);
                if world.close(tokens) {
                    world.books.fruitful += 1;
                } else {
                    world.blame(Breach::Books);
                }
                if late {
                    world.blame(Breach::Fence);
                }
            } else if heard {
                match &reply {
                    CommitReply::Superseded(row) => {
                        let moved = row.version > base;
                        if world.close(tokens) {
                            world.books.superseded += 1;
                            if !moved {
                                world.blame(Breach::Lost);
                            }
                        }
                    }
                    CommitReply::Reauthorized(_) | CommitReply::Missing => {
                        if world.close(tokens) {
                            world.books.void += 1;
                        }
                    }
                    // Ours, whose reply had been lost.
                    CommitReply::Committed { .. } => {
                        if world.books.open.contains(&tokens) {
                            world.blame(Breach::Books);
                        }
                    }
                }
            }
            reply
        })
    }

    pub(super) fn settle(
        &mut self,
        r: usize,
        claimed: &GrantRow,
        verdict: Verdict,
        heard: bool,
        scope: &Scope,
    ) -> Stored<SettleReply> {
        let refused = self.air(r).refused;
        let dead = matches!(verdict, Verdict::Dead { .. });
        let mut request = SettleRequest {
            grant: "g".into(),
            base: claimed.version,
            epoch: claimed.epoch,
            verdict,
        };
        self.stored(heard, |world| {
            let now = world.store_time();
            let Some(row) = &mut world.row else {
                return SettleReply::Missing;
            };
            if scope.has(Mutant::NoEpochCheck) || scope.has(Mutant::NoReRead) && dead {
                request.epoch = row
                    .claim
                    .get_or_insert(Claim {
                        owner: owner_id(9),
                        epoch: request.epoch,
                        until: now,
                    })
                    .epoch;
            }
            if scope.has(Mutant::NoReRead) && dead {
                request.base = row.version;
            }
            let (sealed, was_dead) = (row.sealed.clone(), is_dead(row));
            let reply = row.settle(request, now);
            if scope.has(Mutant::ForeignRelease) {
                row.claim = None;
            }
            let dies = is_dead(row) && !was_dead;
            let ours = row.version == claimed.version
                && sealed == claimed.sealed
                && refused == Some(claimed.version);
            let books = &world.books;
            let missed = books.lost > 0 || !books.open.is_empty();
            let repeated = books.sent.iter().any(|sent| *sent > 1);
            if dies && !ours {
                world.blame(Breach::Condemned);
            } else if dies && !missed && !repeated {
                world.blame(Breach::LoggedOut);
            }
            reply
        })
    }

    /// What the judge checks after every act.
    pub(super) fn audit(&mut self, scope: &Scope) {
        let books = &self.books;
        let accounted = usize::from(books.fruitful + books.superseded + books.void + books.lost)
            + books.open.len();
        let versions = u64::from(books.authorized + books.fruitful);
        let version = self.row.as_ref().map_or(versions, |row| row.version);
        if usize::from(books.granted) != accounted || version != versions {
            self.blame(Breach::Books);
        }
        // A flight holds what it was granted until it has brought it home, and a process
        // whose callers wait flies.
        let idle = self.replicas.iter().any(|replica| {
            replica.air.is_none() && replica.callers.iter().any(|caller| caller.wait.is_some())
        });
        if idle && !scope.has(Mutant::CallerOwned) {
            self.blame(Breach::Unanswered);
        }
    }

    /// What a flight or the spool would commit.
    pub(super) fn letter(row: &GrantRow, tokens: Tokens) -> Letter {
        Letter {
            base: row.version,
            epoch: row.epoch,
            sent_at: row
                .attempt
                .as_ref()
                .expect("it was claimed with an attempt")
                .last_at,
            tokens,
        }
    }
}

fn is_dead(row: &GrantRow) -> bool {
    matches!(row.standing, Standing::Dead { .. })
}
