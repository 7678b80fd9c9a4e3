//! What is logged, and that nobody waits for it.

use std::process::Stdio;

use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::harness::{CONSUMER, TestVault, dial};

/// A server whose standard error is the writing end of a pipe, and where it listens.
async fn piped(vault: &TestVault) -> (tokio::process::Child, String, String) {
    let command = vault.serve_command(&["--log", "info"]);
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).await.unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let at = |name: &str| said[name].as_str().unwrap()["http://".len()..].to_owned();
    (child, at("listening"), at("ops"))
}

/// Makes refused requests, each of which leaves a line, and checks that all are answered.
async fn refused(address: &str, count: usize) {
    let stream = dial(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let ask = async {
        for _ in 0..count {
            let request = b"GET /proxy HTTP/1.1\r\nHost: x\r\n\r\n";
            write.write_all(request).await.unwrap();
        }
        write
    };
    let answers = async {
        let (mut seen, mut tail, mut buffer) = (0, Vec::new(), vec![0; 65536]);
        while seen < count {
            let length = read.read(&mut buffer).await.unwrap();
            assert!(length > 0, "the connection ended after {seen} answers");
            tail.extend_from_slice(&buffer[..length]);
            seen += tail.windows(12).filter(|w| *w == b"HTTP/1.1 401").count();
            tail.drain(..tail.len().saturating_sub(11));
        }
    };
    tokio::join!(ask, answers);
}

async fn metric(ops: &str, name: &str) -> u64 {
    let mut stream = dial(ops).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_the_log_stops_nobody() {
    let vault = TestVault::new();
    let (child, address, ops) = piped(&vault).await;
    // More than the pipe and the queue hold.
    refused(&address, 8000).await;
    assert!(metric(&ops, "tokenward_log_lines_lost_total ").await > 1000);
    drop(child);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_the_log_stops_nobody() {
    let vault = TestVault::new();
    let (mut child, address, ops) = piped(&vault).await;
    drop(child.stderr.take());
    refused(&address, 100).await;
    while metric(&ops, "tokenward_log_lines_lost_total ").await < 100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn json_lines_hold_each_key_once_and_refusals_say_whose_they_are() {
    let vault = TestVault::new();
    let server = vault.serve(&["--log-format", "json"]).await;
    let answer = server
        .call(Method::GET, "/proxy")
        .header("x-apideck-service-id", "xero")
        .header("x-apideck-downstream-url", "/x")
        .send()
        .await;
    answer.error(404, "EntityNotFoundError");
    let id = answer.headers["x-apideck-request-id"].clone();
    assert!(server.stop().await.success());
    let log = vault.log();
    let mut lines = Vec::new();
    for line in log.lines() {
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
        lines.push(serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
    }
    let find = |message: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.unwrap_or_else(|| panic!("no `{message}`: {log}"))
    };
    let started = find("started");
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert!(started["keys"].is_string() && started["connectors"].as_u64() >= Some(3));
    let refused = find("request not proxied");
    assert_eq!(refused["consumer"], CONSUMER);
    assert_eq!(refused["service"], "xero");
    assert_eq!(refused["request_id"], id.to_str().unwrap());
}
