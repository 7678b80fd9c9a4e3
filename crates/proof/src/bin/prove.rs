//! Runs the proofs: see `prove --help`.

use std::process::ExitCode;

use clap::Parser;
use tokenward_proof::{model, sim};

#[derive(Debug, Parser)]
#[command(about = "Looks for an interleaving, crash or fault that breaks the promise")]
enum Prove {
    Model(model::cli::Args),
    Sim(sim::cli::Args),
}

fn main() -> ExitCode {
    match Prove::parse() {
        Prove::Model(args) => model::cli::run(&args),
        Prove::Sim(args) => sim::cli::run(&args),
    }
}
