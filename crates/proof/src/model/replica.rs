//! A process: the driver of `vault/pilot.rs`, the joining of `vault/entry.rs`, the landing of
//! `vault/landing.rs` and the spool of `vault/spooling.rs`, mirrored one step at a time.

use std::time::Duration;

use tokenward::{
    refresh::{
        distrust::{Distrust, Newest, Remedy},
        flight::{Effect, Ending, Event, Flight, Outcome, Plan, Stored},
        gate::Admission,
        ledger::{CommitReply, GrantRow, Need},
    },
    time::{Moment, StoreTime},
};

use super::{
    Breach, Doing, Life, Mutant, Scope, Snapshot, Tokens, World,
    world::{Air, CLAIM, LIFETIME, Wait, Why},
};

/// As in `vault.rs`: after this many flights a caller takes the newest token as it is.
const MOST_LAPS: u8 = 2;

impl World {
    pub(super) fn air(&mut self, r: usize) -> &mut Air {
        self.replicas[r].air.as_mut().expect("it flies")
    }

    // Callers.

    /// `Vault::token` with a stale snapshot.
    pub(super) fn ask(&mut self, r: usize, c: usize, need: Why, scope: &Scope) {
        let Some(snapshot) = self.replicas[r].snapshot else {
            return;
        };
        self.obtain(r, c, need, snapshot.version, snapshot.version, scope);
    }

    /// `Vault::validate`: its flight looks first, so that what is committed by now does not satisfy
    /// it.
    pub(super) fn force(&mut self, r: usize, c: usize, scope: &Scope) {
        let Some(snapshot) = self.replicas[r].snapshot else {
            return;
        };
        let committed = self.row.as_ref().map_or(0, |row| row.version);
        self.obtain(r, c, Why::Forced, snapshot.version, committed + 1, scope);
    }

    /// `Vault::rejected`: the API said 401 to the token of `version`.
    pub(super) fn report(&mut self, r: usize, c: usize, version: u64, scope: &Scope) {
        self.books.rejected |= 1 << version;
        let Some(snapshot) = self.replicas[r].snapshot else {
            return;
        };
        if snapshot.version == version && !self.remedy(r, snapshot, scope) {
            // The API's answer stands.
            self.replicas[r].callers[c].asks -= 1;
            return;
        }
        self.obtain(r, c, Why::Rejected, version, version + 1, scope);
    }

    /// `Vault::remedy`: whether something can be done about the rejection of the newest version.
    fn remedy(&mut self, r: usize, rejected: Snapshot, scope: &Scope) -> bool {
        let now = self.moment();
        let newest = Newest {
            refreshable: true,
            authorized: rejected.refreshed.is_none(),
        };
        let distrust = &mut self.replicas[r].distrust;
        match distrust.rejected(rejected.version, newest, now) {
            Remedy::Refresh => true,
            Remedy::None => false,
            Remedy::Look => {
                if let Stored::Ok(Some(row), _) = self.read() {
                    self.publish(r, &row, scope);
                }
                self.replicas[r]
                    .snapshot
                    .is_some_and(|present| present.version > rejected.version)
            }
        }
    }

    fn obtain(&mut self, r: usize, c: usize, need: Why, seen: u64, floor: u64, scope: &Scope) {
        let caller = &mut self.replicas[r].callers[c];
        caller.asks -= 1;
        caller.wait = Some(Wait {
            need,
            seen,
            floor,
            laps: 0,
            began: false,
            looked: None,
            after: need != Why::Forced,
        });
        self.lap(r, c, scope);
    }

