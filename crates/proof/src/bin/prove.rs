//! Runs the proof: see `prove --help`.

use std::process::ExitCode;

use clap::Parser;
use tokenward_proof::sim;

#[derive(Debug, Parser)]
#[command(about = "Looks for an interleaving, crash or fault that breaks the promise")]
enum Prove {
    Sim(sim::cli::Args),
}

fn main() -> ExitCode {
    match Prove::parse() {
        Prove::Sim(args) => sim::cli::run(&args),
    }
}
