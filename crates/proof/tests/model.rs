//! The model checker as an ordinary test: every promise holds under every policy, and every
//! broken variant is caught by the promise that its safeguard keeps.

use tokenward_proof::model::{Mutant, Policy, Scope, catch, explore};

fn holds(policy: Policy) {
    for scope in Scope::quick(policy) {
        let report = explore(&scope);
        assert!(report.violations.is_empty(), "{scope:?}: {report:#?}");
        // An exploration that ends early proves nothing.
        assert!(report.states > 50_000, "{scope:?}: {report:?}");
    }
}

#[test]
fn every_promise_holds_with_a_harmless_provider() {
    holds(Policy::Harmless);
}

#[test]
fn every_promise_holds_with_a_grace_provider() {
    holds(Policy::Grace);
}

#[test]
fn every_promise_holds_with_a_refusing_provider() {
    holds(Policy::Refused);
}

#[test]
fn every_promise_holds_with_a_revoking_provider() {
    holds(Policy::Revokes);
}

/// The engine once sent a spent token again because of a 401 that an older version had got.
#[test]
fn a_late_401_report_is_not_taken_for_the_newest_version() {
    let report = explore(&Scope::late_rejection());
    assert!(report.violations.is_empty(), "{report:#?}");
}

#[test]
fn every_mutant_is_caught_by_the_promise_that_its_safeguard_keeps() {
    for mutant in Mutant::ALL {
        let catch = catch(mutant);
        assert!(
            catch.properties.contains(&mutant.caught_by().property()),
            "{mutant:?} should break {:?}: {catch:#?}",
            mutant.caught_by(),
        );
    }
}
