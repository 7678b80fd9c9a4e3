//! The crash harness: kills real `tokenward` processes and judges by the provider's books.
//!
//! ```text
//! cargo run --release -p tokenward-server --example crash -- --kills 500 --processes 12 --callers 1000
//! ```
//!
//! Exits with 1 if a promise was broken. The processes are this program itself, which becomes
//! `tokenward` when it is started with `CRASH_HARNESS_CHILD`: the same code in one file, so
//! that no stale binary is tested.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokenward_testkit::crash::{self, CrashOptions, CrashStore};

const CHILD: &str = "CRASH_HARNESS_CHILD";

/// Kills real tokenward processes and judges by the provider's books
#[derive(Debug, Parser)]
struct Options {
    /// Ends after this many kills
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// Ends after this many seconds at the latest
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// How many kills are tried for in a second
    #[arg(long, default_value_t = 4.0)]
    kills_per_second: f64,
    /// Servers at a time
    #[arg(long, default_value_t = 12)]
    processes: usize,
    /// Callers at a time
    #[arg(long, default_value_t = 1000)]
    callers: usize,
    /// How long a caller rests between two calls, in milliseconds
    #[arg(long, default_value_t = 2000)]
    think_ms: u64,
    /// Grants, over all policies
    #[arg(long, default_value_t = 24)]
    grants: usize,
    /// The life of access tokens, in seconds
    #[arg(long, default_value_t = 4)]
    access_ttl: u64,
    /// The servers' claims, in milliseconds
    #[arg(long, default_value_t = 2500)]
    claim_ttl_ms: u64,
    /// On a private PostgreSQL that is restarted and cut off, instead of the embedded store
    #[arg(long)]
    postgres: bool,
    /// Without faults at the provider
    #[arg(long)]
    no_faults: bool,
    /// Tell tokenward that every provider is harmless: the judge must find what comes of it
    #[arg(long)]
    wrong_policies: bool,
    /// The schedule [default: a new one]
    #[arg(long)]
    seed: Option<u64>,
    /// Another tokenward than this one
    #[arg(long)]
    program: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::var_os(CHILD).is_some() {
        return Ok(tokenward_server::cli::main());
    }
    let options = Options::parse();
    let environment = vec![(CHILD.to_owned(), "1".to_owned())];
    let options_for_run = CrashOptions {
        program: match options.program {
            Some(program) => program,
            None => std::env::current_exe().context("this program's own path")?,
        },
        environment,
        kills: options.kills,
        longest: Duration::from_secs(options.seconds),
        kills_per_second: options.kills_per_second,
        processes: options.processes,
        callers: options.callers,
        think: Duration::from_millis(options.think_ms),
        grants: options.grants,
        access_ttl: Duration::from_secs(options.access_ttl),
        claim_ttl: Duration::from_millis(options.claim_ttl_ms),
        faults: !options.no_faults,
        store: if options.postgres {
            CrashStore::Postgres
        } else {
            CrashStore::Embedded
        },
        wrong_policies: options.wrong_policies,
        seed: options
            .seed
            .unwrap_or_else(|| u64::from(std::process::id())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(crash::run(&options_for_run))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
