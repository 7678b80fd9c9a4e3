//! What a key opens, the path form of the gateway, and whose an answer is.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};

use crate::{
    harness::{
        Answer, CONSUMER, Call, HOUR, REVOKES, Server, TestVault, all_at_once, import_text,
        provider, said,
    },
    played::{Played, both},
};

const CONNECTION: &str = "/vault/connections/accounting/sandbox";
const BELOW: &str = "/proxy/acme/accounting/sandbox";

async fn world(left: Duration, extra: &[&str]) -> (Sandbox, TestVault, Server) {
    let sandbox = provider(Duration::from_millis(50), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, left);
    vault.import_text(&format!("{CONSUMER}/sandbox"), &import_text(&tokens, left));
    let server = vault.serve(extra).await;
    (sandbox, vault, server)
}

fn key(vault: &TestVault, options: &[&str]) -> (String, String) {
    let made = vault.json(&[&["keys", "create", "--json"], options].concat());
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("api_key"))
}

impl Server {
    /// A call with another key.
    fn with(&self, key: &str, method: Method, path: &str) -> Call {
        self.bare(method, path)
            .header("authorization", &format!("Bearer {key}"))
            .header("x-apideck-app-id", "app")
            .header("x-apideck-consumer-id", CONSUMER)
    }

    fn proxy_with(&self, key: &str) -> Call {
        self.with(key, Method::GET, "/proxy")
            .header("x-apideck-service-id", "sandbox")
            .header("x-apideck-downstream-url", "/x")
    }

    /// A call as a provider's SDK makes it: the key stands where the token would.
    fn below(&self, method: Method, rest: &str) -> Call {
        self.bare(method, &format!("{BELOW}{rest}"))
            .header("authorization", &format!("Bearer {}", self.key))
    }
}

