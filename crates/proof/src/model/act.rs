//! What can happen next.

use tokenward::refresh::{
    flight::{Event, Flight, Stored},
    ledger::GrantRow,
};

use super::{Breach, Doing, Effect, Life, Mutant, Outcome, Replica, Scope, World, world::Why};

/// One thing that happens. Replicas, callers and orphans by their place in the canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Time passes. Whoever waits for the provider extends its claim; nothing else is due.
    Tick,
    /// A caller finds its token stale.
    Ask(usize, usize),
    /// A caller forces a refresh.
    Force(usize, usize),
    /// A caller was told 401 with the token of this version.
    Report(usize, usize, u64),
    /// A caller goes away.
    Leave(usize, usize),
    /// A flight's effect is performed, or the next thing on its wire happens.
    Do(usize),
    /// It is performed, but the store's reply is lost.
    ReplyLost(usize),
    /// The limiter or breaker says no.
    Shut(usize),
    /// Connecting fails: nothing leaves.
    NotSent(usize),
    /// The provider says 429.
    Throttle(usize),
    /// The request is lost on its way, or arrives after the sender has given up.
    RequestLost(usize, bool),
    /// The answer is lost on its way, or cannot be read.
    AnswerLost(usize),
    /// A request whose sender has gone arrives.
    Arrive(usize),
    /// A commit is not confirmed in time, and goes on.
    Hang(usize),
    /// A flight's sleep is over.
    Wake(usize),
    /// A process dies, and with it its memory and its callers' requests.
    Crash(usize),
    /// It is started again.
    Restart(usize),
    /// A process is stopped.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// The store stops answering.
    StoreDown,
    /// It answers again.
    StoreUp,
    /// A process commits what waits in its spool.
    Adopt(usize, usize),
    /// A process hears of a newer version.
    Hear(usize),
    /// A person authorizes anew.
    Authorize,
    /// A person deletes the grant.
    Delete,
    /// Nothing can happen any more, though something should.
    Stuck,
}

/// What kind of disturbance an act is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A forced refresh.
    Force,
    /// A 401 report.
    Report,
    /// A caller leaves.
    Leave,
    /// A request or an answer is lost, connecting fails, 429, the gate is shut.
    Wire,
    /// The store is silent, or its reply is lost.
    Store,
    /// A process crashes.
    Crash,
    /// A process is stopped.
    Pause,
    /// A re-authorization or a delete.
    Person,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Force,
        Self::Report,
        Self::Leave,
        Self::Wire,
        Self::Store,
        Self::Crash,
        Self::Pause,
        Self::Person,
    ];
}

impl Act {
    /// `None`: it belongs to every run, and is not counted.
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Tick
            | Self::Ask(..)
            | Self::Do(_)
            | Self::Arrive(_)
            | Self::Wake(_)
            | Self::Restart(_)
            | Self::Resume(_)
            | Self::StoreUp
            | Self::Adopt(..)
            | Self::Hear(_)
            | Self::Stuck => None,
            Self::Force(..) => Some(Kind::Force),
            Self::Report(..) => Some(Kind::Report),
            Self::Leave(..) => Some(Kind::Leave),
            Self::Shut(_)
            | Self::NotSent(_)
            | Self::Throttle(_)
            | Self::RequestLost(..)
            | Self::AnswerLost(_) => Some(Kind::Wire),
            Self::ReplyLost(_) | Self::Hang(_) | Self::StoreDown => Some(Kind::Store),
            Self::Crash(_) => Some(Kind::Crash),
            Self::Pause(_) => Some(Kind::Pause),
            Self::Authorize | Self::Delete => Some(Kind::Person),
        }
    }
}

