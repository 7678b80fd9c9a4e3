//! The limiter and breaker in front of one token endpoint, per client.
//!
//! Pure: time is an argument. The vault keeps one [`Gate`] for each (token endpoint, client).

use std::time::Duration;

use super::{flight::Fault, ledger::Need};
use crate::time::Moment;

/// How hard a token endpoint may be driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateLimits {
    /// Sustained requests per second.
    pub per_second: f64,
    /// How many may go at once after a rest.
    pub burst: u32,
    /// Whether the provider has said so. What nobody has said gives way to a long queue.
    pub stated: bool,
}

impl Default for GateLimits {
    /// High enough that only a herd notices.
    fn default() -> Self {
        Self {
            per_second: 50.0,
            burst: 100,
            stated: false,
        }
    }
}

/// Failures in a row, over all grants, that open the breaker.
const TRIP_AFTER: u32 = 5;
/// The first pause of an open breaker. It grows with the time that the trouble has lasted, to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// No provider's wish is believed for longer.
pub const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);
/// A probe that has not reported back for this long is taken for lost.
const PROBE_LIFE: Duration = Duration::from_secs(90);

/// A turn that is missed by more than this, and by more than a burst, is lost.
const LATE: Duration = Duration::from_secs(1);
/// No turn is further away: callers wait for half a minute at most, and the refresh takes its time,
/// too. Who would have to wait longer is told when to come back.
const LONGEST_QUEUE: Duration = Duration::from_secs(20);
/// An unstated rate grows with the queue, to this many times itself: two thousand dead
/// connections get their turns within their callers' deadlines, and ten are no burst.
const GREATEST_HASTE: f64 = 10.0;
/// A provider that asks for a pause has been driven too hard: for this long, the rate is as stated.
const CHASTENED: Duration = Duration::from_secs(600);

/// Whether a refresh may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go.
    Go,
    /// The limiter says: this long from now, ask again.
    Wait(Duration),
    /// The breaker is open, the provider asked for a pause, or the queue is too long, until then.
    Open {
        /// When to ask again.
        until: Moment,
    },
}

/// Limiter (GCRA) and breaker of one token endpoint and client.
///
/// What the provider asks for and what the breaker makes of failures are kept apart: the first ends
/// with its time and nothing else, the second with any sign that the trouble is over.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: GateLimits,
    /// GCRA's theoretical arrival time of the next request.
    tat: Moment,
    failures: u32,
    /// Since when nothing has gone well.
    ill_since: Option<Moment>,
    /// The provider's own wish.
    asked_until: Option<Moment>,
    /// The breaker's pause.
    tripped_until: Option<Moment>,
    /// While the gate is half open, the one request that tests the water.
    probing_since: Option<Moment>,
    /// The last sign that trouble is over.
    well_since: Option<Moment>,
    chastened_until: Option<Moment>,
}

impl Gate {
    /// A gate that has seen nothing yet.
    pub fn new(limits: GateLimits) -> Self {
        Self {
            limits,
            tat: Moment(Duration::ZERO),
            failures: 0,
            ill_since: None,
            asked_until: None,
            tripped_until: None,
            probing_since: None,
            well_since: None,
            chastened_until: None,
        }
    }

    /// Asks for one refresh to go out at `now`.
    ///
    /// Callers that must wait are given a `turn`, which they bring along when they ask again: they
    /// go in the order in which they came, and none is woken in vain.
    ///
    /// A forced refresh, which a person asks for, passes an open breaker, but neither the
    /// provider's wish nor the limiter.
    pub fn admit(&mut self, now: Moment, need: Need, turn: &mut Option<Moment>) -> Admission {
        if let Some(until) = self.asked_until
            && now < until
        {
            return Admission::Open { until };
        }
        if need != Need::Forced
            && let Some(until) = self.asked_until.max(self.tripped_until)
        {
            if now < until {
                return Admission::Open { until };
            }
            if let Some(since) = self.probing_since
                && now < since + PROBE_LIFE
            {
                return Admission::Wait(Duration::from_millis(100));
            }
            self.probing_since = Some(now);
            return Admission::Go;
        }
        self.queue(now, turn)
    }

