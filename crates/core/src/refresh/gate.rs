//! The limiter and breaker in front of one token endpoint, per client.
//!
//! Pure: time is an argument. The vault keeps one [`Gate`] for each (token endpoint, client).

use std::time::Duration;

use super::ledger::FailureKind;
use crate::time::Moment;

/// How hard a token endpoint may be driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateLimits {
    /// Sustained requests per second.
    pub per_second: f64,
    /// How many may go at once after a rest.
    pub burst: u32,
}

impl Default for GateLimits {
    /// High enough that only a herd notices.
    fn default() -> Self {
        Self {
            per_second: 50.0,
            burst: 100,
        }
    }
}

/// Failures in a row, over all grants, that open the breaker.
const TRIP_AFTER: u32 = 5;
/// The first pause of an open breaker; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A probe that has not reported back for this long is taken for lost.
const PROBE_LIFE: Duration = Duration::from_secs(90);

/// A turn that is missed by more than this, and by more than a burst, is lost.
const LATE: Duration = Duration::from_secs(1);

/// Whether a refresh may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go.
    Go,
    /// The limiter says: this long from now, ask again.
    Wait(Duration),
    /// The breaker is open, or the provider asked for a pause, until then.
    Open {
        /// When to ask again.
        until: Moment,
    },
}

/// Limiter (GCRA) and breaker of one token endpoint and client.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: GateLimits,
    /// GCRA's theoretical arrival time of the next request.
    tat: Moment,
    failures: u32,
    open_until: Option<Moment>,
    /// While the breaker is half open, the one request that tests the water.
    probing_since: Option<Moment>,
}

impl Gate {
    /// A gate that has seen nothing yet.
    pub fn new(limits: GateLimits) -> Self {
        Self {
            limits,
            tat: Moment(Duration::ZERO),
            failures: 0,
            open_until: None,
            probing_since: None,
        }
    }

    /// Asks for one refresh to go out at `now`.
    ///
    /// Who must wait is given a `turn` of its own, and brings it along when it asks again: those
    /// who wait go in the order in which they came, and none is woken in vain.
    pub fn admit(&mut self, now: Moment, turn: &mut Option<Moment>) -> Admission {
        if let Some(until) = self.open_until {
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
        self.tat = tat + interval;
        if tat > now + burst {
            let at = tat - burst;
            *turn = Some(at);
            return Admission::Wait(now.until(at));
        }
        Admission::Go
    }

    /// An answer that shows the endpoint to be well: a grant, or a refusal of a grant.
    pub fn well(&mut self) {
        self.failures = 0;
        self.open_until = None;
        self.probing_since = None;
    }

    /// An admitted request that never went out says nothing about the endpoint.
    pub fn unused(&mut self) {
        self.probing_since = None;
    }

    /// A failure that is the endpoint's or the client's, not one grant's.
    ///
    /// `retry_after` is the provider's own wish and holds at once, for all grants of the client.
    pub fn ill(&mut self, kind: FailureKind, retry_after: Option<Duration>, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        self.probing_since = None;
        let pause = match (kind, retry_after) {
            (FailureKind::Throttled, Some(wish)) => Some(wish),
            _ if self.failures >= TRIP_AFTER => {
                Some(FIRST_PAUSE * 2_u32.saturating_pow((self.failures - TRIP_AFTER).min(10)))
            }
            _ => None,
        };
        if let Some(pause) = pause {
            let until = now + pause.min(LONGEST_PAUSE);
            self.open_until = Some(self.open_until.map_or(until, |open| open.max(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Gate {
        /// Asks for the first time.
        fn ask(&mut self, now: Moment) -> Admission {
            self.admit(now, &mut None)
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
        });
        let now = at(1000);
        for _ in 0..3 {
            assert_eq!(gate.ask(now), Admission::Go);
        }
        let wait = |ms| Admission::Wait(Duration::from_millis(ms));
        let (mut first, mut second) = (None, None);
        assert_eq!(gate.admit(now, &mut first), wait(100));
        assert_eq!(gate.admit(now, &mut second), wait(200));
        // Who comes later goes later, even if it asks at the very moment.
        assert_eq!(gate.ask(at(1100)), wait(200));
        assert_eq!(gate.admit(at(1100), &mut first), Admission::Go);
        // Woken early, it keeps its turn.
        assert_eq!(gate.admit(at(1100), &mut second), wait(100));
        assert_eq!(gate.admit(at(1203), &mut second), Admission::Go);
        assert_eq!(second, None);
    }

    #[test]
    fn turns_that_were_slept_through_do_not_all_come_at_once() {
        let mut gate = Gate::new(GateLimits {
            per_second: 10.0,
            burst: 1,
        });
        let mut turns = [None; 200];
        for turn in &mut turns {
            gate.admit(at(0), turn);
        }
        let waiting = turns.iter_mut().filter(|turn| turn.is_some());
        let asked = waiting.map(|turn| gate.admit(at(19_900), turn));
        assert_eq!(asked.filter(|answer| *answer == Admission::Go).count(), 11);
    }

    #[test]
    fn breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let mut gate = Gate::new(GateLimits::default());
        for _ in 0..TRIP_AFTER {
            assert_eq!(gate.ask(at(0)), Admission::Go);
            gate.ill(FailureKind::NotSent, None, at(0));
        }
        assert_eq!(gate.ask(at(10)), Admission::Open { until: at(1000) });
        assert_eq!(gate.ask(at(1000)), Admission::Go);
        assert!(matches!(gate.ask(at(1000)), Admission::Wait(_)));
        gate.ill(FailureKind::NotSent, None, at(1000));
        assert_eq!(gate.ask(at(1001)), Admission::Open { until: at(3000) });
        assert_eq!(gate.ask(at(3000)), Admission::Go);
        gate.well();
        assert_eq!(gate.ask(at(3000)), Admission::Go);
        assert_eq!(gate.ask(at(3000)), Admission::Go);
    }

    #[test]
    fn one_failure_does_not_open_it_but_retry_after_does() {
        let mut gate = Gate::new(GateLimits::default());
        gate.ill(FailureKind::Unknown, None, at(0));
        assert_eq!(gate.ask(at(0)), Admission::Go);
        gate.ill(FailureKind::Throttled, Some(Duration::from_secs(7)), at(0));
        assert_eq!(gate.ask(at(6999)), Admission::Open { until: at(7000) });
        assert_eq!(gate.ask(at(7000)), Admission::Go);
    }

    #[test]
    fn a_lost_probe_does_not_close_the_gate_for_ever() {
        let mut gate = Gate::new(GateLimits::default());
        gate.ill(FailureKind::Throttled, Some(Duration::from_secs(1)), at(0));
        assert_eq!(gate.ask(at(1000)), Admission::Go);
        assert!(matches!(gate.ask(at(50_000)), Admission::Wait(_)));
        assert_eq!(gate.ask(at(91_000)), Admission::Go);
    }
}
