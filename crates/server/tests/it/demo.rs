//! The demo's promise.

use crate::harness::{TestVault, said};

fn demo(args: &[&str]) -> serde_json::Value {
    let vault = TestVault::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["demo", "--json"])
        .args(args)
        .current_dir(vault.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(result: &serde_json::Value, requests: u64) {
    let of = |run: &str, what: &str| {
        result[run][what]
            .as_u64()
            .unwrap_or_else(|| panic!("{run}.{what}: {result}"))
    };
    for run in ["uncoordinated", "validate_first", "tokenward"] {
        assert_eq!(of(run, "requests"), requests);
        assert!(of(run, "elapsed_ms") > 0);
    }
    assert!(of("uncoordinated", "failed") > 0 && of("uncoordinated", "invalid_grant") > 0);
    assert_eq!(
        (
            of("validate_first", "failed"),
            of("validate_first", "refreshes")
        ),
        (0, 1)
    );
    assert_eq!(
        (
            of("tokenward", "failed"),
            of("tokenward", "refreshes"),
            of("tokenward", "invalid_grant")
        ),
        (0, 1, 0)
    );
}

#[test]
fn the_race_happens_and_then_does_not() {
    check(&demo(&["--html", "page.html"]), 200);
}

#[test]
fn neither_with_two_thousand_requests_nor_with_four_processes() {
    check(&demo(&["--requests", "2000"]), 2000);
    check(&demo(&["--processes", "4"]), 200);
}

#[test]
fn nor_with_eight_processes_on_a_postgresql() {
    let args = [
        "--store",
        "postgres",
        "--processes",
        "8",
        "--requests",
        "2000",
    ];
    check(&demo(&args), 2000);
}
