//! Apideck's official SDKs, unmodified.

use std::{path::Path, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};
use tokio::process::Command;

use crate::harness::{APP, CONSUMER, HOUR, REVOKES, Server, TestVault, import_text, provider};

async fn world() -> (Sandbox, TestVault, Server) {
    let sandbox = provider(Duration::from_millis(10), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let server = vault.serve(&[]).await;
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
    let place = "/vault/connections/accounting/sandbox/import";
    let import = server
        .call(Method::POST, place)
        .body(import_text(&tokens, HOUR));
    assert_eq!(import.send().await.status, 200);
    (sandbox, vault, server)
}

/// What an SDK makes of the server.
async fn said(server: &Server, key: &str, program: &str, args: &[&str], installed: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/apideck");
    assert!(
        folder.join(installed).exists(),
        "install it with: make deps"
    );
    let output = Command::new(program)
        .args(args)
        .current_dir(&folder)
        .envs([
            ("SERVER", &*server.url),
            ("KEY", key),
            ("APP", APP),
            ("CONSUMER", CONSUMER),
        ])
        .env("PYTHONPATH", folder.join("python"))
        .kill_on_drop(true)
        .output()
        .await
        .expect("it is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn begins(said: &Value, name: &str, with: &str) {
    let text = said[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name}: {said}"));
    assert!(text.starts_with(with), "{name}: {text}");
}

fn check(said: &Value, health: Option<&str>, [first, second, third]: [&str; 3]) {
    assert_eq!(said["created"], json!([200, first, "Kim"]));
    assert_eq!(said["pages"], json!([CONSUMER, first, second, third]));
    let own = json!([["sandbox"], "accounting+sandbox", "callable", health]);
    assert_eq!(said["connection"], own);
    assert_eq!(
        (&said["updated"], &said["deleted"]),
        (&json!("Lee"), &json!(third))
    );
    begins(said, "missing", "NotFoundResponse 404: Unknown Consumer");
    begins(said, "cursor", "BadRequestResponse 400: Invalid Cursor");
    begins(said, "redirect", "BadRequestResponse 400: Invalid Params");
    assert_eq!(
        said["connections"],
        json!([["accounting+sandbox", "callable", true]])
    );
    assert_eq!(said["connectors"], json!(["sandbox", "xero"]));
    assert_eq!(said["connector"], json!(["xero", "oauth2", "accounting"]));
    begins(said, "unknown", "NotFoundResponse 404: Unknown Connector");
    let apis = said["apis"].as_array().unwrap();
    assert!(
        ["accounting", "crm", "vault"]
            .iter()
            .all(|api| apis.contains(&json!(api)))
    );
    assert_eq!(said["api"], json!(["vault", "platform", "live"]));
    // Not one that the SDKs try again for a quarter of an hour.
    assert!(said["skipped"].as_str().unwrap().contains("501"), "{said}");
}

async fn node(package: &str) -> Value {
    let (_sandbox, vault, server) = world().await;
    let installed = format!("node_modules/{package}");
    said(
        &server,
        &vault.key,
        "node",
        &["contract.mjs", package],
        &installed,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_current_sdk_for_node_is_served() {
    let said = node("unify").await;
    check(&said, Some("ok"), ["cust:1/ä", "cust:2", "cust:3"]);
    assert_eq!(said["filtered"], json!(["cust:1/ä"]));
    assert_eq!(
        (&said["session"], &said["configured"]),
        (&json!([true, 3]), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strict_sdk_for_node_is_served() {
    let said = node("unify-strict").await;
    // It does not know a connection's health within a consumer.
    check(&said, None, ["cust:1/ä", "cust:2", "cust:3"]);
    assert_eq!(
        (&said["session"], &said["configured"]),
        (&json!([true, 3]), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_for_python_is_served() {
    let (_sandbox, vault, server) = world().await;
    let said = said(
        &server,
        &vault.key,
        "python3",
        &["contract.py"],
        "python/apideck_unify",
    )
    .await;
    check(&said, Some("ok"), ["cust-1", "cust-2", "cust-3"]);
    assert_eq!(said["filtered"], json!(["cust-1"]));
    assert_eq!(said["session"], json!([true, 2]));
}
