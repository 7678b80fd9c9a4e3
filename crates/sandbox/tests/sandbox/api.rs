//! The resource API, and the control over HTTP.

use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokenward_sandbox::{
    Books, Fault, FaultOrder, IssuedTokens, SandboxConfig, TimelineEvent, fingerprint,
};

use crate::client::{Answer, api, get, refreshed, refused, send, start, with_grant};

#[tokio::test]
async fn the_api_wants_a_live_token() {
    let (sandbox, issued) = with_grant(SandboxConfig::default()).await;
    let url = sandbox.api_url() + "/a/b?c=d";
    for token in [None, Some("unknown"), Some(issued.refresh_token.as_str())] {
        let answer = get(&url, token).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let why = answer.header(header::WWW_AUTHENTICATE);
        assert_eq!(why, "Bearer error=\"invalid_token\"");
        assert_eq!(answer.text("error"), "invalid_token");
    }
    let request = Request::put(&url)
        .header(header::HOST, "sandbox")
        .header(
            header::AUTHORIZATION,
            format!("bearer {}", issued.access_token),
        )
        .body("x".repeat(100_000))
        .unwrap();
    let body = send(request).await.unwrap().json();
    let grant = issued.grant_id.to_string();
    let expected =
        json!({"ok": true, "method": "PUT", "path": "/api/a/b", "grant": grant, "bytes": 100_000});
    assert_eq!(body, expected);
    let total = sandbox.books().total;
    assert_eq!((total.api_accepted, total.api_refused), (1, 3));
}

#[tokio::test]
async fn the_api_does_as_it_is_told() {
    let (sandbox, issued) = with_grant(SandboxConfig::default()).await;
    let token = issued.access_token.as_str();
    let call = async |path: &str| get(&(sandbox.api_url() + path), Some(token)).await;

    assert_eq!(call("/status/418").await.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(call("/slow?ms=1").await.status, StatusCode::OK);
    assert_eq!(call("/always401").await.status, StatusCode::UNAUTHORIZED);
    let redirect = call("/redirect?to=https%3A%2F%2Fe.example%2F").await;
    assert_eq!(redirect.status, StatusCode::FOUND);
    assert_eq!(redirect.header(header::LOCATION), "https://e.example/");
    assert_eq!(call("/bytes?n=40000").await.body.len(), 40_000);

    let headers = call("/headers?q=1").await.json();
    assert_eq!(headers["query"], "q=1");
    assert_eq!(headers["headers"]["host"], json!(["sandbox"]));
    let shown = fingerprint(&format!("Bearer {token}"));
    assert_eq!(headers["headers"]["authorization"], json!([shown]));

    for expected in [429, 429, 200] {
        let answer = call("/flaky?key=k&fail=2&status=429&retry_after=3").await;
        assert_eq!(answer.status.as_u16(), expected);
        let retry = answer.headers.contains_key(header::RETRY_AFTER);
        assert_eq!(retry, expected == 429);
    }

    let request = Request::post(sandbox.api_url() + "/echo")
        .header(header::HOST, "sandbox")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "text/x-sandbox")
        .body("hear me".to_owned())
        .unwrap();
    let echo = send(request).await.unwrap();
    assert_eq!(echo.header(header::CONTENT_TYPE), "text/x-sandbox");
    assert_eq!(echo.body, "hear me");
}

async fn control(method: &str, url: String, body: &Value) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header(header::HOST, "sandbox")
        .body(body.to_string())
        .unwrap();
    send(request).await.unwrap()
}

#[tokio::test]
async fn other_processes_control_it_over_http() {
    let sandbox = start(SandboxConfig::default()).await;
    let at = |path: &str| format!("{}/sandbox/{path}", sandbox.base_url());

    let wanted = json!({"access_ttl_ms": 60_000, "rotation": {"grace_ms": 1000}});
    let answer = control("POST", at("grants"), &wanted).await;
    let issued: IssuedTokens = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(issued.expires_in.as_millis(), 60_000);
    let unknown = control("POST", at("grants"), &json!({"client_id": "nobody"})).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);

    let order = FaultOrder {
        fault: Fault::InvalidGrant,
        times: None,
        grant: Some(issued.grant_id),
    };
    let order = serde_json::to_value(order).unwrap();
    assert_eq!(
        order,
        json!({"fault": "invalid_grant", "times": null, "grant": "g1"})
    );
    let answer = control("POST", at("faults"), &order).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    refused(&sandbox, &issued.refresh_token).await;
    control("DELETE", at("faults"), &Value::Null).await;
    refreshed(&sandbox, &issued.refresh_token).await;
    let released = control("POST", at("release"), &Value::Null).await;
    assert_eq!(released.status, StatusCode::NO_CONTENT);

    let answer = control("POST", at("grants/g1/expire"), &Value::Null).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    let dead = api(&sandbox, &issued.access_token).await;
    assert_eq!(dead, StatusCode::UNAUTHORIZED);

    let books: Books = serde_json::from_slice(&get(&at("books"), None).await.body).unwrap();
    assert_eq!(books, sandbox.books());
    assert_eq!(books.grant(issued.grant_id).refreshes_granted, 1);
    let timeline = get(&at("timeline"), None).await.body;
    let timeline: Vec<TimelineEvent> = serde_json::from_slice(&timeline).unwrap();
    assert_eq!(timeline, sandbox.timeline());
    assert!(timeline.is_sorted_by_key(|event| event.at_ms));
    let secrets = get(&at("secrets"), None).await.json();
    assert_eq!(secrets, json!(sandbox.issued_secrets()));
}

#[test]
fn faults_as_json() {
    let cases = [
        (json!("hang_after_rotation"), Fault::HangAfterRotation),
        (
            json!({"latency_ms": 5}),
            Fault::Latency(std::time::Duration::from_millis(5)),
        ),
        (
            json!({"too_many_requests": {"retry_after_ms": 2000}}),
            Fault::TooManyRequests {
                retry_after: Some(std::time::Duration::from_secs(2)),
            },
        ),
        (
            json!({"too_many_requests": {}}),
            Fault::TooManyRequests { retry_after: None },
        ),
        (
            json!({"server_error": {"status": 500, "rotate": true}}),
            Fault::ServerError {
                status: 500,
                rotate: true,
            },
        ),
    ];
    for (json, fault) in cases {
        assert_eq!(serde_json::to_value(&fault).unwrap(), json);
        assert_eq!(serde_json::from_value::<Fault>(json).unwrap(), fault);
    }
}
