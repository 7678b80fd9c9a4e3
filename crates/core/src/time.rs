//! Time and chance as ports. Production, tests and the simulator plug in their own.

use std::{
    fmt,
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A point on **the store's** clock: milliseconds since 1970-01-01 UTC.
///
/// Claims, expiries and retry times are kept in it, because it is the one clock that all
/// replicas share.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreTime(pub i64);

impl StoreTime {
    /// The time from here until `later`; zero if that has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl Add<Duration> for StoreTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub<Duration> for StoreTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

/// RFC 3339 in UTC, for people.
impl fmt::Display for StoreTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A point on this process's monotonic clock, as the time since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// The time from here until `later`; zero if that has passed.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

/// A boxed future, for object-safe ports.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The process's monotonic clock.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now. Never goes backwards.
    fn now(&self) -> Moment;

    /// Waits. Dropping the future ends the wait.
    fn sleep(&self, duration: Duration) -> Boxed<'_, ()>;
}

/// The real clock, on tokio's timer (which tests may pause).
#[derive(Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
}

impl Default for TokioClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the monotonic clock"
    )]
    fn default() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    fn sleep(&self, duration: Duration) -> Boxed<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The clock for production: it goes on while the machine is suspended, as tokens do.
///
/// On Linux that is `CLOCK_BOOTTIME`. Elsewhere it is as [`TokioClock`], whose time may stand still
/// meanwhile; a token is then found dead when an API rejects it. Sleeps do not count a suspension
/// anywhere: what is due is noticed a little late.
#[derive(Debug, Default)]
pub struct SystemClock {
    #[cfg(target_os = "linux")]
    start: BootTime,
    tokio: TokioClock,
}

#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
struct BootTime(Duration);

#[cfg(target_os = "linux")]
impl Default for BootTime {
    fn default() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanos))
    }
}

impl Clock for SystemClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> Moment {
        Moment(BootTime::default().0.saturating_sub(self.start.0))
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Moment {
        self.tokio.now()
    }

    fn sleep(&self, duration: Duration) -> Boxed<'_, ()> {
        self.tokio.sleep(duration)
    }
}

/// Chance for jitter. Not for keys: those come from the crypto library.
pub trait Chance: Send + Sync + fmt::Debug {
    /// A number in `0.0..1.0`.
    fn fraction(&self) -> f64;
}

/// SplitMix64 on an atomic counter: good enough for jitter, repeatable from a seed.
#[derive(Debug)]
pub struct SeededChance(AtomicU64);

impl SeededChance {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A seed from the operating system.
    pub fn from_entropy() -> Self {
        Self::new(u64::from_le_bytes(crate::seal::random_bytes()))
    }
}

impl Chance for SeededChance {
    fn fraction(&self) -> f64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self
            .0
            .fetch_add(GAMMA, Ordering::Relaxed)
            .wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Full-jitter exponential backoff: between half of `base * 2^n` and all of it, at most `cap`.
///
/// Half is kept so that a retry never follows at once.
pub fn backoff(base: Duration, cap: Duration, failures: u32, chance: f64) -> Duration {
    let full = base
        .saturating_mul(2_u32.saturating_pow(failures.min(16)))
        .min(cap);
    full.div_f64(2.0) + full.div_f64(2.0).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_is_capped() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(backoff(base, cap, 0, 0.0), Duration::from_millis(500));
        assert_eq!(backoff(base, cap, 3, 1.0), Duration::from_secs(8));
        assert_eq!(backoff(base, cap, 40, 1.0), cap);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_systems_clock_goes_on_while_the_machine_sleeps() {
        // `/proc/uptime` counts suspensions, too. It shows hundredths of a second.
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(seconds)
        };
        let before = uptime();
        let now = BootTime::default().0 + Duration::from_millis(10);
        assert!(before <= now && now <= uptime() + Duration::from_millis(20));
        let clock = SystemClock::default();
        let first = clock.now();
        assert!(first <= clock.now());
    }

    #[test]
    fn seeded_chance_repeats() {
        let (a, b) = (SeededChance::new(7), SeededChance::new(7));
        for _ in 0..100 {
            let x = a.fraction();
            assert!((0.0..1.0).contains(&x));
            assert_eq!(x.to_bits(), b.fraction().to_bits());
        }
    }
}
