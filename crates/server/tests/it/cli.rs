//! The command line.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use http::Method;
use tokenward::seal::Key;
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};

use crate::harness::{HOUR, REVOKES, TestVault, expired, processes_at_once, said};

#[test]
fn the_first_start_makes_a_private_key_and_a_lost_key_is_a_loud_error() {
    let vault = TestVault::new();
    let key = vault.path().join("key");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::metadata(vault.path().join("vault.db"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let saved = std::fs::read(&key).unwrap();

    std::fs::remove_file(&key).unwrap();
    let lost = vault.run(&["applications", "list"]);
    assert!(
        !lost.status.success() && said(&lost).contains("put the key back"),
        "{}",
        said(&lost)
    );
    assert!(
        !key.exists(),
        "no new key may be made for an existing vault"
    );

    let other = TestVault::new();
    std::fs::copy(other.path().join("key"), &key).unwrap();
    let wrong = vault.run(&["applications", "list"]);
    assert!(
        !wrong.status.success() && said(&wrong).contains("sealed with key"),
        "{}",
        said(&wrong)
    );

    std::fs::write(&key, "nonsense").unwrap();
    let malformed = vault.run(&["applications", "list"]);
    assert!(
        said(&malformed).contains("key 1 is not base64 of exactly 32 bytes"),
        "{}",
        said(&malformed)
    );

    // The environment may carry it instead.
    std::fs::remove_file(&key).unwrap();
    let mut command = vault.command(&["applications", "list"]);
    let output = command
        .env("TOKENWARD_KEY", String::from_utf8(saved).unwrap().trim())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn keys_are_rotated() {
    let vault = TestVault::new();
    vault.add_connector("xero", include_str!("../../../../connectors/xero.toml"));
    assert!(
        vault
            .run_with(
                &[
                    "clients",
                    "set",
                    "--connector",
                    "xero",
                    "--client-id",
                    "c",
                    "--client-secret-file",
                    "-"
                ],
                "s"
            )
            .status
            .success()
    );
    vault.import_text("acme/xero", r#"{"credentials":{"access_token":"at","refresh_token":"rt","issued_at":"2999-01-01T00:00:00Z","expires_in":1800}}"#);
    let file = vault.path().join("key");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = TestVault::new();
    let new = std::fs::read_to_string(new.path().join("key")).unwrap();
    std::fs::write(&file, format!("{new}{old}")).unwrap();
    assert_eq!(vault.json(&["reseal", "--json"])["resealed"], 2);
    std::fs::write(&file, new).unwrap();
    let output = vault.run(&["token", "acme/xero"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "at\n",
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_at_once_cause_one_refresh_and_print_one_token() {
    let config = SandboxConfig {
        token_latency: Duration::from_millis(300),
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let tokens =
        sandbox.issue_expiring(&SandboxConfig::default().client_id, Duration::from_secs(5));
    vault.import("acme/sandbox", &tokens, HOUR);
    let printed = tokio::task::spawn_blocking(move || {
        processes_at_once(&vault, 12, &["token", "acme/accounting+sandbox"])
    })
    .await
    .unwrap();
    let token = &printed[0].1;
    assert!(token.starts_with("sbx_at_"), "{printed:?}");
    assert!(
        printed
            .iter()
            .all(|(success, out, _)| *success && out == token),
        "{printed:?}"
    );
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    assert_ne!(token.trim(), tokens.access_token);
}

#[test]
fn bad_input_names_the_cause_and_the_way_out() {
    let vault = TestVault::new();
    for (args, input, expected) in [
        (
            vec!["token", "nobody/xero"],
            "",
            "there is no connection nobody/accounting+xero",
        ),
        (
            vec!["token", "nobody"],
            "",
            "a connection is named CONSUMER/UNIFIED_API+SERVICE",
        ),
        (
            vec!["token", "a/nonsense"],
            "",
            "there is no connector `nonsense`",
        ),
        (
            vec!["token", "a/xero", "--app", "other"],
            "",
            "there is no application `other`",
        ),
        (
            vec!["connections", "import", "a/xero"],
            "not json",
            "not JSON",
        ),
        (
            vec!["connections", "import", "a/xero"],
            "{}",
            "missing field `credentials`",
        ),
        (
            vec!["connections", "import", "a/xero"],
            r#"{"credentials":{}}"#,
            "neither an access token nor a refresh token",
        ),
        (
            vec!["connections", "import", "a/crm+xero"],
            r#"{"credentials":{"access_token":"x"}}"#,
            "belongs to unified API",
        ),
        (
            vec!["connections", "import", "a/xero", "--file", "/nonexistent"],
            "",
            "/nonexistent",
        ),
        (
            vec!["connectors", "show", "nonsense"],
            "",
            "`tokenward connectors list`",
        ),
        (
            vec![
                "clients",
                "set",
                "--connector",
                "xero",
                "--client-id",
                "c",
                "--client-secret-file",
                "-",
            ],
            "",
            "--public",
        ),
        (
            vec!["applications", "create", "App", "--id", "app"],
            "",
            "exists already",
        ),
        (
            vec!["keys", "revoke", "key_nonsense"],
            "",
            "there is no key",
        ),
    ] {
        let output = vault.run_with(&args, input);
        let said = said(&output);
        assert!(
            !output.status.success()
                && said
                    .replace("does not belong to", "belongs to")
                    .contains(expected),
            "{args:?}: {said}"
        );
    }
    let output = vault.run(&["token", "a/xero", "--access-token", "x"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_bad_connector_file_names_file_line_and_key() {
    let vault = TestVault::new();
    vault.add_connector(
        "acme",
        "id = \"acme\"\nname = \"Acme\"\nunified_apis = [\"crm\"]\nunknown_key = 1\n",
    );
    let output = vault.run(&["connectors", "list"]);
    let text = said(&output);
    assert!(
        !output.status.success() && text.contains("acme.toml:4: unknown field `unknown_key`"),
        "{text}"
    );
    let check = vault.run(&[
        "connectors",
        "check",
        &vault
            .path()
            .join("connectors/acme.toml")
            .display()
            .to_string(),
    ]);
    assert!(said(&check).contains("acme.toml:4"));
}

#[test]
fn connectors_and_help_are_readable() {
    let vault = TestVault::new();
    let list = vault.json(&["connectors", "list", "--json"]);
    let ids: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|connector| connector["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["oidc", "salesforce", "xero"]);
    let xero = vault.run(&["connectors", "show", "xero"]);
    let text = said(&xero);
    for expected in [
        "accepted for 1800 s",
        "https://api.xero.com",
        "developer.xero.com/faq/oauth2",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["connections", "import", "--help"],
        &["demo", "--help"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout.len() > 300,
            "{args:?}"
        );
    }
}

#[test]
fn a_second_connection_may_share_a_login() {
    let vault = TestVault::new();
    let tokens = r#"{"credentials":{"access_token":"at","refresh_token":"rt","issued_at":"2999-01-01T00:00:00Z","expires_in":1800}}"#;
    vault.import_text("acme/xero", tokens);
    let linked = vault.run(&[
        "connections",
        "link",
        "beta/xero",
        "--to",
        "acme/xero",
        "--setting",
        "tenant_id=t2",
    ]);
    assert!(linked.status.success(), "{}", said(&linked));
    // The same tokens imported once more are recognised as the same grant.
    vault.import_text("gamma/xero", tokens);
    let list = vault.json(&["connections", "list", "--json"]);
    let grants: std::collections::BTreeSet<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["grant"]["id"].as_str().unwrap())
        .collect();
    assert_eq!((list.as_array().unwrap().len(), grants.len()), (3, 1));
    assert_eq!(list[1]["settings"]["tenant_id"], "t2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_says_which_key_it_lacks_and_takes_it_from_its_file() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let server = vault.serve(&[]).await;
    let file = vault.path().join("key");
    let old = std::fs::read_to_string(&file).unwrap();
    let (new, aside) = (Key::generate(), vault.path().join("both"));
    std::fs::write(&aside, format!("{}\n{old}", new.to_text().expose())).unwrap();
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Everything is sealed anew, by an operator who has forgotten the server.
    vault.json(&["reseal", "--json", "--key-file", aside.to_str().unwrap()]);
    let answer = server.proxy(Method::GET, "/x").send().await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    let ready = server.operator("/readyz").send().await;
    assert_eq!(ready.status, 503);
    let said = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(said.contains(&new.id().to_string()), "{said}");
    // The key is put where it belongs, and nobody restarts anything.
    std::fs::copy(&aside, &file).unwrap();
    while server.operator("/readyz").send().await.status != 200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = server.proxy(Method::GET, "/x").send().await;
    assert_eq!(answer.status, 200);
    assert!(server.stop().await.success());
}

#[test]
fn who_looks_into_a_new_folder_makes_nothing_there() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new");
    for args in [
        &["applications", "list"][..],
        &["keys", "list"],
        &["clients", "list"],
        &["connections", "list"],
        &["connections", "show", "acme/xero"],
        &["token", "acme/xero"],
        &["validate", "acme/xero"],
        &["reseal"],
        &["vault-key", "list"],
        &["vault-key", "new"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(args)
            .arg("--data-dir")
            .arg(&place)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(said(&output).contains("new"), "{}", said(&output));
        assert!(!place.exists(), "{args:?}");
    }
}

#[test]
fn exit_codes_tell_what_helps() {
    let vault = TestVault::new();
    vault.import_text(
        "acme/xero",
        r#"{"access_token":"at","issued_at":"2020-01-01T00:00:00Z","expires_in":"1","token_type":"Bearer"}"#,
    );
    for (args, code) in [
        (&["token", "acme/xero"][..], 3),
        (&["token", "nobody/xero"], 5),
        (&["connections", "show", "nobody/xero"], 5),
        (&["connections", "delete", "nobody/xero"], 5),
        (&["keys", "revoke", "none"], 5),
        (&["applications", "list", "--nonsense"], 2),
        (&["applications", "list"], 0),
    ] {
        let output = vault.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
    }
    let list = vault.run(&["connections", "list"]);
    assert!(
        said(&list).contains("expired: re-authorize"),
        "{}",
        said(&list)
    );
    // Without a client it cannot be refreshed: the operator's matter.
    vault.import_text("beta/xero", r#"{"refresh_token":"rt"}"#);
    let output = vault.run(&["token", "beta/xero"]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    let help = vault.run(&["--help"]);
    assert!(said(&help).contains("Exit codes:"), "{}", said(&help));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let vault = TestVault::new();
    let key = vault.path().join("key");
    for mode in [0o640, 0o604] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = vault.run(&["applications", "list"]);
        assert!(
            !output.status.success() && said(&output).contains("chmod 600"),
            "{}",
            said(&output)
        );
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(vault.run(&["applications", "list"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_taken_up_by_servers_that_run() {
    let vault = TestVault::new();
    let tokens = r#"{"access_token":"at","refresh_token":"rt","issued_at":"2999-01-01T00:00:00Z","expires_in":1800}"#;
    vault.import_text("acme/xero", tokens);
    let server = vault.serve(&[]).await;
    let old = vault.json(&["vault-key", "list", "--json"]);
    let new = vault.json(&["vault-key", "new", "--json"]);
    let both = vault.json(&["vault-key", "list", "--json"]);
    assert_eq!((&both[0], &both[1]), (&new["key"], &old[0]));
    tokenward_testkit::signal(server.child.id().unwrap(), tokenward_testkit::Signal::HUP).unwrap();
    let id = new["key"].as_str().unwrap();
    while !vault.log().contains(&format!("active={id}")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(vault.json(&["reseal", "--json"])["resealed"], 1);
    assert_eq!(server.operator("/readyz").send().await.status, 200);
    // The token is read from the store, and opens.
    let answer = server
        .call(
            http::Method::POST,
            "/vault/connections/accounting/xero/token",
        )
        .send()
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.stop().await.success());
}

#[test]
fn a_client_without_a_secret_must_be_said_to_be_public() {
    let vault = TestVault::new();
    let args = ["clients", "set", "--connector", "xero", "--client-id", "c"];
    let output = vault.run(&args);
    assert!(
        !output.status.success() && said(&output).contains("--client-secret-file"),
        "{}",
        said(&output)
    );
    let public = [&args[..], &["--public"]].concat();
    assert!(vault.run(&public).status.success());
}
