//! `prove model`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Catch, Mutant, Policy, Report, Scope, catch, explore};

/// Explores every interleaving of a small cluster.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// More callers and more disturbances at once: minutes instead of seconds.
    #[arg(long)]
    full: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs what was asked for; fails if a promise was broken or a mutant got away.
pub fn run(args: &Args) -> ExitCode {
    if model(args.full, args.json) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether every promise holds and every mutant is caught.
fn model(full: bool, as_json: bool) -> bool {
    let say = |line: String| {
        if !as_json {
            println!("{line}");
        }
    };
    say(format!(
        "{:9} {:>7} {:>5} {:>12} {:>11} {:>6} {:>11} {:>8}",
        "policy", "callers", "asks", "disturbances", "states", "depth", "violations", "seconds"
    ));
    let mut runs = Vec::new();
    for policy in Policy::ALL {
        let scopes = if full {
            Scope::full(policy)
        } else {
            Scope::quick(policy)
        };
        for scope in scopes {
            let report = explore(&scope);
            say(format!(
                "{:9} {:>7} {:>5} {:>12} {:>11} {:>6} {:>11} {:>8.1}",
                policy.name(),
                format!("{}x{}", scope.replicas, scope.callers),
                scope.asks,
                scope.disturbances,
                report.states,
                report.depth,
                report.violations.len(),
                report.took.as_secs_f64()
            ));
            for (property, acts) in &report.violations {
                say(format!("  BROKEN {property}\n    {acts:?}"));
            }
            runs.push((scope, report));
        }
    }

    say(format!("\n{:55} caught by", "mutant"));
    let catches: Vec<Catch> = Mutant::ALL
        .into_iter()
        .map(|mutant| {
            let catch = catch(mutant);
            say(format!(
                "{:55} {}",
                mutant.describe(),
                if is_caught(&catch) {
                    format!(
                        "{} ({} acts)",
                        mutant.caught_by().property(),
                        catch.acts.len()
                    )
                } else {
                    format!("NOT CAUGHT; found: {:?}", catch.properties)
                }
            ));
            catch
        })
        .collect();

    let states: usize = runs.iter().map(|(_, report)| report.states).sum();
    let violations: usize = runs.iter().map(|(_, report)| report.violations.len()).sum();
    let caught = catches.iter().filter(|catch| is_caught(catch)).count();
    if as_json {
        println!("{}", to_json(&runs, &catches, violations));
    }
    say(format!(
        "\nmodel: {states} states explored, {violations} violations, {caught} of {} mutants caught",
        catches.len()
    ));
    violations == 0 && caught == catches.len()
}

fn is_caught(catch: &Catch) -> bool {
    catch
        .properties
        .contains(&catch.mutant.caught_by().property())
}

fn to_json(runs: &[(Scope, Report)], catches: &[Catch], violations: usize) -> Value {
    let run = |(scope, report): &(Scope, Report)| {
        json!({
            "policy": scope.policy.name(),
            "replicas": scope.replicas,
            "callers": scope.callers,
            "asks": scope.asks,
            "disturbances": scope.disturbances,
            "kinds": scope.kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>(),
            "states": report.states,
            "depth": report.depth,
            "seconds": report.took.as_secs_f64(),
            "violations": report.violations.iter().map(|(property, acts)| json!({
                "property": property,
                "acts": acts.iter().map(|act| format!("{act:?}")).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    };
    let mutant = |catch: &Catch| {
        json!({
            "mutant": catch.mutant.describe(),
            "caught": is_caught(catch),
            "by": catch.properties,
            "acts": catch.acts.iter().map(|act| format!("{act:?}")).collect::<Vec<_>>(),
            "states": catch.states,
            "seconds": catch.took.as_secs_f64(),
        })
    };
    json!({
        "method": "model",
        "states": runs.iter().map(|(_, report)| report.states).sum::<usize>(),
        "violations": violations,
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
        "mutants": catches.iter().map(mutant).collect::<Vec<_>>(),
    })
}