impl World {
    pub(super) fn acts(&self, scope: &Scope, acts: &mut Vec<Act>) {
        let open = self.now <= scope.horizon;
        let disturb = open && self.left > 0;
        for (r, replica) in self.replicas.iter().enumerate() {
            self.replica_acts(r, open, disturb, acts);
            if replica.life == Life::Paused {
                acts.push(Act::Resume(r));
            }
            if replica.life == Life::Down && self.store_up && (open || !replica.spool.is_empty()) {
                acts.push(Act::Restart(r));
            }
            if replica.life != Life::Down && disturb {
                acts.push(Act::Crash(r));
                if replica.life == Life::Up && replica.air.is_some() {
                    acts.push(Act::Pause(r));
                }
            }
        }
        acts.extend((0..self.orphans.len()).map(Act::Arrive));
        if !self.store_up {
            acts.push(Act::StoreUp);
        } else if disturb {
            acts.push(Act::StoreDown);
        }
        if disturb && self.row.is_some() {
            acts.push(Act::Authorize);
            acts.push(Act::Delete);
        }
        if self.may_tick(scope) {
            acts.push(Act::Tick);
        }
        acts.retain(|act| act.kind().is_none_or(|kind| scope.kinds.contains(&kind)));
        if acts.is_empty() && (self.someone_waits() || !self.books.open.is_empty()) {
            acts.push(Act::Stuck);
        }
    }

    fn replica_acts(&self, r: usize, open: bool, disturb: bool, acts: &mut Vec<Act>) {
        let replica = &self.replicas[r];
        if replica.life != Life::Up {
            // What is under way in the network does not stop with the process.
            if replica.life == Life::Paused
                && let Some(air) = &replica.air
                && let Doing::Sent(_) = air.doing
            {
                acts.push(Act::Do(r));
            }
            return;
        }
        if let Some(snapshot) = &replica.snapshot {
            let mut last = None;
            for (c, caller) in replica.callers.iter().enumerate() {
                // Callers are interchangeable.
                if last.replace(caller) == Some(caller) {
                    continue;
                }
                if caller.wait.is_some() {
                    if disturb {
                        acts.push(Act::Leave(r, c));
                    }
                } else if open && caller.asks > 0 {
                    if !snapshot.fresh(self.moment()) {
                        acts.push(Act::Ask(r, c));
                    }
                    if disturb {
                        if self.store_up {
                            acts.push(Act::Force(r, c));
                        }
                        acts.push(Act::Report(r, c, snapshot.version));
                        if snapshot.version > 1 {
                            acts.push(Act::Report(r, c, snapshot.version - 1));
                        }
                    }
                }
            }
            if self.store_up
                && self
                    .row
                    .as_ref()
                    .is_some_and(|row| row.version > snapshot.version)
            {
                acts.push(Act::Hear(r));
            }
        }
        let held = replica
            .air
            .as_ref()
            .and_then(|air| air.holds.filter(|_| air.spooled));
        if self.store_up {
            for (n, letter) in replica.spool.iter().enumerate() {
                if held != Some(letter.tokens) {
                    acts.push(Act::Adopt(r, n));
                }
            }
        }
        let Some(air) = &replica.air else { return };
        match &air.doing {
            Doing::Effect(Effect::Sleep(_) | Effect::Rest(_)) => {
                if self.wake_is_of_use(r) {
                    acts.push(Act::Wake(r));
                }
            }
            Doing::Effect(effect) => {
                acts.push(Act::Do(r));
                if disturb {
                    match effect {
                        Effect::Admit => acts.push(Act::Shut(r)),
                        Effect::Send { .. } => acts.push(Act::NotSent(r)),
                        Effect::Claim { .. } | Effect::Commit { .. } | Effect::Settle { .. }
                            if self.store_up =>
                        {
                            acts.push(Act::ReplyLost(r));
                            if let Effect::Commit {
                                within: Some(_), ..
                            } = effect
                            {
                                acts.push(Act::Hang(r));
                            }
                        }
                        _ => {}
                    }
                }
            }
            Doing::Checked(_) => acts.push(Act::Do(r)),
            Doing::Sent(_) => {
                acts.push(Act::Do(r));
                if disturb {
                    acts.push(Act::Throttle(r));
                    acts.push(Act::RequestLost(r, false));
                    acts.push(Act::RequestLost(r, true));
                }
            }
            Doing::Answer(_) => {
                acts.push(Act::Do(r));
                if disturb {
                    acts.push(Act::AnswerLost(r));
                }
            }
        }
    }

