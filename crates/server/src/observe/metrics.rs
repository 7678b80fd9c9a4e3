//! Prometheus metrics. Labels are from small fixed sets: never a grant, a consumer or a token.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokenward::{
    observe::{FlightOutcome, Observer, Served, Signal},
    refresh::ledger::FailureKind,
};

use super::sharded::{Durations, Sharded};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

/// For what each request counts.
type Count = Counter<u64, Sharded>;

/// All metrics of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    refreshes: Family<Outcome, Counter>,
    served_fresh: Count,
    served_joined: Count,
    served_stale: Count,
    served_failed: Count,
    flights: Gauge,
    waiters: Histogram,
    flight_seconds: Histogram,
    claims_lost: Counter,
    spool_depth: Gauge,
    grants: Family<Event, Counter>,
    cached_grants: Gauge,
    cached_connections: Gauge,
    evicted: Counter,
    proxied: [Count; 6],
    proxy_seconds: Durations,
    proxy_again: Family<Event, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Why a request was sent to an API a second time.
#[derive(Clone, Copy, Debug)]
pub enum Again {
    /// The API rejected the token.
    Rejected,
    /// The API or the network failed.
    Failed,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tokenward");
        let refreshes = Family::<Outcome, Counter>::default();
        registry.register("refreshes", "Refresh flights by outcome", refreshes.clone());
        let served = Family::<How, Count>::default();
        registry.register(
            "tokens_served",
            "Callers by how they got their token",
            served.clone(),
        );
        let flights = Gauge::default();
        registry.register(
            "flights_in_progress",
            "Refresh flights under way",
            flights.clone(),
        );
        let waiters = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        registry.register(
            "flight_waiters",
            "Callers waiting when a flight ended",
            waiters.clone(),
        );
        let flight_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 17));
        registry.register(
            "flight_duration_seconds",
            "From a flight's start to its end",
            flight_seconds.clone(),
        );
        let claims_lost = Counter::default();
        registry.register(
            "claims_lost",
            "Claims taken over while their owner waited",
            claims_lost.clone(),
        );
        let spool_depth = Gauge::default();
        registry.register(
            "spool_depth",
            "Granted tokens that wait for the store",
            spool_depth.clone(),
        );
        let grants = Family::<Event, Counter>::default();
        registry.register(
            "grant_events",
            "Runs of failures begun, runs ended, grants died, fresh tokens refused by the API, accepted again",
            grants.clone(),
        );
        let cached_grants = Gauge::default();
        registry.register("cached_grants", "Grants in memory", cached_grants.clone());
        let cached_connections = Gauge::default();
        registry.register(
            "cached_connections",
            "Connections in memory",
            cached_connections.clone(),
        );
        let evicted = Counter::default();
        registry.register(
            "cache_evictions",
            "Grants forgotten because there were too many in memory",
            evicted.clone(),
        );
        let by_status = Family::<Status, Count>::default();
        registry.register(
            "proxied_requests",
            "Proxied requests by status class",
            by_status.clone(),
        );
        let proxy_seconds = Durations::default();
        registry.register(
            "proxy_duration_seconds",
            "From a proxied request to its response's head",
            proxy_seconds.clone(),
        );
        let proxy_again = Family::<Event, Counter>::default();
        registry.register(
            "proxy_repeats",
            "Requests sent to an API again",
            proxy_again.clone(),
        );

        let how = |how| served.get_or_create(&How { how }).clone();
        let status = |status| by_status.get_or_create(&Status { status }).clone();
        Self {
            refreshes,
            served_fresh: how("fresh"),
            served_joined: how("joined"),
            served_stale: how("stale"),
            served_failed: how("failed"),
            flights,
            waiters,
            flight_seconds,
            claims_lost,
            spool_depth,
            grants,
            cached_grants,
            cached_connections,
            evicted,
            proxied: [
                status("gateway_error"),
                status("1xx"),
                status("2xx"),
                status("3xx"),
                status("4xx"),
                status("5xx"),
            ],
            proxy_seconds,
            proxy_again,
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }

    /// A proxied request was answered; `None`: with an error of the gateway itself.
    pub fn proxied(&self, status: Option<http::StatusCode>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        self.proxied[class].inc();
        self.proxy_seconds.observe(took);
    }

    /// A request was sent to an API a second time.
    pub fn proxied_again(&self, why: Again) {
        let event = match why {
            Again::Rejected => "token_rejected",
            Again::Failed => "api_failed",
        };
        self.proxy_again.get_or_create(&Event { event }).inc();
    }
}

impl Observer for Metrics {
    fn observe(&self, signal: &Signal<'_>) {
        match signal {
            Signal::Served(served) => {
                match served {
                    Served::Fresh => &self.served_fresh,
                    Served::Joined => &self.served_joined,
                    Served::Stale => &self.served_stale,
                    Served::Failed => &self.served_failed,
                }
                .inc();
            }
            Signal::FlightBegan => {
                self.flights.inc();
            }
            Signal::FlightEnded {
                outcome,
                took,
                waiters,
            } => {
                self.flights.dec();
                self.refreshes
                    .get_or_create(&Outcome {
                        outcome: name(*outcome),
                    })
                    .inc();
                self.waiters.observe(*waiters as f64);
                self.flight_seconds.observe(took.as_secs_f64());
            }
            Signal::ClaimLost { .. } => {
                self.claims_lost.inc();
            }
            Signal::SpoolDepth(depth) => {
                self.spool_depth
                    .set(i64::try_from(*depth).unwrap_or(i64::MAX));
            }
            Signal::Pending { .. } => self.count_grant("pending"),
            Signal::Recovered { .. } => self.count_grant("recovered"),
            Signal::Died { .. } => self.count_grant("died"),
            Signal::TokensRefused { refusals, .. } => {
                // Once for a run.
                if *refusals == 1 {
                    self.count_grant("tokens_refused");
                }
            }
            Signal::TokensAccepted { .. } => self.count_grant("tokens_accepted"),
            Signal::Cached {
                grants,
                connections,
            } => {
                let gauge = |count: &usize| i64::try_from(*count).unwrap_or(i64::MAX);
                self.cached_grants.set(gauge(grants));
                self.cached_connections.set(gauge(connections));
            }
            Signal::Evicted(count) => {
                self.evicted.inc_by(*count as u64);
            }
        }
    }
}

impl Metrics {
    fn count_grant(&self, event: &'static str) {
        self.grants.get_or_create(&Event { event }).inc();
    }
}

fn name(outcome: FlightOutcome) -> &'static str {
    match outcome {
        FlightOutcome::Refreshed => "refreshed",
        FlightOutcome::Adopted => "adopted",
        FlightOutcome::Failed(FailureKind::NotSent) => "not_sent",
        FlightOutcome::Failed(FailureKind::Throttled) => "throttled",
        FlightOutcome::Failed(FailureKind::Configuration) => "configuration",
        FlightOutcome::Failed(FailureKind::Unknown) => "unknown",
        FlightOutcome::Deferred => "deferred",
        FlightOutcome::Dead => "dead",
        FlightOutcome::GateShut => "gate_shut",
        FlightOutcome::Missing => "missing",
        FlightOutcome::StoreDown => "store_down",
    }
}