fn lacks(answer: &Answer, scope: &str) {
    let detail = answer.error(403, "ForbiddenError");
    assert!(detail.as_str().unwrap().contains("--scopes"), "{detail}");
    let message = format!("The API key lacks the scope `{scope}`");
    assert_eq!(answer.json()["message"], message);
    assert_eq!(answer.headers["x-tokenward-remedy"], "operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_the_doors_of_its_scopes_only() {
    let (_sandbox, vault, server) = world(HOUR, &[]).await;
    let (_, proxy) = key(&vault, &["--scopes", "proxy"]);
    let (_, of_vault) = key(&vault, &["--scopes", "vault"]);
    let (_, token) = key(&vault, &["--scopes", "token"]);
    let access_token = format!("{CONNECTION}/access-token");
    // By asking the store, and from memory; in the lane, and by the library (whose body comes in pieces).
    for _ in 0..3 {
        assert_eq!(server.proxy_with(&proxy).send().await.status, 200);
        lacks(&server.proxy_with(&of_vault).send().await, "proxy");
        lacks(&server.proxy_with(&token).send().await, "proxy");
        let below = |key: &str| {
            let call = server.bare(Method::GET, &format!("{BELOW}/x"));
            call.header("authorization", &format!("Bearer {key}"))
        };
        assert_eq!(below(&proxy).send().await.status, 200);
        lacks(&below(&token).send().await, "proxy");
        for (method, path) in [
            (Method::GET, "/vault/connections"),
            (Method::GET, CONNECTION),
            (Method::PATCH, CONNECTION),
            (Method::DELETE, CONNECTION),
            (Method::POST, "/vault/connections/accounting/sandbox/import"),
            (Method::POST, "/vault/connections/accounting/sandbox/token"),
            (
                Method::POST,
                "/vault/connections/accounting/sandbox/validate",
            ),
        ] {
            for other in [&proxy, &token] {
                let answer = server.with(other, method.clone(), path).send().await;
                lacks(&answer, "vault");
            }
        }
        let read = server.with(&of_vault, Method::GET, CONNECTION);
        assert_eq!(read.send().await.status, 200);
        for other in [&proxy, &of_vault, &server.key] {
            let answer = server.with(other, Method::GET, &access_token).send().await;
            lacks(&answer, "token");
        }
        let handed = server.with(&token, Method::GET, &access_token).send().await;
        assert_eq!(handed.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_told_so_and_a_used_one_is_seen() {
    let (_sandbox, vault, server) = world(HOUR, &[]).await;
    let (brief, text) = key(&vault, &["--expires-in", "2s", "--scopes", "proxy"]);
    let (idle, _) = key(&vault, &["--expires-in", "90d"]);
    let mut answer = server.proxy_with(&text).send().await;
    assert_eq!(answer.status, 200);
    while answer.status == 200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = server.proxy_with(&text).send().await;
    }
    let detail = answer.error(401, "UnauthorizedError");
    assert!(detail.as_str().unwrap().contains("has expired"), "{detail}");
    let listed = |id: &str| {
        let all = vault.json(&["keys", "list", "--json"]);
        let mut all = all.as_array().unwrap().iter();
        all.find(|key| key["id"] == id).unwrap().clone()
    };
    let mut seen = listed(&brief);
    while seen["last_used_at"].is_null() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen = listed(&brief);
    }
    assert_eq!(seen["scopes"], json!(["proxy"]));
    assert!(seen["last_used_at"].as_str() >= seen["created_at"].as_str());
    assert!(seen["expires_at"].is_string());
    assert_eq!(listed(&idle)["last_used_at"], json!(null));
    assert_eq!(listed(&idle)["scopes"], json!(["proxy", "vault"]));
    let table = said(&vault.run(&["keys", "list"]));
    assert!(
        table.contains("(expired)") && table.contains("never"),
        "{table}"
    );
    for wrong in [["--scopes", "all"], ["--expires-in", "soon"]] {
        let refused = vault.run(&[&["keys", "create"][..], &wrong].concat());
        assert!(!refused.status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_handed_out_fresh_and_kept_nowhere() {
    let brief = Duration::from_millis(10);
    let (sandbox, vault, server) = world(brief, &["--log", "trace"]).await;
    let (_, text) = key(&vault, &["--scopes", "token"]);
    let path = format!("{CONNECTION}/access-token");
    let answers = all_at_once(20, |_| server.with(&text, Method::GET, &path)).await;
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    let mut tokens: Vec<_> = answers
        .iter()
        .map(|answer| answer.json()["data"].clone())
        .collect();
    tokens.dedup();
    let [data] = tokens.as_slice() else {
        panic!("{} answers", tokens.len());
    };
    let token = data["access_token"].as_str().unwrap();
    assert_eq!(data["token_type"], "Bearer");
    assert!(
        data["expires_at"].as_str().unwrap().ends_with('Z'),
        "{data}"
    );
    for answer in &answers {
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-tokenward-origin"], "gateway");
    }
    // It is the one that the API takes.
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    assert!(!vault.log().contains(token), "the token is in the log");
    let unknown = "/vault/connections/accounting/other/access-token";
    server
        .with(&text, Method::GET, unknown)
        .send()
        .await
        .error(404, "EntityNotFoundError");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_names_the_connection_and_a_key_its_application() {
    for extra in [&[][..], &["--http", "library"]] {
        let (sandbox, _vault, server) = world(Duration::from_millis(10), extra).await;
        // Over an expiry, all at once; then without I/O.
        for answer in all_at_once(20, |_| server.below(Method::GET, "/x?y=1")).await {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.headers["x-tokenward-origin"], "provider");
        }
        assert_eq!(sandbox.books().total.refresh_requests, 1);
        let call = server.below(Method::POST, "/x%2Fy").body("{}").send().await;
        assert_eq!(call.status, 200);
        // The headers' way leads to the same.
        assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);

        server
            .below(Method::GET, "/a/%2e%2e/%2e%2e/x")
            .send()
            .await
            .error(400, "RequestValidationError");
        let other = "/proxy/nobody/accounting/sandbox/x";
        let stranger = server
            .bare(Method::GET, other)
            .header("authorization", &format!("Bearer {}", server.key));
        stranger.send().await.error(404, "EntityNotFoundError");
        server
            .bare(Method::GET, &format!("{BELOW}/x"))
            .send()
            .await
            .error(401, "UnauthorizedError");
        let wrong = server
            .bare(Method::GET, &format!("{BELOW}/x"))
            .header("authorization", "Bearer tw_wrong");
        let detail = wrong.send().await.error(401, "UnauthorizedError");
        assert_eq!(detail, "The API key is unknown");
        let twice = server
            .below(Method::GET, "/x")
            .header("x-apideck-consumer-id", CONSUMER);
        twice
            .send()
            .await
            .error(400, "RequestHeadersValidationError");
        let other = server
            .below(Method::GET, "/x")
            .header("x-apideck-app-id", "other");
        other.send().await.error(401, "UnauthorizedError");
        let same = server
            .below(Method::GET, "/x")
            .header("x-apideck-app-id", "app");
        assert_eq!(same.send().await.status, 200);
        let route = server
            .bare(Method::GET, "/proxy/acme/accounting")
            .send()
            .await;
        route.error(404, "EntityNotFoundError");
        let elsewhere = server
            .below(Method::GET, "/https://evil.example/x")
            .send()
            .await;
        elsewhere.error(400, "RequestValidationError");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_whose_it_is() {
    let (_sandbox, _vault, server) = world(HOUR, &[]).await;
    let origin = async |call: Call| {
        let answer = call.send().await;
        answer.headers["x-tokenward-origin"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(origin(server.proxy(Method::GET, "/x")).await, "provider");
    assert_eq!(
        origin(server.call(Method::GET, CONNECTION)).await,
        "gateway"
    );
    assert_eq!(
        origin(server.call(Method::PATCH, CONNECTION)).await,
        "gateway"
    );
    assert_eq!(
        origin(server.call(Method::GET, "/nowhere")).await,
        "gateway"
    );
    assert_eq!(
        origin(server.call(Method::PUT, CONNECTION)).await,
        "gateway"
    );
    assert_eq!(origin(server.bare(Method::GET, "/proxy")).await, "gateway");
    assert_eq!(
        origin(server.call(Method::DELETE, CONNECTION)).await,
        "gateway"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_arrives_in_the_bytes_in_which_it_came() {
    both(&[], "", async |played| {
        for rest in [
            "/x/%7Eb%2fc/./d..e//f;g=h?i=%2F&j=../k",
            "/",
            "?q",
            "/a:b@c,d",
        ] {
            for (method, body) in [("GET", ""), ("PUT", "{\"a\":1}")] {
                let mut call = played.call().await;
                call.send(below(&played, method, rest, body)).await;
                let mut api = played.accept().await;
                let request = api.request().await;
                let line = &request.first;
                let slash = if rest.starts_with('/') { "" } else { "/" };
                assert_eq!(*line, format!("{method} {slash}{rest} HTTP/1.1"));
                assert_eq!(request.header("accept"), "text/x");
                assert!(request.header("authorization").starts_with("Bearer "));
                assert!(!request.header("authorization").contains(&played.server.key));
                assert_eq!(request.body, body.as_bytes());
                // What an API says of itself is not what we say of it.
                let lines = "Connection: close\r\nX-Tokenward-Origin: gateway\r\n";
                api.send(format!(
                    "HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"
                ))
                .await;
                let answer = call.answer().await;
                assert_eq!(answer.header("x-tokenward-origin"), "provider");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_keep_an_sdk_on_the_gateway() {
    both(&[], "", async |played| {
        let host = played.server.url.strip_prefix("http://").unwrap();
        for scheme in ["http", "https"] {
            let here = format!("{scheme}://{host}{BELOW}");
            let base = &played.base;
            for (header, said, told) in [
                ("Location", format!("{base}/y?a=%2F#b"), format!("{here}/y?a=%2F#b")),
                ("Location", "/y".to_owned(), format!("{here}/y")),
                ("Location", "https://elsewhere.example/q".to_owned(), "https://elsewhere.example/q".to_owned()),
                ("Content-Location", "z".to_owned(), format!("{here}/x/z")),
                ("Link", format!("<{base}/x?page=2>; rel=\"next\", <https://elsewhere.example/>; rel=up"), format!("<{here}/x?page=2>; rel=\"next\", <https://elsewhere.example/>; rel=up")),
            ] {
                let mut call = played.call().await;
                let proto = format!("x-forwarded-proto: {scheme}\r\nhost: {host}");
                let text = below(&played, "GET", "/x/here", "").replace("Host: g", &proto);
                call.send(text).await;
                let mut api = played.accept().await;
                api.request().await;
                let status = if header == "Location" { "302 Found" } else { "200 OK" };
                api.send(format!("HTTP/1.1 {status}\r\nConnection: close\r\n{header}: {said}\r\nContent-Length: 0\r\n\r\n")).await;
                let answer = call.answer().await;
                assert_eq!(answer.header(&header.to_lowercase()), told);
            }
        }
        // By headers a link leads to the API itself.
        let mut call = played.call().await;
        call.send(played.get("/x", &[])).await;
        let mut api = played.accept().await;
        api.request().await;
        let link = format!("<{}/x?page=2>; rel=next", played.base);
        api.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nLink: {link}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(call.answer().await.header("link"), link);
    })
    .await;
}

/// A request in the path form.
fn below(played: &Played, method: &str, rest: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!(
        "{method} {BELOW}{rest} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\nAccept: text/x\r\n{length}\r\n{body}",
        played.server.key
    )
}
