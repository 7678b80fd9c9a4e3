//! No token in any output: logs at `trace`, errors, metrics, what commands print.

use std::time::Duration;

use http::Method;
use tokenward_testkit::sandbox::{Fault, Rotation, SandboxConfig};

use crate::harness::{GRACE, HOUR, TestVault, all_at_once, provider, said};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_issued_is_ever_printed() {
    let sandbox = provider(Duration::from_millis(20), Rotation::Grace(HOUR)).await;
    let vault = TestVault::with_sandbox(&sandbox, GRACE);
    let mut printed = String::new();
    let tokens = sandbox.issue_expiring(
        &SandboxConfig::default().client_id,
        Duration::from_millis(10),
    );
    let server = vault.serve(&["--log", "trace"]).await;
    let requests = vault.path().join("requests.log");
    let requests = requests.to_str().unwrap();
    let json = [
        "--log",
        "trace",
        "--log-format",
        "json",
        "--request-log",
        requests,
    ];
    let json_server = vault.serve(&json).await;

    // Everything that can happen to a refresh, and each error that comes of it.
    let faults = [
        None,
        Some(Fault::TooManyRequests {
            retry_after: Some(Duration::from_millis(100)),
        }),
        Some(Fault::ServerError {
            status: 500,
            rotate: true,
        }),
        Some(Fault::MalformedBody { rotate: true }),
        // Becomes an echo of the refresh token that was sent.
        Some(Fault::OkWithError {
            error: String::new(),
        }),
        Some(Fault::DropAfterRotation),
        Some(Fault::DropBeforeRotation),
        Some(Fault::InvalidGrant),
    ];
    for (number, mut fault) in faults.into_iter().enumerate() {
        let place = format!("consumer{number}/sandbox");
        let tokens = sandbox.issue_expiring(
            &SandboxConfig::default().client_id,
            Duration::from_millis(10),
        );
        vault.import(&place, &tokens, HOUR);
        if let Some(Fault::OkWithError { error }) = &mut fault {
            *error = format!("unknown token {}", tokens.refresh_token);
        }
        sandbox.set_fault(fault);
        for server in [&server, &json_server] {
            let answers = all_at_once(5, |_| {
                server
                    .bare(Method::GET, "/proxy")
                    .header("authorization", &format!("Bearer {}", server.key))
                    .header("x-apideck-app-id", "app")
                    .header("x-apideck-consumer-id", &format!("consumer{number}"))
                    .header("x-apideck-service-id", "sandbox")
                    .header("x-apideck-timeout", "3000")
                    .header("x-apideck-downstream-url", "/x")
            })
            .await;
            for answer in answers {
                printed.push_str(&format!(
                    "{:?}\n{}\n",
                    answer.headers,
                    String::from_utf8_lossy(&answer.body)
                ));
            }
        }
        let validated = vault.run(&["validate", &place, "--log", "trace"]);
        printed.push_str(&said(&validated));
        printed.push_str(&said(&vault.run(&[
            "connections",
            "show",
            &place,
            "--log",
            "trace",
        ])));
    }
    sandbox.set_fault(None);
    // Malformed imports that hold tokens, and a token in an unexpected place.
    let broken = format!(
        r#"{{"credentials":{{"access_token":"{}","x":1}}}}"#,
        tokens.access_token
    );
    printed.push_str(&said(&vault.run_with(
        &["connections", "import", "a/sandbox", "--log", "trace"],
        &broken,
    )));
    let answer = server
        .call(Method::POST, "/vault/connections/accounting/sandbox/import")
        .body(broken)
        .send()
        .await;
    printed.push_str(&String::from_utf8_lossy(&answer.body));
    for args in [
        &["connections", "list"][..],
        &["clients", "list", "--json"],
        &["keys", "list"],
        &["applications", "list"],
    ] {
        printed.push_str(&said(&vault.run(args)));
    }
    printed.push_str(&server.metrics().await);
    let key = server.key.clone();
    assert!(server.stop().await.success() && json_server.stop().await.success());
    let log = vault.log();
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "the log is not detailed enough to prove anything"
    );
    printed.push_str(&log);
    let noted = std::fs::read_to_string(requests).unwrap();
    assert!(noted.lines().count() >= 40, "{noted}");
    printed.push_str(&noted);

    let seal = std::fs::read_to_string(vault.path().join("key")).unwrap();
    let mut secrets = sandbox.issued_secrets();
    secrets.extend([key, seal.trim().to_owned()]);
    assert!(secrets.len() > 10 && printed.len() > 10_000);
    for secret in &secrets {
        // Also without their prefix, and in pieces long enough to be of use.
        for piece in [
            secret.as_str(),
            &secret[..secret.len() * 3 / 4],
            &secret[secret.len() / 4..],
        ] {
            assert!(
                !printed.contains(piece),
                "a secret was printed near: {}",
                near(&printed, piece)
            );
        }
    }
    // Nor is any of it in the files of the vault, but for the key itself.
    for file in ["vault.db", "vault.db-wal"] {
        let bytes = std::fs::read(vault.path().join(file)).unwrap_or_default();
        for secret in sandbox.issued_secrets() {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes()),
                "a token lies open in {file}"
            );
        }
    }
}

fn near<'a>(text: &'a str, piece: &str) -> &'a str {
    let at = text.find(piece).unwrap_or(0);
    let from = text[..at]
        .char_indices()
        .rev()
        .nth(200)
        .map_or(0, |(index, _)| index);
    &text[from..at]
}
