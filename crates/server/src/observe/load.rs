//! What the workers have in hand: clients' connections, and requests. Each worker counts its own, and who reads
//! adds up.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// What one worker has in hand. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Load {
    connections: AtomicUsize,
    requests: AtomicUsize,
    refused: AtomicU64,
    /// Requests at once.
    most: usize,
}

impl Load {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            most,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there is room for one request more; then [`ended`](Self::ended) is due.
    pub(crate) fn begin(&self) -> bool {
        if self.requests.fetch_add(1, Ordering::Relaxed) < self.most {
            return true;
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    pub(crate) fn ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all workers have in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads(Arc<Mutex<Vec<Arc<Load>>>>);

impl Loads {
    /// For a worker that takes so many requests at once.
    pub(crate) fn add(&self, most: usize) -> Arc<Load> {
        let load = Arc::new(Load::new(most));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(load.clone());
        load
    }
}

impl Collector for Loads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Load) -> &AtomicUsize| {
            let each = all.iter().map(|load| of(load).load(Ordering::Relaxed));
            i64::try_from(each.sum::<usize>()).unwrap_or(i64::MAX)
        };
        for (name, help, value) in [
            (
                "client_connections",
                "Open connections of clients",
                sum(|load| &load.connections),
            ),
            (
                "requests_in_flight",
                "Requests that are not answered to the end",
                sum(|load| &load.requests),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let refused = all.iter().map(|load| load.refused.load(Ordering::Relaxed));
        let counter = ConstCounter::new(refused.sum::<u64>());
        let help = "Requests refused because too many were in flight";
        let kind = counter.metric_type();
        counter.encode(encoder.encode_descriptor("requests_refused", help, None, kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_beyond_the_bound_is_refused_and_holds_no_place() {
        let load = Load::new(2);
        assert!(load.begin() && load.begin());
        assert!(!load.begin() && !load.begin());
        load.ended();
        assert!(load.begin());
        assert!(!load.begin());
        assert_eq!(load.refused.load(Ordering::Relaxed), 3);
    }
}