    /// `Vault::obtain`'s loop up to the wait.
    fn lap(&mut self, r: usize, c: usize, scope: &Scope) {
        let Some(mut wait) = self.replicas[r].callers[c].wait else {
            return;
        };
        wait.laps = (wait.laps + 1).min(MOST_LAPS + 1);
        let Some(snapshot) = self.replicas[r].snapshot else {
            return self.fail(r, c, scope);
        };
        // `Inner::join`.
        let now = self.moment();
        let after = wait.after || wait.looked.is_some_and(|old| old < snapshot.version);
        if after
            && snapshot.version > wait.seen
            && (snapshot.fresh(now) || wait.laps > MOST_LAPS && snapshot.alive(now))
        {
            return self.serve(r, c, snapshot);
        }
        wait.began = self.replicas[r].air.is_none();
        self.replicas[r].callers[c].wait = Some(wait);
        if !wait.began {
            return;
        }
        let newest = snapshot.version.max(wait.seen);
        let need = wait.need.need();
        let plan = Plan {
            seen: newest,
            need: if scope.has(Mutant::StaleRejection) {
                need
            } else {
                need.of(wait.seen, newest)
            },
            policy: scope.policy.replay(),
            claim_ttl: CLAIM,
            poll: Duration::from_millis(20),
            confirm_within: Duration::from_millis(100),
            well_since: None,
            chance: 0.0,
        };
        let owner = self.free_owner();
        let (flight, effect) = Flight::new(plan.clone()).step(Event::Begin, now);
        self.replicas[r].air = Some(Air {
            flight,
            plan,
            owner,
            doing: Doing::Effect(effect),
            request: None,
            waited: 0,
            epoch: 0,
            until: StoreTime(0),
            holds: None,
            refused: None,
            spooled: false,
        });
    }

    fn serve(&mut self, r: usize, c: usize, snapshot: Snapshot) {
        let Some(wait) = self.replicas[r].callers[c].wait.take() else {
            return;
        };
        let index = usize::try_from(snapshot.version - 1).expect("few");
        let committed = self.books.committed.get(index) == Some(&snapshot.tokens);
        let in_spool = self.replicas[r]
            .spool
            .iter()
            .any(|letter| letter.tokens == snapshot.tokens);
        if !(committed || snapshot.ahead && in_spool) {
            self.blame(Breach::Uncommitted);
        }
        if snapshot.version < wait.floor {
            self.blame(Breach::Older);
        }
    }

    /// The flight did not help: the old token while it lives, else an error.
    fn fail(&mut self, r: usize, c: usize, scope: &Scope) {
        let Some(wait) = self.replicas[r].callers[c].wait else {
            return;
        };
        let now = self.moment();
        match self.replicas[r].snapshot {
            Some(snapshot)
                if wait.need.need().of(wait.seen, snapshot.version) == Need::Stale
                    && snapshot.alive(now) =>
            {
                self.serve(r, c, snapshot);
            }
            _ => {
                self.replicas[r].callers[c].wait = None;
                if self.disturbed(scope) == 0 {
                    self.blame(Breach::NoCause);
                }
            }
        }
    }

    /// A caller goes away. The flight goes on.
    pub(super) fn leave(&mut self, r: usize, c: usize, scope: &Scope) {
        let wait = self.replicas[r].callers[c].wait.take();
        if scope.has(Mutant::CallerOwned) && wait.is_some_and(|wait| wait.began) {
            if let Some(air) = self.replicas[r].air.take() {
                self.dropped(r, &air);
            }
            for c in 0..self.replicas[r].callers.len() {
                self.lap(r, c, scope);
            }
        }
    }

    // The flight.

    /// Feeds an event to the real flight.
    pub(super) fn event(&mut self, r: usize, event: Event<Tokens>, scope: &Scope) {
        if let Event::Answered(Outcome::Granted(tokens)) = event {
            self.air(r).holds = Some(tokens);
            if scope.has(Mutant::UseBeforeCommit) {
                self.release_early(r, tokens, scope);
            }
        }
        let now = self.moment();
        let air = self.air(r);
        let (flight, effect) = air.flight.clone().step(event, now);
        air.flight = flight;
        air.doing = Doing::Effect(effect);
        air.waited = 0;
    }

