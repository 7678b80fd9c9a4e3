//! A vault moves between SQLite and PostgreSQL.

use http::Method;
use serde_json::Value;
use tokenward_testkit::sandbox::{Sandbox, SandboxConfig};

use crate::harness::{Database, HOUR, REVOKES, TestVault, said};

/// A vault in SQLite with a grant that two connections share.
async fn world() -> (Sandbox, TestVault) {
    let config = SandboxConfig {
        access_ttl: HOUR,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
    vault.import("acme/sandbox", &tokens, HOUR);
    let link = [
        "connections",
        "link",
        "other/sandbox",
        "--to",
        "acme/sandbox",
    ];
    assert!(vault.run(&link).status.success());
    (sandbox, vault)
}

/// `tokenward migrate` from one place to another.
fn migrate(vault: &TestVault, from: &str, to: &str) -> Value {
    let output = vault
        .command(&["migrate", "--json"])
        .env("TOKENWARD_STORE", from)
        .env("TOKENWARD_MIGRATE_TO", to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn shown(vault: &TestVault, store: &str) -> (bool, String) {
    let mut command = vault.command(&["connections", "show", "other/sandbox", "--json"]);
    let output = command.env("TOKENWARD_STORE", store).output().unwrap();
    (output.status.success(), said(&output))
}

fn undo(vault: &TestVault, to: Option<&str>) -> (bool, String) {
    let mut arguments = vec!["migrate", "--undo"];
    arguments.extend(to.iter().flat_map(|url| ["--to", *url]));
    let output = vault.command(&arguments).output().unwrap();
    (output.status.success(), said(&output))
}

/// Where nothing was written since, a finished move can be undone; then the new place is the one that
/// was left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_move_is_undone_while_both_places_hold_the_same() {
    let (sandbox, vault) = world().await;
    let database = Database::start().await;
    migrate(&vault, "sqlite", &database.url);
    let (done, words) = undo(&vault, Some(&database.url));
    assert!(done, "{words}");
    let mut there = vault.serve_command(&[]);
    there.env("TOKENWARD_STORE", &database.url);
    let there = vault.started(there).await;
    let here = vault.serve(&[]).await;
    let validate = "/vault/connections/accounting/sandbox/validate";
    let refused = there.call(Method::POST, validate).send().await;
    assert!(!refused.status.is_success(), "{refused:?}");
    assert_eq!(here.call(Method::POST, validate).send().await.status, 200);
    assert_eq!(sandbox.books().total.refresh_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_moves_there_and_back_with_all_that_it_holds() {
    let (sandbox, vault) = world().await;
    let database = Database::start().await;
    let server = vault.serve(&[]).await;
    let validate = "/vault/connections/accounting/sandbox/validate";
    assert_eq!(server.call(Method::POST, validate).send().await.status, 200);
    let (_, before) = shown(&vault, "sqlite");

    let there = migrate(&vault, "sqlite", &database.url);
    assert_eq!(there["grants"], 1);
    // The server that still runs on the old place serves what it has, and changes nothing there.
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    let refused = server.call(Method::POST, validate).send().await;
    assert!(!refused.status.is_success(), "{refused:?}");
    // It knows, and says so to whoever sends it requests.
    let ready = server.operator("/readyz").send().await;
    let words = String::from_utf8_lossy(&ready.body);
    assert!(
        ready.status == 503 && words.contains("has been moved"),
        "{words}"
    );
    let refused = vault.run(&["connections", "delete", "other/sandbox"]);
    assert!(
        said(&refused).contains("has been moved"),
        "{}",
        said(&refused)
    );
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    assert!(server.stop().await.success());

    // The new place has the tokens, and goes on.
    assert_eq!(shown(&vault, &database.url).1, before);
    let mut command = vault.serve_command(&[]);
    command.env("TOKENWARD_STORE", &database.url);
    let server = vault.started(command).await;
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    assert_eq!(server.call(Method::POST, validate).send().await.status, 200);
    assert!(server.stop().await.success());
    let books = sandbox.books().total;
    assert_eq!((books.refresh_requests, books.refreshes_granted), (2, 2));

    // The old place does not come to life again beside it, with a token that is spent.
    let (done, words) = undo(&vault, None);
    assert!(!done && words.contains("lives elsewhere"), "{words}");
    let (done, words) = undo(&vault, Some(&database.url));
    assert!(!done && words.contains("has been written to"), "{words}");
    let delete = vault.run(&["connections", "delete", "other/sandbox"]);
    assert!(!delete.status.success());

    // And back, to an empty place: the old file is one that has been left.
    let output = vault
        .command(&["migrate", "--to", "sqlite", "--store", &database.url])
        .output()
        .unwrap();
    assert!(
        said(&output).contains("holds a vault already"),
        "{}",
        said(&output)
    );
    let (_, before) = shown(&vault, &database.url);
    for file in ["vault.db", "vault.db-wal", "vault.db-shm"] {
        let _ = std::fs::remove_file(vault.path().join(file));
    }
    let back = migrate(&vault, &database.url, "sqlite");
    // One refresh token more was replaced meanwhile.
    assert_eq!(
        back["rows"].as_u64(),
        there["rows"].as_u64().map(|rows| rows + 1)
    );
    assert_eq!(shown(&vault, "sqlite").1, before);
    let server = vault.serve(&[]).await;
    assert_eq!(server.call(Method::POST, validate).send().await.status, 200);
    let books = sandbox.books().total;
    assert_eq!((books.refreshes_granted, books.refreshes_refused), (3, 0));
    let (works, refused) = shown(&vault, &database.url);
    assert!(works, "reading is not refused: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_cut_off_is_taken_up_again() {
    let (_sandbox, vault) = world().await;
    let database = Database::start().await;
    let first = migrate(&vault, "sqlite", &database.url);
    // As if it had ended in the middle.
    database.sql(
        "DELETE FROM tokenward.vault_values WHERE name = 'pepper'; DELETE FROM tokenward.grants;
         UPDATE tokenward.connections SET settings = '{\"half\": true}'",
    );
    assert_eq!(
        migrate(&vault, "sqlite", &database.url)["sha256"],
        first["sha256"]
    );

    // A row too many is noticed, and nothing is given up.
    database.sql(
        "DELETE FROM tokenward.vault_values WHERE name = 'pepper';
         UPDATE tokenward.grants SET id = 'another'",
    );
    let mut command = vault.command(&["migrate", "--to", &database.url]);
    let output = command.output().unwrap();
    assert!(
        said(&output).contains("the copy differs"),
        "{}",
        said(&output)
    );

    // Another vault's copy is not written over.
    let (_sandbox, other) = world().await;
    let mut command = other.command(&["migrate", "--to", &database.url]);
    let output = command.output().unwrap();
    assert!(
        said(&output).contains("a copy of another vault"),
        "{}",
        said(&output)
    );
    assert!(
        other
            .run(&["connections", "delete", "other/sandbox"])
            .status
            .success()
    );

    // Given up: nobody can live at a place that holds no vault.
    let delete = ["connections", "delete", "other/sandbox"];
    assert!(!vault.run(&delete).status.success());
    let (done, words) = undo(&vault, None);
    assert!(!done && words.contains("lives elsewhere"), "{words}");
    let (done, words) = undo(&vault, Some(&database.url));
    assert!(done, "{words}");
    assert!(vault.run(&delete).status.success());
}
