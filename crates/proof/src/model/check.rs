//! Runs the checker and says what came of it.

use std::{num::NonZero, thread, time::Duration};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Act, Mutant, Scope};

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// The longest run.
    pub depth: usize,
    /// Broken properties, each with the acts that lead there.
    pub violations: Vec<(&'static str, Vec<Act>)>,
    /// How long it took.
    pub took: Duration,
}

/// A mutant and what caught it.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Which.
    pub mutant: Mutant,
    /// The properties that were found broken when the search ended; none: it was not caught.
    pub properties: Vec<&'static str>,
    /// The acts that lead to the first of them.
    pub acts: Vec<Act>,
    /// States until then.
    pub states: usize,
    /// How long it took.
    pub took: Duration,
}

/// Explores everything within a scope.
pub fn explore(scope: &Scope) -> Report {
    let began = now();
    let checker = scope
        .clone()
        .checker()
        .threads(threads())
        .spawn_dfs()
        .join();
    let violations = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| (property, path.into_actions()))
        .collect();
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violations,
        took: began.elapsed(),
    }
}

/// Looks for the shortest run in which a mutant breaks a promise.
pub fn catch(mutant: Mutant) -> Catch {
    let began = now();
    let checker = Scope::mutated(mutant)
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let mut found: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| (path.into_actions(), property))
        .collect();
    found.sort_by_key(|(acts, property)| (acts.len(), *property));
    Catch {
        mutant,
        properties: found.iter().map(|(_, property)| *property).collect(),
        acts: found
            .into_iter()
            .next()
            .map_or_else(Vec::new, |(acts, _)| acts),
        states: checker.unique_state_count(),
        took: began.elapsed(),
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[expect(clippy::disallowed_methods, reason = "says how long it took")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