    fn queue(&mut self, now: Moment, turn: &mut Option<Moment>) -> Admission {
        let interval = Duration::from_secs_f64(1.0 / self.limits.per_second.max(0.001));
        let burst = interval * self.limits.burst.saturating_sub(1);
        if let Some(at) = *turn {
            if now < at {
                return Admission::Wait(now.until(at));
            }
            *turn = None;
            // After a long pause of this process too many turns would have come at once.
            if now <= at + burst.max(LATE) {
                return Admission::Go;
            }
        }
        let tat = self.tat.max(now);
        let wait = (now + burst).until(tat);
        if wait > LONGEST_QUEUE {
            return Admission::Open { until: now + wait };
        }
        self.tat = tat + interval.div_f64(self.haste(now, wait));
        if wait.is_zero() {
            return Admission::Go;
        }
        *turn = Some(now + wait);
        Admission::Wait(wait)
    }

    /// How much faster than the usual rate a queue of this length goes.
    fn haste(&self, now: Moment, wait: Duration) -> f64 {
        let chastened = self.chastened_until.is_some_and(|until| now < until);
        if self.limits.stated || chastened {
            return 1.0;
        }
        let room = 1.0 - wait.as_secs_f64() / (0.75 * LONGEST_QUEUE.as_secs_f64());
        1.0 / room.max(1.0 / GREATEST_HASTE)
    }

    /// An answer that shows the endpoint and the client to be well: a grant, or a refusal of a
    /// grant. Whether that ends trouble: then others need not wait any longer.
    ///
    /// Trouble is what opened the breaker. A single failure may be one grant's own, however it
    /// looks, and the success of another says nothing about it.
    pub fn well(&mut self, now: Moment) -> bool {
        let trouble = self.failures >= TRIP_AFTER;
        if trouble {
            self.well_since = Some(now);
        }
        self.failures = 0;
        self.ill_since = None;
        self.tripped_until = None;
        self.probing_since = None;
        // A success that was sent before the provider asked for a pause does not end it.
        self.asked_until = self.asked_until.filter(|until| now < *until);
        trouble
    }

    /// The client was changed by a person: what it was refused for may be mended.
    pub fn mended(&mut self, now: Moment) {
        self.well(now);
        self.well_since = Some(now);
    }

    /// When trouble was last seen to be over. Failures of grants from before say nothing any more.
    pub fn well_since(&self) -> Option<Moment> {
        self.well_since
    }

    /// An admitted request that never went out says nothing about the endpoint.
    pub fn unused(&mut self) {
        self.probing_since = None;
    }