    /// Performs what the flight asks for, or lets the next thing on its wire happen.
    pub(super) fn perform(&mut self, r: usize, heard: bool, scope: &Scope) {
        let effect = match self.air(r).doing.clone() {
            Doing::Effect(effect) => effect,
            Doing::Checked(row) => return self.leaves(r, &row, scope),
            Doing::Sent(request) => {
                let outcome = self.ask_provider(request);
                let air = self.air(r);
                if let Outcome::Refused { .. } = outcome {
                    air.refused = Some(request.base);
                }
                air.doing = Doing::Answer(outcome);
                return;
            }
            Doing::Answer(outcome) => return self.event(r, Event::Answered(outcome), scope),
        };
        let event = match effect {
            Effect::Look => {
                let stored = self.read();
                if let Stored::Ok(Some(row), _) = &stored {
                    self.looked(r, row.version);
                }
                Event::Looked(stored)
            }
            Effect::Admit => Event::Admitted(Admission::Go),
            Effect::Claim { seen, pardoned } => {
                Event::Claimed(self.claim(r, seen, pardoned, heard, scope))
            }
            Effect::Send { row, not_after } => {
                if self.moment() <= not_after || scope.has(Mutant::NoNotAfter) {
                    self.air(r).doing = Doing::Checked(row);
                    return;
                }
                Event::Answered(Outcome::TooLate)
            }
            Effect::Commit { row, granted, .. } => {
                Event::Committed(self.commit(Self::letter(&row, granted), heard, scope))
            }
            Effect::Spool { row, granted } => {
                self.air(r).spooled = true;
                if !scope.has(Mutant::NoSpool) {
                    self.replicas[r].spool.push(Self::letter(&row, granted));
                }
                Event::Spooled(true)
            }
            Effect::Serve { row, granted } => {
                self.serve_ahead(r, &row, granted, scope);
                Event::Served
            }
            Effect::Settle { row, verdict } => {
                Event::Settled(self.settle(r, &row, verdict, heard, scope))
            }
            Effect::Revoke { granted, .. } => {
                self.families[usize::from(granted.family)].revoke();
                Event::Revoked
            }
            Effect::Sleep(_) | Effect::Rest(_) => Event::Woken,
            Effect::Finish(ending) => return self.land(r, ending, scope),
        };
        self.event(r, event, scope);
    }

    /// What a look finds is older than what is committed after it: those who had asked by then are
    /// satisfied with that.
    fn looked(&mut self, r: usize, version: u64) {
        for caller in &mut self.replicas[r].callers {
            if let Some(wait) = &mut caller.wait {
                wait.looked.get_or_insert(version);
            }
        }
    }

    /// The gate says no.
    pub(super) fn shut(&mut self, r: usize, scope: &Scope) {
        let until = self.moment() + Duration::from_secs(1);
        self.event(r, Event::Admitted(Admission::Open { until }), scope);
    }

    /// `Inner::land`, and what the callers make of it.
    fn land(&mut self, r: usize, ending: Ending, scope: &Scope) {
        let Some(air) = self.replicas[r].air.take() else {
            return;
        };
        if air.spooled {
            self.replicas[r]
                .spool
                .retain(|letter| Some(letter.tokens) != air.holds);
        }
        if air
            .holds
            .is_some_and(|held| self.books.open.contains(&held))
        {
            self.blame(Breach::Lost);
        }
        let ours = matches!(ending, Ending::Refreshed { .. });
        for caller in &mut self.replicas[r].callers {
            if let Some(wait) = &mut caller.wait {
                wait.after |= ours;
            }
        }
        let dead = matches!(ending, Ending::Dead { .. });
        let newer = match ending {
            Ending::Refreshed { row, .. } | Ending::Adopted { row, .. } => {
                self.publish(r, &row, scope);
                true
            }
            Ending::Missing => {
                self.replicas[r].snapshot = None;
                false
            }
            Ending::Failed { .. }
            | Ending::Deferred { .. }
            | Ending::Dead { .. }
            | Ending::GateShut { .. }
            | Ending::StoreDown(_) => false,
        };
        for c in 0..self.replicas[r].callers.len() {
            let wait = self.replicas[r].callers[c].wait;
            let rejected = wait.filter(|wait| wait.need == Why::Rejected);
            let rejected = rejected.map(|wait| wait.seen);
            // Only those who waited: one that begins a new flight waits for that one.
            if self.replicas[r].callers[c].wait.is_some() {
                if newer {
                    self.lap(r, c, scope);
                } else {
                    self.fail(r, c, scope);
                    self.withdraw(r, rejected.filter(|_| dead));
                }
            }
        }
    }

    /// `GrantEntry::withdraw`: a dead grant's token that the API has rejected is served no more.
    fn withdraw(&mut self, r: usize, rejected: Option<u64>) {
        if let Some(snapshot) = &mut self.replicas[r].snapshot
            && Some(snapshot.version) == rejected
        {
            snapshot.expires = Moment(Duration::ZERO);
        }
    }