    /// A running process is fast against the clock: what it can do, it does before the next
    /// tick. One that is not is [`Life::Paused`].
    fn may_tick(&self, scope: &Scope) -> bool {
        let busy = self.replicas.iter().enumerate().any(|(r, replica)| {
            let Some(air) = &replica.air else {
                return false;
            };
            match &air.doing {
                // The check of `not_after` and the write of the first byte are two steps, but
                // a stop between them is assumed to be shorter than half of the claim.
                Doing::Checked(_) if !scope.has(Mutant::LongGap) => true,
                Doing::Effect(Effect::Sleep(_) | Effect::Rest(_)) => {
                    replica.life == Life::Up && self.wake_is_of_use(r)
                }
                Doing::Effect(_) | Doing::Checked(_) => replica.life == Life::Up,
                Doing::Sent(_) | Doing::Answer(_) => {
                    replica.life == Life::Up && air.waited >= scope.patience
                }
            }
        });
        !busy
            && (!self.halted() || self.halted < scope.halt)
            && (self.now < scope.horizon || self.now < scope.horizon + 12 && self.someone_waits())
    }

    pub(super) fn halted(&self) -> bool {
        let paused = |replica: &Replica| replica.life == Life::Paused;
        !self.store_up || self.replicas.iter().any(paused)
    }

    pub(super) fn someone_waits(&self) -> bool {
        self.replicas
            .iter()
            .filter(|replica| replica.life != Life::Down)
            .any(|replica| replica.callers.iter().any(|caller| caller.wait.is_some()))
    }

    /// A sleeper that would only find what it found before is not woken: the states would be
    /// the same.
    fn wake_is_of_use(&self, r: usize) -> bool {
        let Some(air) = &self.replicas[r].air else {
            return false;
        };
        let (flight, effect) = air.flight.clone().step(Event::Woken, self.moment());
        match effect {
            Effect::Commit { .. } => self.store_up,
            Effect::Look if self.store_up => {
                let (flight, effect) = look(flight, self.row.clone(), self);
                !(matches!(effect, Effect::Sleep(_)) && flight == air.flight)
            }
            _ => true,
        }
    }

    pub(super) fn act(&mut self, scope: &Scope, act: Act) {
        if act.kind().is_some() {
            self.left -= 1;
        }
        match act {
            Act::Tick => self.tick(),
            Act::Ask(r, c) => self.ask(r, c, Why::Stale, scope),
            Act::Force(r, c) => self.force(r, c, scope),
            Act::Report(r, c, version) => self.report(r, c, version, scope),
            Act::Leave(r, c) => self.leave(r, c, scope),
            Act::Do(r) => self.perform(r, true, scope),
            Act::ReplyLost(r) => self.perform(r, false, scope),
            Act::Hang(r) => self.event(r, Event::Unconfirmed, scope),
            Act::Shut(r) => self.shut(r, scope),
            Act::NotSent(r) => self.not_sent(r, scope),
            Act::Throttle(r) => self.throttle(r),
            Act::RequestLost(r, arrives) => self.give_up(r, arrives, scope),
            Act::AnswerLost(r) => self.give_up(r, false, scope),
            Act::Arrive(n) => {
                let request = self.orphans.remove(n);
                if let Outcome::Granted(tokens) = self.ask_provider(request) {
                    self.lose(tokens);
                }
            }
            Act::Wake(r) => self.event(r, Event::Woken, scope),
            Act::Crash(r) => self.crash(r),
            Act::Restart(r) => self.restart(r),
            Act::Pause(r) => self.replicas[r].life = Life::Paused,
            Act::Resume(r) => self.replicas[r].life = Life::Up,
            Act::StoreDown => self.store_up = false,
            Act::StoreUp => self.store_up = true,
            Act::Adopt(r, n) => self.adopt_letter(r, n, scope),
            Act::Hear(r) => self.hear(r, scope),
            Act::Authorize => self.authorize(scope),
            Act::Delete => self.row = None,
            Act::Stuck => self.blame(if self.someone_waits() {
                Breach::Unanswered
            } else {
                Breach::Lost
            }),
        }
        if !self.halted() {
            self.halted = 0;
        }
    }
}

/// A flight that looks at a row.
pub(super) fn look(
    flight: Flight<super::Tokens>,
    row: Option<GrantRow>,
    world: &World,
) -> (Flight<super::Tokens>, Effect<super::Tokens>) {
    let event = Event::Looked(Stored::Ok(row, world.store_time()));
    flight.step(event, world.moment())
}
