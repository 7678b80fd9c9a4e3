//! Runs the checker and says what came of it.

use std::{num::NonZero, thread, time::Duration};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Breach, Mutant, Scope};

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// The longest run.
    pub depth: usize,
    /// Broken properties, each with the acts that lead there.
    pub violations: Vec<(&'static str, String)>,
    /// How long it took.
    pub took: Duration,
}

/// A mutant and what caught it.
#[derive(Clone, Copy, Debug)]
pub struct Catch {
    /// Which.
    pub mutant: Mutant,
    /// The property that was broken first.
    pub property: Option<&'static str>,
    /// How many acts it took.
    pub acts: usize,
    /// States until then.
    pub states: usize,
}

/// Explores everything within a scope.
pub fn explore(scope: &Scope) -> Report {
    let began = now();
    let checker = scope.clone().checker().threads(threads()).spawn_dfs().join();
    let violations = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            let acts: Vec<_> = path.into_actions();
            (property, format!("{acts:?}"))
        })
        .collect();
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violations,
        took: began.elapsed(),
    }
}

pub fn explore_any(scope: &Scope) -> Report {
    let began = now();
    let checker = scope.clone().checker().threads(threads()).finish_when(HasDiscoveries::Any).timeout(Duration::from_secs(60)).spawn_bfs().join();
    let violations = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            let acts: Vec<_> = path.into_actions();
            (property, format!("{acts:?}"))
        })
        .collect();
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violations,
        took: began.elapsed(),
    }
}

/// Looks for the shortest run in which a mutant breaks the promise that it should.
pub fn catch(mutant: Mutant) -> Catch {
    trace(&Scope::mutated(mutant), mutant.caught_by()).map_or_else(
        |states| Catch {
            mutant,
            property: None,
            acts: 0,
            states,
        },
        |(lines, states)| Catch {
            mutant,
            property: Some(mutant.caught_by().property()),
            acts: lines.len(),
            states,
        },
    )
}

/// The shortest run that breaks a promise, and the states explored until it was found; else the
/// states explored in all.
///
/// # Errors
///
/// The number of states, where no run breaks it.
pub fn trace(scope: &Scope, breach: Breach) -> Result<(Vec<String>, usize), usize> {
    let property = breach.property();
    let checker = scope
        .clone()
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property).ok_or(states)?;
    let lines = path
        .into_actions()
        .into_iter()
        .map(|act| format!("{act:?}"))
        .collect();
    Ok((lines, states))
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[expect(clippy::disallowed_methods, reason = "says how long it took")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