    /// Takes a newer version into memory; an older one changes nothing.
    fn publish(&mut self, r: usize, row: &GrantRow, scope: &Scope) {
        let snapshot = Snapshot::of(row);
        let present = self.replicas[r]
            .snapshot
            .map_or(0, |present| present.version);
        let ahead = self.replicas[r]
            .snapshot
            .is_some_and(|present| present.ahead && present.version == snapshot.version);
        if present < snapshot.version || ahead || scope.has(Mutant::SnapshotGoesBack) {
            self.replicas[r].snapshot = Some(snapshot);
        }
        if self.replicas[r]
            .snapshot
            .is_some_and(|now| now.version < present)
        {
            self.blame(Breach::Older);
        }
    }

    /// A change by another process is heard of.
    pub(super) fn hear(&mut self, r: usize, scope: &Scope) {
        if let Some(row) = self.row.clone() {
            self.publish(r, &row, scope);
        }
    }

    /// `Pilot::serve`: what is in the spool, as the version that it will be.
    fn serve_ahead(&mut self, r: usize, row: &GrantRow, granted: Tokens, scope: &Scope) {
        let mut row = row.clone();
        row.commit(Self::letter(&row, granted).request());
        let ahead = Snapshot {
            ahead: true,
            ..Snapshot::of(&row)
        };
        if self.replicas[r]
            .snapshot
            .is_some_and(|present| present.version < ahead.version)
        {
            self.replicas[r].snapshot = Some(ahead);
        }
        if self.replicas[r].snapshot != Some(ahead) {
            return;
        }
        for c in 0..self.replicas[r].callers.len() {
            if let Some(wait) = &mut self.replicas[r].callers[c].wait {
                wait.after = true;
                self.lap(r, c, scope);
            }
        }
    }

    fn release_early(&mut self, r: usize, tokens: Tokens, scope: &Scope) {
        let Some(snapshot) = &mut self.replicas[r].snapshot else {
            return;
        };
        snapshot.version += 1;
        snapshot.tokens = tokens;
        snapshot.expires = snapshot.expires + LIFETIME;
        for c in 0..self.replicas[r].callers.len() {
            self.lap(r, c, scope);
        }
    }

    // The process.

    /// A flight is gone with its memory.
    fn dropped(&mut self, r: usize, air: &Air) {
        match &air.doing {
            Doing::Sent(request) => self.orphans.push(*request),
            Doing::Answer(Outcome::Granted(tokens)) => self.lose(*tokens),
            _ => {}
        }
        let Some(held) = air.holds else { return };
        let in_spool = self.replicas[r]
            .spool
            .iter()
            .any(|letter| letter.tokens == held);
        if in_spool || !self.books.open.contains(&held) {
            return;
        }
        // Only the death of its holder may lose an answer, and only before it is in the spool.
        if air.spooled || self.replicas[r].life != Life::Down {
            self.blame(Breach::Lost);
        }
        self.lose(held);
    }

    /// SIGKILL.
    pub(super) fn crash(&mut self, r: usize) {
        let replica = &mut self.replicas[r];
        replica.life = Life::Down;
        replica.snapshot = None;
        replica.distrust = Distrust::default();
        for caller in &mut replica.callers {
            caller.wait = None;
        }
        if let Some(air) = replica.air.take() {
            self.dropped(r, &air);
        }
    }

    pub(super) fn restart(&mut self, r: usize) {
        let snapshot = self.row.as_ref().map(Snapshot::of);
        let replica = &mut self.replicas[r];
        replica.life = Life::Up;
        replica.snapshot = snapshot;
    }

    /// `Vault::adopt_spool`, one entry.
    pub(super) fn adopt_letter(&mut self, r: usize, n: usize, scope: &Scope) {
        let letter = self.replicas[r].spool[n];
        let Stored::Ok(reply, _) = self.commit(letter, true, scope) else {
            return;
        };
        self.replicas[r].spool.remove(n);
        if let CommitReply::Reauthorized(_) | CommitReply::Missing = reply {
            self.families[usize::from(letter.tokens.family)].revoke();
        }
    }
}
