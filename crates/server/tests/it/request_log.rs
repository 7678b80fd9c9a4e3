//! The request log: what was asked, by whom, and what became of it.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokenward_testkit::sandbox::Rotation;

use crate::harness::{APP, CONSUMER, REVOKES, expired, said};

#[tokio::test]
async fn each_request_leaves_one_line_and_no_secret() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let file = vault.path().join("requests.log");
    let file = file.to_str().unwrap();
    let server = vault.serve(&["--request-log", file]).await;
    let mut ids = Vec::new();
    // The first waits for a refresh and takes the ordinary way, the second the express one.
    for _ in 0..2 {
        let answer = server.proxy(Method::GET, "/x?key=hidden#part").send().await;
        ids.push((answer.headers["x-apideck-request-id"].clone(), 200));
    }
    let answer = server.proxy(Method::POST, "/status/404").send().await;
    ids.push((answer.headers["x-apideck-request-id"].clone(), 404));
    let refused = server
        .proxy(Method::GET, "https://u:hidden@evil.example/")
        .send()
        .await;
    ids.push((
        refused.headers["x-apideck-request-id"].clone(),
        refused.status.as_u16(),
    ));
    let unknown = server.bare(Method::GET, "/proxy").send().await;
    ids.push((unknown.headers["x-apideck-request-id"].clone(), 401));
    // What is no request to /proxy is not noted.
    server.metrics().await;
    assert!(server.stop().await.success());

    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains("hidden"), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), ids.len(), "{text}");
    for (line, (id, status)) in lines.iter().zip(&ids) {
        assert_eq!(line["request_id"], id.to_str().unwrap(), "{text}");
        assert_eq!(line["status"], *status);
        assert!(line["ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{line}");
    }
    let whole = &lines[1];
    assert_eq!(whole["method"], "GET");
    assert_eq!(whole["url"], "/x");
    assert_eq!(
        (&whole["application"], &whole["consumer"]),
        (&APP.into(), &CONSUMER.into())
    );
    assert_eq!(
        (&whole["unified_api"], &whole["service"]),
        (&"accounting".into(), &"sandbox".into())
    );
    assert!(whole.get("error").is_none());
    assert_eq!(lines[2]["method"], "POST");
    assert_eq!(lines[4]["error"], "UnauthorizedError");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_no_start() {
    let (_sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let output = vault.run(&["serve", "--request-log", "/no/such/folder/log"]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("cannot write the request log"),
        "{}",
        said(&output)
    );
}
