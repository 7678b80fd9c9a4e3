//! The provider and the wire to it.

use std::time::Duration;

use tokenward::refresh::{
    flight::{Event, Fault, Outcome},
    ledger::{FailureKind, GrantRow},
    replay::ReplayPolicy,
};
use tokenward_testkit::sandbox::ledger::{Decision, Family};

use super::{
    Breach, Doing, Life, Mutant, Scope, Tokens, World, fresh,
    world::{CLAIM, LIFETIME, Request},
};

impl World {
    fn provider_time(&self) -> Duration {
        Duration::from_secs(self.now.into())
    }

    /// A refresh token arrives at the provider.
    pub(super) fn ask_provider(&mut self, request: Request) -> Outcome<Tokens> {
        let now = self.provider_time();
        let family = &mut self.families[usize::from(request.tokens.family)];
        match family.refresh(request.tokens.refresh, true, now) {
            Decision::Granted {
                access, refresh, ..
            } => {
                let tokens = Tokens {
                    access,
                    refresh: refresh.unwrap_or(request.tokens.refresh),
                    ..request.tokens
                };
                self.books.granted += 1;
                self.books.open.push(tokens);
                Outcome::Granted(tokens)
            }
            Decision::Refused { .. } => Outcome::Refused {
                reason: String::new(),
            },
        }
    }

    /// The first byte leaves: the judge looks at what else is under way.
    pub(super) fn leaves(&mut self, r: usize, row: &GrantRow, scope: &Scope) {
        let now = self.store_time();
        let request = Request {
            base: row.version,
            tokens: Tokens::open(&row.sealed),
        };
        let beside = self.replicas.iter().enumerate().any(|(other, replica)| {
            other != r
                && replica.air.as_ref().is_some_and(|air| {
                    now < air.until
                        && air.request == Some(request)
                        && matches!(air.doing, Doing::Sent(_) | Doing::Answer(_))
                })
        });
        // A claim of a version that has moved protects nothing, and its answer is void.
        let unclaimed = self.row.as_ref().is_some_and(|stored| {
            stored.version == row.version
                && !stored
                    .claim
                    .as_ref()
                    .is_some_and(|claim| claim.epoch == row.epoch && now < claim.until)
        });
        if beside || unclaimed {
            self.blame(Breach::TwoInFlight);
        }

        let index = usize::try_from(row.version - 1).expect("few versions");
        let before = self.books.sent[index];
        let on_record = row.attempt.as_ref().map_or(0, |attempt| attempt.sends);
        let rejected = self.books.rejected & (1 << row.version) != 0;
        let forbidden = scope.policy.replay() == ReplayPolicy::Revokes
            && before > 0
            && row.access_alive(now)
            && !rejected;
        if u32::from(before) >= on_record || forbidden {
            self.blame(Breach::Replay);
        }
        self.books.sent[index] += 1;
        if self.books.sent[index] > 1 + self.disturbed(scope) {
            self.blame(Breach::TooMany);
        }
        let air = self.air(r);
        air.request = Some(request);
        air.doing = Doing::Sent(request);
    }

    /// The provider says "not now": nothing was used.
    pub(super) fn throttle(&mut self, r: usize) {
        let Doing::Sent(request) = self.air(r).doing else {
            unreachable!("it is on its way")
        };
        let index = usize::try_from(request.base - 1).expect("few versions");
        self.books.sent[index] -= 1;
        self.air(r).doing = Doing::Answer(failed(FailureKind::Throttled));
    }

    /// Nothing comes back.
    pub(super) fn give_up(&mut self, r: usize, arrives: bool, scope: &Scope) {
        match self.air(r).doing.clone() {
            Doing::Sent(request) if arrives => self.orphans.push(request),
            Doing::Answer(Outcome::Granted(tokens)) => self.lose(tokens),
            _ => {}
        }
        self.event(r, Event::Answered(failed(FailureKind::Unknown)), scope);
    }

    /// Connecting failed.
    pub(super) fn not_sent(&mut self, r: usize, scope: &Scope) {
        self.event(r, Event::Answered(failed(FailureKind::NotSent)), scope);
    }

    /// A granted answer is gone for a reason that was not in our power.
    pub(super) fn lose(&mut self, tokens: Tokens) {
        if self.close(tokens) {
            self.books.lost += 1;
        }
    }

    /// Strikes an answer off the list of those under way; `false` if it was not on it.
    pub(super) fn close(&mut self, tokens: Tokens) -> bool {
        let place = self.books.open.iter().position(|open| *open == tokens);
        place.map(|place| self.books.open.remove(place)).is_some()
    }

    /// A person goes through the provider's consent again.
    pub(super) fn authorize(&mut self, scope: &Scope) {
        let now = self.store_time();
        let life = LIFETIME;
        let mut family = Family::new(scope.policy.terms());
        let (access, refresh) = family.issue(life, self.provider_time());
        let tokens = Tokens {
            family: u8::try_from(self.families.len()).expect("few"),
            access,
            refresh,
        };
        self.families.push(family);
        let Some(row) = &mut self.row else { return };
        if scope.has(Mutant::NoVoid) {
            row.sealed = tokens.seal();
            return;
        }
        row.authorize(fresh(tokens, life), now);
        self.books.committed.push(tokens);
        self.books.sent.push(0);
        self.books.authorized += 1;
    }

    /// Time passes. Flights that wait for the provider extend their claims, as the driver does
    /// every third of a claim: none of theirs is ever seen lapsed.
    pub(super) fn tick(&mut self) {
        self.now = self.next_tick();
        if self.halted() {
            self.halted += 1;
        }
        let now = self.store_time();
        for replica in &mut self.replicas {
            let waiting = |doing: &Doing| matches!(doing, Doing::Sent(_) | Doing::Answer(_));
            if let Some(air) = &mut replica.air
                && waiting(&air.doing)
                && replica.life == Life::Up
            {
                air.waited += 1;
            }
            if replica.life == Life::Up
                && self.store_up
                && let Some(row) = &mut self.row
                && let Some(air) = &mut replica.air
                && waiting(&air.doing)
                && row.extend(air.epoch, CLAIM, now)
            {
                air.until = now + CLAIM;
            }
        }
    }

    /// While nothing is under way, time goes straight to when something changes.
    fn next_tick(&self) -> u8 {
        let next = self.now + 1;
        if self.replicas.iter().any(|replica| replica.air.is_some()) {
            return next;
        }
        let mut marks = Vec::new();
        if let Some(row) = &self.row {
            marks.extend(row.expires_at);
            marks.extend(row.claim.as_ref().map(|claim| claim.until));
            marks.extend(row.trouble.as_ref().map(|trouble| trouble.retry_at));
        }
        let mut ticks: Vec<u8> = marks
            .into_iter()
            .map(|at| {
                u8::try_from(at.0.div_euclid(1000) + i64::from(at.0 % 1000 != 0))
                    .expect("few ticks")
            })
            .collect();
        for snapshot in self.replicas.iter().filter_map(|replica| replica.snapshot) {
            let tick = |at: Duration| u8::try_from(at.as_secs()).expect("few ticks");
            ticks.push(tick((snapshot.expires - snapshot.margin).0));
            ticks.push(tick(snapshot.expires.0));
        }
        ticks
            .into_iter()
            .filter(|tick| *tick > self.now)
            .min()
            .unwrap_or(next)
    }
}

fn failed(kind: FailureKind) -> Outcome<Tokens> {
    Outcome::Failed {
        kind,
        fault: Fault::Endpoint,
        message: String::new(),
        retry_after: None,
    }
}
