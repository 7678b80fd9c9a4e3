//! The simulator within the budget of the ordinary tests; `prove sim` runs more.

use std::time::Duration;

use tokenward_proof::sim::{Broken, Options, Report, run};

const HOUR: Duration = Duration::from_secs(3600);

fn options(length: Duration, broken: Option<Broken>) -> Options {
    Options {
        length,
        broken,
        trace: false,
    }
}

fn assert_kept(report: &Report) {
    let seed = report.seed;
    if let Some(violation) = report.violations.first() {
        panic!(
            "seed {seed}: {} is broken: {}\n    {}\nreplay: cargo run --release -p tokenward-proof --bin prove -- sim --seed {seed} --hours {} --trace",
            violation.property,
            violation.what,
            violation.trace.join("\n    "),
            (report.simulated.as_secs() - 1200) / 3600,
        );
    }
}

fn seeds_keep_the_promise(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        assert_kept(&run(seed, &options(2 * HOUR, None)));
    }
}

#[test]
fn seeds_keep_the_promise_1() {
    seeds_keep_the_promise(1..13);
}

#[test]
fn seeds_keep_the_promise_2() {
    seeds_keep_the_promise(13..25);
}

/// Seeds that have found something in the engine, and what.
#[test]
fn seeds_that_found_something() {
    for (seed, _what) in [
        (
            1051,
            "a copy read before a change and kept after it was out of date",
        ),
        (
            1004,
            "a late answer's revocation ended the user's new authorization",
        ),
        (
            6,
            "a flight tidied the spool before it published what it had committed",
        ),
    ] {
        assert_kept(&run(seed, &options(3 * HOUR, None)));
    }
}

/// The same, where it took a day.
#[test]
fn days_that_found_something() {
    for (seed, _what) in [
        (47, "a flight landed at a copy that had been forgotten"),
        (52, "a late save gave an imported token a longer life"),
        (119, "a copy was handed out while its reader checked it"),
        (455, "a newer token that had died since was served"),
    ] {
        assert_kept(&run(seed, &options(24 * HOUR, None)));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = run(42, &options(2 * HOUR, None));
    let again = run(42, &options(2 * HOUR, None));
    assert_eq!(once.hash, again.hash);
    assert_eq!(once.counts.calls, again.counts.calls);
    let other = run(43, &options(2 * HOUR, None));
    assert_ne!(once.hash, other.hash);
}

/// Each safeguard, taken away in the simulated ports, is missed by the judge, for a reason that
/// belongs to it.
#[test]
fn every_broken_port_is_found() {
    for broken in Broken::ALL {
        let expected: &[&str] = match broken {
            Broken::ClaimIgnoresHolder => &["I1"],
            Broken::CommitIgnoresVersion => &["I4"],
            Broken::AttemptForgotten | Broken::LostIsNotSent => &["I2"],
            Broken::SendsTooLate => &["I1", "I2"],
            Broken::SpoolDrops => &["I4"],
            Broken::ChangesDropped => &["I3"],
            Broken::SettleIgnoresEpoch => &["I6", "I1"],
        };
        let found = (1..=30).any(|seed| {
            let report = run(seed, &options(2 * HOUR, Some(broken)));
            let mut properties = report.violations.iter().map(|v| v.property);
            properties.any(|property| expected.contains(&property))
        });
        assert!(found, "{broken:?} is not found");
    }
}