    /// A failure. `retry_after` is the provider's own wish and holds at once, for all grants of
    /// the client. Whether the failure ends trouble that others had: an endpoint that refuses one
    /// grant is well.
    pub fn ill(&mut self, fault: Fault, retry_after: Option<Duration>, now: Moment) -> bool {
        if let Some(wish) = retry_after {
            let until = now + wish.min(LONGEST_WISH);
            self.asked_until = self.asked_until.max(Some(until));
            self.chastened_until = Some(now + CHASTENED);
        }
        if fault == Fault::Grant {
            return self.well(now);
        }
        self.failures = self.failures.saturating_add(1);
        self.probing_since = None;
        let since = *self.ill_since.get_or_insert(now);
        if self.failures >= TRIP_AFTER {
            let pause = (since.until(now) / 4).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.tripped_until = self.tripped_until.max(Some(now + pause));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Gate {
        /// Asks for the first time.
        fn ask(&mut self, now: Moment) -> Admission {
            self.admit(now, Need::Stale, &mut None)
        }
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn limiter_lets_a_burst_through_and_then_the_rate() {
        let mut gate = Gate::new(GateLimits {
            per_second: 10.0,
            burst: 3,
            stated: true,
        });
        let now = at(1000);
        for _ in 0..3 {
            assert_eq!(gate.ask(now), Admission::Go);
        }
        let wait = |ms| Admission::Wait(Duration::from_millis(ms));
        let (mut first, mut second) = (None, None);
        assert_eq!(gate.admit(now, Need::Stale, &mut first), wait(100));
        assert_eq!(gate.admit(now, Need::Stale, &mut second), wait(200));
        // Who comes later goes later, even if it asks at the very moment.
        assert_eq!(gate.ask(at(1100)), wait(200));
        assert_eq!(gate.admit(at(1100), Need::Stale, &mut first), Admission::Go);
        // Woken early, it keeps its turn.
        assert_eq!(gate.admit(at(1100), Need::Stale, &mut second), wait(100));
        assert_eq!(
            gate.admit(at(1203), Need::Stale, &mut second),
            Admission::Go
        );
        assert_eq!(second, None);
    }

    #[test]
    fn turns_that_were_slept_through_do_not_all_come_at_once() {
        let mut gate = Gate::new(GateLimits {
            per_second: 10.0,
            burst: 1,
            stated: true,
        });
        let mut turns = [None; 200];
        for turn in &mut turns {
            gate.admit(at(0), Need::Stale, turn);
        }
        let waiting = turns.iter_mut().filter(|turn| turn.is_some());
        let asked = waiting.map(|turn| gate.admit(at(19_900), Need::Stale, turn));
        assert_eq!(asked.filter(|answer| *answer == Admission::Go).count(), 11);
    }

    #[test]
    fn breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let mut gate = Gate::new(GateLimits::default());
        for _ in 0..TRIP_AFTER {
            assert_eq!(gate.ask(at(0)), Admission::Go);
            gate.ill(Fault::Endpoint, None, at(0));
        }
        assert_eq!(gate.ask(at(10)), Admission::Open { until: at(1000) });
        assert_eq!(gate.ask(at(1000)), Admission::Go);
        assert!(matches!(gate.ask(at(1000)), Admission::Wait(_)));
        gate.ill(Fault::Endpoint, None, at(1000));
        assert_eq!(gate.ask(at(1001)), Admission::Open { until: at(2000) });
        assert_eq!(gate.ask(at(3000)), Admission::Go);
        assert!(gate.well(at(3000)));
        assert_eq!(gate.ask(at(3000)), Admission::Go);
        assert_eq!(gate.ask(at(3000)), Admission::Go);
    }

    #[test]
    fn one_failure_does_not_open_it_but_retry_after_does() {
        let mut gate = Gate::new(GateLimits::default());
        gate.ill(Fault::Endpoint, None, at(0));
        assert_eq!(gate.ask(at(0)), Admission::Go);
        gate.ill(Fault::Endpoint, Some(Duration::from_secs(7)), at(0));
        assert_eq!(gate.ask(at(6999)), Admission::Open { until: at(7000) });
        assert_eq!(gate.ask(at(7000)), Admission::Go);
    }

    #[test]
    fn a_lost_probe_does_not_close_the_gate_for_ever() {
        let mut gate = Gate::new(GateLimits::default());
        gate.ill(Fault::Endpoint, Some(Duration::from_secs(1)), at(0));
        assert_eq!(gate.ask(at(1000)), Admission::Go);
        assert!(matches!(gate.ask(at(50_000)), Admission::Wait(_)));
        assert_eq!(gate.ask(at(91_000)), Admission::Go);
    }

    #[test]
    fn a_success_that_was_sent_before_the_provider_asked_for_a_pause_does_not_end_it() {
        let mut gate = Gate::new(GateLimits::default());
        gate.ill(Fault::Endpoint, Some(Duration::from_secs(300)), at(0));
        gate.well(at(50));
        // Beyond what the breaker would do by itself, and for a person, too.
        assert_eq!(
            gate.ask(at(299_999)),
            Admission::Open { until: at(300_000) }
        );
        assert_eq!(
            gate.admit(at(299_999), Need::Forced, &mut None),
            Admission::Open { until: at(300_000) }
        );
        assert_eq!(gate.ask(at(300_000)), Admission::Go);
        // A shorter wish does not shorten it, and none lasts longer than a day.
        gate.ill(Fault::Endpoint, Some(Duration::from_secs(u64::MAX)), at(0));
        gate.ill(Fault::Endpoint, Some(Duration::from_secs(1)), at(0));
        let day = Moment(LONGEST_WISH);
        assert_eq!(gate.ask(at(400_000)), Admission::Open { until: day });
        assert_eq!(gate.ask(day), Admission::Go);
    }

    #[test]
    fn refusals_of_single_grants_never_open_the_breaker() {
        let mut gate = Gate::new(GateLimits::default());
        for _ in 0..100 {
            gate.ill(Fault::Grant, None, at(0));
        }
        assert_eq!(gate.ask(at(0)), Admission::Go);
        for _ in 0..TRIP_AFTER {
            gate.ill(Fault::Client, None, at(0));
        }
        assert_eq!(gate.ask(at(1)), Admission::Open { until: at(1000) });
        // An endpoint that refuses a grant is well.
        assert!(gate.ill(Fault::Grant, None, at(1)));
        assert_eq!(gate.ask(at(1)), Admission::Go);
    }

    #[test]
    fn the_breakers_pauses_are_bounded_by_the_time_that_the_trouble_has_lasted() {
        let mut gate = Gate::new(GateLimits::default());
        let mut now = at(0);
        let mut tries = 0;
        while now < at(3_600_000) {
            let before = now;
            match gate.ask(now) {
                Admission::Open { until } => now = until,
                _ => {
                    tries += 1;
                    gate.ill(Fault::Endpoint, None, now);
                }
            }
            let pause = before.until(now);
            assert!(pause <= FIRST_PAUSE.max(before.0 / 4).min(LONGEST_PAUSE));
        }
        assert!(tries < 100, "{tries}");
    }

    #[test]
    fn a_person_passes_an_open_breaker_and_a_mended_client_opens_it() {
        let mut gate = Gate::new(GateLimits::default());
        for _ in 0..TRIP_AFTER {
            gate.ill(Fault::Client, None, at(0));
        }
        assert_eq!(gate.ask(at(1)), Admission::Open { until: at(1000) });
        assert_eq!(gate.admit(at(1), Need::Forced, &mut None), Admission::Go);
        assert_eq!(gate.well_since(), None);
        gate.mended(at(2));
        assert_eq!(gate.ask(at(2)), Admission::Go);
        assert_eq!(gate.well_since(), Some(at(2)));
    }

    /// Asks for `grants` turns at once: how long the last of them waits, and how many go within
    /// the busiest second.
    fn herd(gate: &mut Gate, grants: usize) -> (Duration, usize) {
        let waits: Vec<_> = (0..grants)
            .map(|_| match gate.ask(at(0)) {
                Admission::Go => Duration::ZERO,
                Admission::Wait(wait) => wait,
                Admission::Open { until } => panic!("told to come back at {until:?}"),
            })
            .collect();
        let within = |from: &Duration| {
            let second = *from..*from + Duration::from_secs(1);
            waits.iter().filter(|wait| second.contains(wait)).count()
        };
        (waits[grants - 1], waits.iter().map(within).max().unwrap())
    }

    #[test]
    fn two_thousand_dead_connections_get_their_turns_within_their_callers_deadlines() {
        let (longest, busiest) = herd(&mut Gate::new(GateLimits::default()), 2000);
        assert!(longest < Duration::from_secs(15), "{longest:?}");
        assert!(busiest <= 500, "{busiest}");
        // A few are no reason for haste.
        let (_, busiest) = herd(&mut Gate::new(GateLimits::default()), 200);
        assert!(busiest <= 160, "{busiest}");
    }

    #[test]
    fn what_a_provider_states_or_teaches_is_kept_and_a_queue_beyond_all_deadlines_is_told_when() {
        let stated = GateLimits {
            stated: true,
            ..GateLimits::default()
        };
        let mut taught = Gate::new(GateLimits::default());
        taught.ill(Fault::Endpoint, Some(Duration::ZERO), at(0));
        taught.well(at(0));
        for mut gate in [Gate::new(stated), taught] {
            // A burst, and twenty seconds' worth.
            let (longest, _) = herd(&mut gate, 100 + 1000);
            assert_eq!(longest, LONGEST_QUEUE);
            let Admission::Open { until } = gate.ask(at(0)) else {
                panic!("nobody waits for longer than callers do");
            };
            assert!(until > Moment(LONGEST_QUEUE));
            // Those who were sent away have taken nobody's turn.
            assert_eq!(gate.ask(at(0)), Admission::Open { until });
        }
    }
}
