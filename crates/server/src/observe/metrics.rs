//! Prometheus metrics. Labels are from small fixed sets: never a grant, a consumer or a token.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use tokenward::{
    observe::{FlightOutcome, Observer, Served, Signal},
    refresh::ledger::FailureKind,
};

use super::{
    load::Loads,
    sharded::{Durations, Sharded},
};

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
    /// Lines of the request log that were left out.
    pub(crate) request_lines_lost: Counter,
    /// What the workers have in hand.
    pub(crate) loads: Loads,
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

impl Again {
    const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "token_rejected",
            Self::Failed => "api_failed",
        }
    }
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

        registry.register(
            "log_lines_lost",
            "Lines of the server's log that were left out, because nobody took them",
            super::logs::lost(),
        );
        let request_lines_lost = Counter::default();
        registry.register(
            "request_log_lines_lost",
            "Lines of the request log that were left out, because nobody took them",
            request_lines_lost.clone(),
        );
        let loads = Loads::default();
        registry.register_collector(Box::new(loads.clone()));
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The server's build", version);

        // Begin at 0, so that a first increase is one.
        for outcome in OUTCOMES {
            let outcome = name(outcome);
            let _ = refreshes.get_or_create(&Outcome { outcome });
        }
        for event in ["pending", "recovered", "died"] {
            let _ = grants.get_or_create(&Event { event });
        }
        for why in [Again::Rejected, Again::Failed] {
            let _ = proxy_again.get_or_create(&Event { event: why.name() });
        }

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
            request_lines_lost,
            loads,
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    /// All metrics as `OpenMetrics` text.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }

    /// All metrics in Prometheus' own text format.
    pub fn plain_text(&self) -> String {
        plain(&self.open_metrics())
    }

    /// A proxied request was answered; `None`: with an error of the gateway itself.
    pub fn proxied(&self, status: Option<http::StatusCode>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        self.proxied[class].inc();
        self.proxy_seconds.observe(took);
    }

    /// A request was sent to an API a second time.
    pub fn proxied_again(&self, why: Again) {
        let event = Event { event: why.name() };
        self.proxy_again.get_or_create(&event).inc();
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

const OUTCOMES: [FlightOutcome; 11] = [
    FlightOutcome::Refreshed,
    FlightOutcome::Adopted,
    FlightOutcome::Failed(FailureKind::NotSent),
    FlightOutcome::Failed(FailureKind::Throttled),
    FlightOutcome::Failed(FailureKind::Configuration),
    FlightOutcome::Failed(FailureKind::Unknown),
    FlightOutcome::Deferred,
    FlightOutcome::Dead,
    FlightOutcome::GateShut,
    FlightOutcome::Missing,
    FlightOutcome::StoreDown,
];

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

/// `OpenMetrics` text as Prometheus' own format (0.0.4): there the name of a counter ends in `_total`
/// also where its help and type are told, and there are neither infos nor an end.
fn plain(open: &str) -> String {
    let mut plain = String::with_capacity(open.len());
    // A metric's help comes before its type, and its name depends on that.
    let mut help = None;
    for line in open.lines() {
        let told = line.strip_prefix("# ").and_then(|told| {
            let (what, told) = told.split_once(' ')?;
            let (name, told) = told.split_once(' ')?;
            Some((what, name, told))
        });
        match told {
            Some(("HELP", name, told)) => help = Some((name, told)),
            Some(("TYPE", name, kind)) => {
                let (end, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((of, told)) = help.take()
                    && of == name
                {
                    plain.push_str(&format!("# HELP {name}{end} {told}\n"));
                }
                plain.push_str(&format!("# TYPE {name}{end} {kind}\n"));
            }
            Some(_) => {}
            None if line.starts_with('#') => {}
            None => {
                plain.push_str(line);
                plain.push('\n');
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_begin_at_zero_and_are_helped_in_both_formats() {
        let metrics = Metrics::default();
        let (open, plain) = (metrics.open_metrics(), metrics.plain_text());
        for text in [&open, &plain] {
            for sample in [
                "tokenward_refreshes_total{outcome=\"refreshed\"} 0\n",
                "tokenward_refreshes_total{outcome=\"no_answer\"} 0\n",
                "tokenward_grant_events_total{event=\"died\"} 0\n",
                "tokenward_proxy_repeats_total{event=\"api_failed\"} 0\n",
                "tokenward_requests_in_flight 0\n",
                "tokenward_requests_refused_total 0\n",
                "tokenward_build_info{version=",
            ] {
                let sample = sample.replace("no_answer", "unknown");
                assert!(text.contains(&sample), "{sample}: {text}");
            }
        }
        assert!(open.ends_with("# EOF\n"));
        assert!(!plain.contains("# EOF"));
        // Every sample of the plain text has a help and a type under a name that it begins with.
        let mut name = "";
        for line in plain.lines() {
            if let Some(told) = line.strip_prefix("# HELP ") {
                name = told.split(' ').next().unwrap();
            } else if let Some(told) = line.strip_prefix("# TYPE ") {
                assert_eq!(told.split(' ').next(), Some(name));
            } else {
                assert!(line.starts_with(name), "{name}: {line}");
            }
            if line.starts_with("# TYPE") && line.ends_with(" counter") {
                assert!(name.ends_with("_total"), "{name}");
            }
        }
    }
}
