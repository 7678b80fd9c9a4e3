//! The gateway, request by request.

use std::time::Duration;

use futures_util::future::try_join_all;
use http::Method;
use tokenward_testkit::{
    Signal,
    sandbox::{Rotation, Sandbox, SandboxConfig},
    signal,
};

use crate::harness::{GRACE, HOUR, REVOKES, Server, TestVault, all_at_once, dial, provider};

struct World {
    sandbox: Sandbox,
    vault: TestVault,
    server: Server,
}

/// A server with one connection whose access token has `left` of an hour left.
async fn world(left: Duration, policy: &str, extra: &[&str]) -> World {
    let sandbox = provider(Duration::from_millis(100), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, policy);
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, left);
    vault.import("acme/sandbox", &tokens, HOUR);
    let server = vault.serve(extra).await;
    World {
        sandbox,
        vault,
        server,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_goes_through_with_the_token_and_nothing_of_ours() {
    let world = world(HOUR, REVOKES, &[]).await;
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ] {
        let answer = world
            .server
            .proxy(method.clone(), "/headers?a=1&b='%20'")
            .header("x-custom", "stays")
            .header("cookie", "session=1")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-apideck-timeout", "28000")
            .body(if method == Method::POST { "body" } else { "" })
            .send()
            .await;
        let seen = answer.json();
        assert_eq!(answer.status, 200, "{method}: {seen}");
        assert_eq!(
            (seen["method"].as_str(), seen["query"].as_str()),
            (Some(method.as_str()), Some("a=1&b=%27%20%27"))
        );
        let headers = seen["headers"].as_object().unwrap();
        assert_eq!(headers["x-custom"][0], "stays");
        for name in headers.keys() {
            assert!(
                !name.starts_with("x-apideck-") && !["cookie", "x-hop"].contains(&name.as_str()),
                "{name}"
            );
        }
        assert!(headers.contains_key("authorization"));
        assert!(answer.headers.contains_key("x-apideck-request-id"));
    }
    let overridden = world
        .server
        .proxy(Method::POST, "/headers")
        .header("x-apideck-downstream-method", "PATCH")
        .send()
        .await;
    assert_eq!(overridden.json()["method"], "PATCH");
    assert_eq!(world.sandbox.books().total.refresh_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_become_headers() {
    let world = world(HOUR, REVOKES, &[]).await;
    let before = world
        .server
        .proxy(Method::GET, "/headers")
        .send()
        .await
        .json();
    assert!(before["headers"].get("x-tenant").is_none());
    let set = world.vault.run(&[
        "connections",
        "set",
        "acme/sandbox",
        "--setting",
        "tenant=t-1",
    ]);
    assert!(set.status.success());
    // Another process changed it: this one hears of it within its polling time.
    let mut tenant = serde_json::Value::Null;
    for _ in 0..50 {
        tenant = world
            .server
            .proxy(Method::GET, "/headers")
            .send()
            .await
            .json()["headers"]["x-tenant"][0]
            .clone();
        if !tenant.is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tenant, "t-1");
    let own = world
        .server
        .proxy(Method::GET, "/headers")
        .header("x-tenant", "mine")
        .send()
        .await
        .json();
    assert_eq!(own["headers"]["x-tenant"][0], "mine");
}

/// A body of which no part is like another.
fn counted(length: usize) -> Vec<u8> {
    let numbers = (0_u64..).flat_map(u64::to_be_bytes);
    numbers.take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways() {
    let world = world(HOUR, REVOKES, &[]).await;
    let large = counted(5_000_000);
    let echoed = world
        .server
        .proxy(Method::POST, "/echo")
        .header("content-type", "text/plain")
        .body(large.clone())
        .send()
        .await;
    assert!(echoed.body == large, "{} bytes", echoed.body.len());
    assert_eq!(echoed.headers["content-type"], "text/plain");
    let answer = world
        .server
        .proxy(Method::GET, "/bytes?n=7000000")
        .send()
        .await;
    assert_eq!(answer.body.len(), 7_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_on_an_expiring_token_is_one_refresh() {
    let world = world(Duration::from_secs(10), REVOKES, &[]).await;
    for answer in all_at_once(300, |_| world.server.proxy(Method::GET, "/invoices")).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let books = world.sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_granted,
            books.api_refused
        ),
        (1, 1, 0)
    );
    let metrics = world.server.metrics().await;
    for line in [
        "tokenward_refreshes_total{outcome=\"refreshed\"} 1",
        "tokenward_proxied_requests_total{status=\"2xx\"} 300",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_is_refreshed_once_and_the_request_repeated() {
    let world = world(HOUR, REVOKES, &[]).await;
    let grant = *world
        .sandbox
        .books()
        .grants
        .keys()
        .next()
        .unwrap_or(&tokenward_testkit::sandbox::GrantId(1));
    assert!(world.sandbox.expire_access_tokens(grant));
    let answers = all_at_once(100, |number| {
        if number % 2 == 0 {
            world
                .server
                .proxy(Method::POST, "/echo")
                .body(format!("body {number}"))
        } else {
            world.server.proxy(Method::GET, "/invoices")
        }
    })
    .await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, 200, "{answer:?}");
        if number % 2 == 0 {
            assert_eq!(answer.body, format!("body {number}"));
        }
    }
    assert_eq!(world.sandbox.books().total.refresh_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_to_repeat_says_so_and_the_next_try_works() {
    let world = world(HOUR, REVOKES, &["--replay-limit", "64"]).await;
    world
        .sandbox
        .expire_access_tokens(tokenward_testkit::sandbox::GrantId(1));
    let call = || {
        world
            .server
            .proxy(Method::POST, "/echo")
            .body(counted(1_000_000))
    };
    let refused = call().send().await;
    let detail = refused.error(503, "ConnectorExecutionError");
    assert!(
        detail
            .as_str()
            .unwrap()
            .contains("larger than the 65536 bytes"),
        "{detail}"
    );
    assert_eq!(refused.headers["retry-after"], "0");
    assert!(call().send().await.body == counted(1_000_000));
    assert_eq!(world.sandbox.books().total.refresh_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_that_no_refresh_cures_passes_through_without_a_loop() {
    let world = world(HOUR, REVOKES, &[]).await;
    for _ in 0..3 {
        let answer = world.server.proxy(Method::GET, "/always401").send().await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["x-apideck-downstream-error"], "true");
    }
    // One refresh on the first; then the token is too young to have expired.
    assert_eq!(world.sandbox.books().total.refresh_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_go_to_allowed_hosts_only() {
    let world = world(HOUR, REVOKES, &[]).await;
    let other = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let elsewhere = format!("{}/headers", other.api_url());
    let detail = world
        .server
        .proxy(Method::GET, &elsewhere)
        .send()
        .await
        .error(400, "RequestValidationError");
    assert!(
        detail.as_str().unwrap().contains("not an allowed host"),
        "{detail}"
    );
    // A redirect elsewhere is handed back, not followed; one that stays is followed on request.
    let redirect = format!("/redirect?to={elsewhere}");
    let answer = world
        .server
        .proxy(Method::GET, &redirect)
        .header("x-apideck-follow-redirects", "true")
        .send()
        .await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.headers["location"].to_str().unwrap()
        ),
        (302, elsewhere.as_str())
    );
    let inside = format!("/redirect?to={}/headers", world.sandbox.api_url());
    assert_eq!(
        world.server.proxy(Method::GET, &inside).send().await.status,
        302
    );
    let followed = world
        .server
        .proxy(Method::GET, &inside)
        .header("x-apideck-follow-redirects", "true")
        .send()
        .await;
    assert_eq!(
        (followed.status.as_u16(), followed.json()["path"].as_str()),
        (200, Some("/api/headers"))
    );
    let books = other.books().total;
    assert_eq!((books.api_accepted, books.api_refused), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_unless_allowed() {
    let world = world(HOUR, REVOKES, &[]).await;
    let tokens = world
        .sandbox
        .issue_expiring(&SandboxConfig::default().client_id, Duration::from_secs(5));
    // The same vault, but without permission for 127.0.0.0/8.
    let mut command = world.vault.command(&["token", "acme/sandbox", "--json"]);
    let plain: Vec<_> = command
        .get_args()
        .map(std::ffi::OsStr::to_owned)
        .filter(|arg| arg != "--allow-private" && arg != "127.0.0.0/8")
        .collect();
    world.vault.import("acme/sandbox", &tokens, HOUR);
    command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenward"));
    // The token lives still, so a failing refresh is not an outage.
    let output = command
        .args(&plain)
        .env("TOKENWARD_LOG", "warn")
        .output()
        .unwrap();
    let said = crate::harness::said(&output);
    assert!(
        output.status.success()
            && said.contains("private address")
            && said.contains("--allow-private"),
        "{said}"
    );
    assert_eq!(world.sandbox.books().total.refresh_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_api_are_retried_only_where_that_is_safe() {
    let world = world(HOUR, REVOKES, &[]).await;
    let get = world
        .server
        .proxy(Method::GET, "/flaky?key=get&fail=2&status=503")
        .send()
        .await;
    assert_eq!(get.status, 200);
    let post = world
        .server
        .proxy(Method::POST, "/flaky?key=post&fail=1&status=503")
        .send()
        .await;
    assert_eq!(post.status, 503);
    assert_eq!(post.headers["x-apideck-downstream-error"], "true");
    let keyed = world
        .server
        .proxy(Method::POST, "/flaky?key=keyed&fail=1&status=503")
        .header("idempotency-key", "k")
        .body("x")
        .send()
        .await;
    assert_eq!(keyed.status, 200);
    let throttled = world
        .server
        .proxy(
            Method::GET,
            "/flaky?key=slow&fail=1&status=429&retry_after=1",
        )
        .send()
        .await;
    assert_eq!(throttled.status, 200);
    let long = world
        .server
        .proxy(
            Method::GET,
            "/flaky?key=long&fail=1&status=429&retry_after=600",
        )
        .send()
        .await;
    assert_eq!(
        (
            long.status.as_u16(),
            long.headers["retry-after"].to_str().unwrap()
        ),
        (429, "600")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_and_unreachable_apis_are_clear_errors() {
    let world = world(HOUR, REVOKES, &[]).await;
    let slow = world
        .server
        .proxy(Method::GET, "/slow?ms=5000")
        .header("x-apideck-timeout", "200")
        .send()
        .await;
    slow.error(504, "ProxyTimedOutError");
    let gone = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let text = crate::harness::connector("gone", &gone, GRACE);
    world.vault.add_connector("gone", &text);
    world.vault.set_client("gone", "secret");
    let tokens = world.sandbox.issue(&SandboxConfig::default().client_id);
    world.vault.import("acme/gone", &tokens, HOUR);
    gone.shutdown().await;
    let server = world.vault.serve(&[]).await;
    let answer = server
        .call(Method::GET, "/proxy")
        .header("x-apideck-service-id", "gone")
        .header("x-apideck-downstream-url", "/x")
        .send()
        .await;
    let detail = answer.error(502, "ConnectorExecutionError");
    assert!(
        detail.as_str().unwrap().contains("cannot be reached"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_clear_errors() {
    let world = world(HOUR, REVOKES, &[]).await;
    let server = &world.server;
    let missing = |detail: serde_json::Value, name: &str| {
        assert!(detail.as_str().unwrap().contains(name), "{detail}");
    };
    server
        .bare(Method::GET, "/proxy")
        .send()
        .await
        .error(401, "UnauthorizedError");
    server
        .bare(Method::GET, "/proxy")
        .header("authorization", "Basic x")
        .send()
        .await
        .error(401, "UnauthorizedError");
    let wrong = server
        .bare(Method::GET, "/proxy")
        .header("authorization", "Bearer tw_wrong")
        .header("x-apideck-app-id", "app");
    wrong.send().await.error(401, "UnauthorizedError");
    let keyed = || {
        server
            .bare(Method::GET, "/proxy")
            .header("authorization", &format!("Bearer {}", server.key))
    };
    missing(
        keyed()
            .send()
            .await
            .error(400, "RequestHeadersValidationError"),
        "x-apideck-app-id",
    );
    keyed()
        .header("x-apideck-app-id", "other")
        .send()
        .await
        .error(401, "UnauthorizedError");
    missing(
        keyed()
            .header("x-apideck-app-id", "app")
            .header("x-apideck-downstream-url", "/x")
            .send()
            .await
            .error(400, "RequestHeadersValidationError"),
        "x-apideck-consumer-id",
    );
    let call = || server.call(Method::GET, "/proxy");
    missing(
        call()
            .send()
            .await
            .error(400, "RequestHeadersValidationError"),
        "x-apideck-downstream-url",
    );
    let url = || call().header("x-apideck-downstream-url", "/x");
    missing(
        url()
            .header("x-apideck-service-id", "")
            .send()
            .await
            .error(400, "RequestHeadersValidationError"),
        "x-apideck-service-id",
    );
    url()
        .header("x-apideck-service-id", "xero")
        .send()
        .await
        .error(404, "EntityNotFoundError");
    url()
        .header("x-apideck-service-id", "nonsense")
        .send()
        .await
        .error(404, "EntityNotFoundError");
    // The service id alone, and the unified API alone, are enough where they are unambiguous.
    assert_eq!(
        url()
            .header("x-apideck-service-id", "sandbox")
            .send()
            .await
            .status,
        200
    );
    assert_eq!(
        url()
            .header("x-apideck-unified-api", "accounting")
            .send()
            .await
            .status,
        200
    );
    server
        .bare(Method::GET, "/nowhere")
        .send()
        .await
        .error(404, "EntityNotFoundError");
}

#[tokio::test]
async fn a_herd_of_new_connections_finds_room() {
    let world = world(HOUR, REVOKES, &[]).await;
    let process = world.server.child.id().unwrap();
    let address = world.server.url.strip_prefix("http://").unwrap().to_owned();
    // While it accepts nothing, the system lets in as many as it was told to make room for.
    signal(process, Signal::STOP).unwrap();
    let herd = (0..1_000).map(|_| dial(&address));
    let herd = tokio::time::timeout(Duration::from_secs(20), try_join_all(herd)).await;
    signal(process, Signal::CONT).unwrap();
    assert_eq!(herd.expect("all are let in").unwrap().len(), 1_000);
    world.server.serves().await;
}
