//! `prove sim`.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{Broken, Counts, Options, Report, run as run_seed, time::lock};

/// Runs seeded simulations of whole clusters.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// This seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Simulated hours of load and trouble for each seed.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Seeds at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    /// Take a safeguard away, to see that it is noticed.
    #[arg(long, value_enum)]
    broken: Option<Broken>,
}

/// Runs what was asked for; fails if a promise was broken.
pub fn run(args: &Args) -> ExitCode {
    let (from, seeds) = match args.seed {
        Some(seed) => (seed, 1),
        None => (args.from, args.seeds),
    };
    let options = Options {
        length: Duration::from_secs(args.hours * 3600),
        broken: args.broken,
        trace: args.trace,
    };
    let next = AtomicU64::new(from);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let report = run_seed(seed, &options);
                    let mut total = lock(&total);
                    total.add(&report);
                    print(&report, args);
                    if !args.json && total.seeds % 10 == 0 {
                        eprintln!(
                            "{} of {seeds} seeds, {} violations",
                            total.seeds, total.violations
                        );
                    }
                }
            });
        }
    });
    let total = lock(&total);
    if args.json {
        println!("{}", total.json());
    } else {
        println!("{}", total.line());
    }
    if total.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Shows a seed that failed, and how to see it again.
fn print(report: &Report, args: &Args) {
    for event in &report.trace {
        println!("{event}");
    }
    for violation in &report.violations {
        eprintln!(
            "seed {}: {} is broken: {}",
            report.seed, violation.property, violation.what
        );
        if !args.trace {
            for event in &violation.trace {
                eprintln!("    {event}");
            }
        }
    }
    if !report.violations.is_empty() {
        let broken = args.broken.map_or(String::new(), |broken| {
            format!(" --broken {}", broken.name())
        });
        eprintln!(
            "replay: cargo run --release -p tokenward-proof --bin prove -- sim --seed {} --hours {}{broken} --trace",
            report.seed, args.hours
        );
    }
}

#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    simulated: Duration,
    counts: Counts,
    violations: usize,
    failing: Vec<u64>,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.counts.add(&report.counts);
        self.violations += report.violations.len();
        if !report.violations.is_empty() {
            self.failing.push(report.seed);
        }
    }

    fn days(&self) -> f64 {
        self.simulated.as_secs_f64() / 86400.0
    }

    fn line(&self) -> String {
        let Counts {
            calls,
            granted,
            replays,
            revoked_by_reuse,
            committed,
            spooled,
            faults,
            crashes,
            admin,
            statements,
        } = &self.counts;
        let asked: u64 = calls.values().sum();
        let injected: u64 = faults.values().sum();
        format!(
            "simulation: {} seeds, {:.1} simulated days, {granted} refreshes granted ({replays} replays, {revoked_by_reuse} families lost to them), {committed} committed, {spooled} spooled, {asked} calls {calls:?}, {injected} faults {faults:?}, {crashes} crashes, {admin} changes by people, {statements} statements; violations: {}{}",
            self.seeds,
            self.days(),
            self.violations,
            if self.failing.is_empty() {
                String::new()
            } else {
                format!(" (seeds {:?})", self.failing)
            },
        )
    }

    fn json(&self) -> serde_json::Value {
        let counts = &self.counts;
        json!({
            "method": "simulation",
            "seeds": self.seeds,
            "simulated_days": self.days(),
            "granted": counts.granted,
            "replays": counts.replays,
            "revoked_by_reuse": counts.revoked_by_reuse,
            "committed": counts.committed,
            "spooled": counts.spooled,
            "calls": counts.calls,
            "faults": counts.faults,
            "crashes": counts.crashes,
            "changes_by_people": counts.admin,
            "statements": counts.statements,
            "violations": self.violations,
            "failing_seeds": self.failing,
        })
    }
}

impl Broken {
    fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }
}
