//! TLS in front: HTTP/1.1 through the lane and HTTP/2 through the library, with the same answers.

use std::{collections::HashSet, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tokenward_testkit::sandbox::Rotation;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{APP, CONSUMER, REVOKES, Server, TestVault, dial, expired, said};

/// A key and a certificate for 127.0.0.1.
fn make(folder: &Path) {
    let command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                   -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem";
    let made = Command::new("openssl")
        .args(command.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

pub(crate) async fn start(vault: &TestVault, extra: &[&str]) -> Server {
    make(vault.path());
    let (cert, key) = (vault.path().join("cert.pem"), vault.path().join("key.pem"));
    let mut args = vec!["--tls-cert", cert.to_str().unwrap()];
    args.extend(["--tls-key", key.to_str().unwrap()]);
    args.extend(extra);
    vault.serve(&args).await
}

struct Answer {
    /// Of HTTP, that was agreed on.
    version: String,
    status: u16,
    body: Vec<u8>,
}

/// Asks `/proxy` with curl, which checks the certificate.
async fn curl(server: &Server, vault: &TestVault, version: &str, args: &[&str]) -> Answer {
    let headers = [
        format!("authorization: Bearer {}", server.key),
        format!("x-apideck-app-id: {APP}"),
        format!("x-apideck-consumer-id: {CONSUMER}"),
        "x-apideck-service-id: sandbox".to_owned(),
    ];
    let mut command = tokio::process::Command::new("curl");
    command
        .args(["--silent", "--show-error", version, "--cacert"])
        .arg(vault.path().join("cert.pem"))
        .args(headers.iter().flat_map(|header| ["-H", header]))
        .args(["--write-out", "\n%{http_version} %{http_code}"])
        .args(args)
        .arg(format!("{}/proxy", server.url));
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let end = output
        .stdout
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap();
    let (body, end) = output.stdout.split_at(end);
    let end = String::from_utf8(end[1..].to_vec()).unwrap();
    let (version, status) = end.split_once(' ').unwrap();
    Answer {
        version: version.to_owned(),
        status: status.parse().unwrap(),
        body: body.to_vec(),
    }
}

#[tokio::test]
async fn both_versions_are_served_in_tls_and_share_one_refresh() {
    let slow = Duration::from_millis(300);
    let (sandbox, vault) = expired(slow, Rotation::Revokes, REVOKES).await;
    let server = start(&vault, &[]).await;
    assert!(server.url.starts_with("https://127.0.0.1:"));
    let to = ["-H", "x-apideck-downstream-url: /headers"];
    let ask = |version| curl(&server, &vault, version, &to);
    let answers = tokio::join!(ask("--http1.1"), ask("--http2"), ask("--http2"));
    let mut seen = HashSet::new();
    for (answer, version) in [(answers.0, "1.1"), (answers.1, "2"), (answers.2, "2")] {
        assert_eq!((answer.version.as_str(), answer.status), (version, 200));
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        seen.insert(body["headers"]["authorization"].to_string());
    }
    assert_eq!(seen.len(), 1, "all went out with the same token");
    let books = sandbox.books().total;
    assert_eq!((books.refreshes_granted, books.refreshes_refused), (1, 0));
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn long_bodies_stream_both_ways_in_tls() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let server = start(&vault, &[]).await;
    let long: Vec<u8> = (0..3 << 20)
        .map(|number: u32| (number % 251) as u8)
        .collect();
    let file = vault.path().join("long");
    std::fs::write(&file, &long).unwrap();
    let data = format!("@{}", file.display());
    let to = [
        "-H",
        "x-apideck-downstream-url: /echo",
        "-H",
        "expect:",
        "--data-binary",
        &data,
    ];
    for version in ["--http1.1", "--http2"] {
        let answer = curl(&server, &vault, version, &to).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == long, "{} bytes came back", answer.body.len());
    }
    let to = ["-H", "x-apideck-downstream-url: /bytes?n=3000000"];
    for version in ["--http1.1", "--http2"] {
        let answer = curl(&server, &vault, version, &to).await;
        assert_eq!((answer.status, answer.body.len()), (200, 3_000_000));
    }
}

#[tokio::test]
async fn who_speaks_no_tls_is_hung_up_on_and_harms_nobody() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let server = start(&vault, &[]).await;
    let address = server.url.strip_prefix("https://").unwrap();
    let mut stream = dial(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The server closes with our bytes unread or not: either is an end.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let to = ["-H", "x-apideck-downstream-url: /x"];
    assert_eq!(curl(&server, &vault, "--http2", &to).await.status, 200);
}

#[test]
fn a_certificate_needs_its_key() {
    let vault = TestVault::new();
    let one = vault.run(&["serve", "--tls-cert", "cert.pem"]);
    assert!(!one.status.success());
    assert!(said(&one).contains("--tls-key"), "{}", said(&one));
    let none = vault.run(&["serve", "--tls-cert", "no.pem", "--tls-key", "no.pem"]);
    assert!(!none.status.success());
    let why = said(&none);
    assert!(why.contains("cannot read the certificate no.pem"), "{why}");
}
