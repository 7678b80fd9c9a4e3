//! Counters that cores do not fight over: each thread counts in a place of its own, and who reads
//! adds up.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::Atomic},
};

/// More threads than this share places.
const SHARDS: usize = 16;

/// A cache line (and its neighbour, which is fetched along with it) of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<Option<usize>> = const { Cell::new(None) });
    MINE.get().unwrap_or_else(|| {
        let mine = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        MINE.set(Some(mine));
        mine
    })
}

/// What a `Counter` counts in.
#[derive(Debug, Default)]
pub(super) struct Sharded([Apart<AtomicU64>; SHARDS]);

impl Atomic<u64> for Sharded {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// The value before, of this thread's share.
    fn inc_by(&self, more: u64) -> u64 {
        self.0[shard()].0.fetch_add(more, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        let each = self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed));
        each.fold(0, u64::wrapping_add)
    }
}

const BUCKETS: usize = 17;
/// The upper bound of the first bucket; each of the next is twice the one before.
const FIRST: Duration = Duration::from_micros(500);

/// A histogram of durations.
#[derive(Clone, Default)]
pub(super) struct Durations(Arc<[Apart<Share>; SHARDS]>);

#[derive(Default)]
struct Share {
    /// The last is for what is beyond all bounds.
    buckets: [AtomicU64; BUCKETS + 1],
    nanos: AtomicU64,
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

impl Durations {
    pub(super) fn observe(&self, took: Duration) {
        let share = &self.0[shard()].0;
        share.buckets[bucket(took)].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        share.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The bucket whose upper bound is the first that is not exceeded.
fn bucket(took: Duration) -> usize {
    let steps = took.as_nanos().div_ceil(FIRST.as_nanos()).max(1);
    (u128::BITS - (steps - 1).leading_zeros()).min(BUCKETS as u32) as usize
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let sum = |of: &dyn Fn(&Share) -> &AtomicU64| {
            let each = self
                .0
                .iter()
                .map(|share| of(&share.0).load(Ordering::Relaxed));
            each.fold(0, u64::wrapping_add)
        };
        let buckets: Vec<(f64, u64)> = (0..=BUCKETS)
            .map(|bucket| {
                let bound = if bucket == BUCKETS {
                    f64::INFINITY
                } else {
                    FIRST.as_secs_f64() * f64::from(1_u32 << bucket)
                };
                (bound, sum(&|share| &share.buckets[bucket]))
            })
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_nanos(sum(&|share| &share.nanos)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn each_duration_is_in_the_bucket_that_bounds_it() {
        for (micros, expected) in [
            (0, 0),
            (1, 0),
            (500, 0),
            (501, 1),
            (1000, 1),
            (1001, 2),
            (2000, 2),
            (32_768_000, 16),
            (32_768_001, 17),
            (u64::MAX, 17),
        ] {
            assert_eq!(bucket(Duration::from_micros(micros)), expected, "{micros}");
        }
    }

    #[test]
    fn what_threads_count_is_added_up() {
        let counter = Sharded::default();
        let durations = Durations::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    counter.inc();
                    durations.observe(Duration::from_millis(3));
                });
            }
        });
        assert_eq!(counter.get(), 20);
        let mut registry = Registry::default();
        registry.register("took", "Time", durations);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("took_count 20\n"), "{text}");
        assert!(text.contains("took_bucket{le=\"0.002\"} 0\n"), "{text}");
        assert!(text.contains("took_bucket{le=\"0.004\"} 20\n"), "{text}");
        assert!(text.contains("took_bucket{le=\"+Inf\"} 20\n"), "{text}");
        assert!(text.contains("took_sum 0.06\n"), "{text}");
    }
}
