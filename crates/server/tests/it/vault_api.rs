//! The vault API, as Apideck's clients call it.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokenward_testkit::sandbox::{Fault, GrantId, Rotation, Sandbox, SandboxConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{
    Call, GRACE, HOUR, REVOKES, Server, TestVault, all_at_once, dial, import_text, provider,
};

const PLACE: &str = "/vault/connections/accounting/sandbox";

async fn world(policy: &str) -> (Sandbox, TestVault, Server) {
    let sandbox = provider(Duration::from_millis(100), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, policy);
    let server = vault.serve(&[]).await;
    (sandbox, vault, server)
}

async fn import(sandbox: &Sandbox, server: &Server, left: Duration) {
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, left);
    let answer = server
        .call(Method::POST, &format!("{PLACE}/import"))
        .body(import_text(&tokens, HOUR))
        .send()
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connections_life() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    let state = async || {
        let answer = server.call(Method::GET, PLACE).send().await;
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(
            (body["status_code"].as_u64(), body["status"].as_str()),
            (Some(200), Some("OK"))
        );
        let data = &body["data"];
        format!(
            "{} {} {}",
            data["state"].as_str().unwrap(),
            data["health"].as_str().unwrap(),
            data["id"].as_str().unwrap()
        )
    };
    assert_eq!(state().await, "available needs_auth accounting+sandbox");
    let added = server
        .call(Method::PATCH, PLACE)
        .body(r#"{"enabled":true,"metadata":{"plan":"team"}}"#)
        .send()
        .await;
    assert_eq!(
        (
            added.status.as_u16(),
            added.json()["data"]["state"].as_str()
        ),
        (200, Some("added"))
    );
    server
        .proxy(Method::GET, "/x")
        .send()
        .await
        .error(401, "UnauthorizedError");
    import(&sandbox, &server, HOUR).await;
    assert_eq!(state().await, "callable ok accounting+sandbox");
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);

    let list = server
        .call(Method::GET, "/vault/connections?configured=true")
        .send()
        .await
        .json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(list["data"][0]["metadata"]["plan"], "team");
    assert!(list["data"][0]["created_at"].is_number());
    let none = server
        .call(Method::GET, "/vault/connections?api=crm")
        .send()
        .await
        .json();
    assert_eq!(none["data"], json!([]));

    let off = server
        .call(Method::PATCH, PLACE)
        .body(r#"{"enabled":false,"metadata":{"plan":null,"seats":3}}"#)
        .send()
        .await;
    assert_eq!(off.json()["data"]["metadata"], json!({ "seats": 3 }));
    server
        .proxy(Method::GET, "/x")
        .send()
        .await
        .error(422, "InvalidStateError");
    server
        .call(Method::PATCH, PLACE)
        .body(r#"{"enabled":true}"#)
        .send()
        .await;

    assert_eq!(server.call(Method::DELETE, PLACE).send().await.status, 204);
    assert_eq!(state().await, "available needs_auth accounting+sandbox");
    server
        .proxy(Method::GET, "/x")
        .send()
        .await
        .error(404, "EntityNotFoundError");
    server
        .call(Method::DELETE, PLACE)
        .send()
        .await
        .error(404, "EntityNotFoundError");
    assert_eq!(sandbox.books().total.revocations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_forces_one_refresh_for_all_who_ask_at_once() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    import(&sandbox, &server, HOUR).await;
    let path = format!("{PLACE}/validate");
    for answer in all_at_once(50, |_| server.call(Method::POST, &path)).await {
        assert_eq!(
            answer.json()["data"],
            json!({ "id": "accounting+sandbox", "state": "callable" })
        );
    }
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    // The SDKs send nothing, or an empty object.
    assert_eq!(
        server
            .call(Method::POST, &path)
            .body("{}")
            .send()
            .await
            .status,
        200
    );
    assert_eq!(sandbox.books().total.refresh_requests, 2);
    server
        .call(Method::POST, &path)
        .body("{")
        .send()
        .await
        .error(400, "RequestValidationError");
    server
        .call(Method::POST, "/vault/connections/crm/sandbox/validate")
        .send()
        .await
        .error(400, "RequestValidationError");
    server
        .call(Method::POST, "/vault/connections/crm/nonsense/validate")
        .send()
        .await
        .error(404, "EntityNotFoundError");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_credentials_are_minted_and_minted_again() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    let path = format!("{PLACE}/token");
    let answer = server.call(Method::POST, &path).send().await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.json()["data"]["state"].as_str()
        ),
        (200, Some("callable"))
    );
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    assert_eq!(server.call(Method::POST, &path).send().await.status, 200);
    assert_eq!(sandbox.books().total.client_credentials, 1);
    server
        .call(Method::POST, &format!("{PLACE}/validate"))
        .send()
        .await;
    assert_eq!(sandbox.books().total.client_credentials, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_imports_lose_nothing_and_leak_nothing() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    import(&sandbox, &server, HOUR).await;
    let path = format!("{PLACE}/import");
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"credentials":{}}"#,
        r#"{"credentials":{"acces_token":"at-secret"}}"#,
        r#"{"credentials":{"access_token":["at-secret"]}}"#,
        r#"{"credentials":{"access_token":"at-secret\n"}}"#,
        r#"{"credentials":{"access_token":"at-secret","issued_at":"yesterday"}}"#,
        r#"{"credentials":{"access_token":"at-secret","expires_in":"soon"}}"#,
    ] {
        let answer = server.call(Method::POST, &path).body(body).send().await;
        let detail = answer.error(400, "RequestValidationError");
        assert!(!detail.to_string().contains("at-secret"), "{detail}");
    }
    let too_large = server
        .call(Method::POST, &path)
        .body(vec![b' '; (1 << 20) + 1])
        .send()
        .await;
    too_large.error(413, "RequestValidationError");
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_grant_is_401_and_the_provider_is_left_alone() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    import(&sandbox, &server, Duration::from_secs(1)).await;
    sandbox.expire_access_tokens(GrantId(1));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    sandbox.inject(Fault::InvalidGrant, 1);
    for _ in 0..20 {
        let detail = server
            .proxy(Method::GET, "/x")
            .send()
            .await
            .error(401, "UnauthorizedError");
        assert_eq!(detail["type"], "refresh_token_connector_error");
        assert!(
            detail["message"]
                .as_str()
                .unwrap()
                .contains("invalid_grant"),
            "{detail}"
        );
    }
    server
        .call(Method::POST, &format!("{PLACE}/validate"))
        .send()
        .await
        .error(401, "UnauthorizedError");
    assert_eq!(sandbox.books().total.token_requests, 1);
    let data = server.call(Method::GET, PLACE).send().await.json()["data"].clone();
    assert_eq!(
        (data["state"].as_str(), data["health"].as_str()),
        (Some("invalid"), Some("needs_auth"))
    );
    assert!(data["last_refresh_failed_at"].as_i64().unwrap() > 0);
    // A new import revives it.
    import(&sandbox, &server, HOUR).await;
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_provider_is_401_with_a_time_to_come_back_and_no_storm() {
    let (sandbox, vault, server) = world(GRACE).await;
    import(&sandbox, &server, Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    sandbox.set_fault(Some(Fault::TooManyRequests {
        retry_after: Some(Duration::from_secs(30)),
    }));
    for answer in all_at_once(50, |_| server.proxy(Method::GET, "/x")).await {
        let detail = answer.error(401, "UnauthorizedError");
        assert!(
            detail["debug"]["retry_after_ms"].as_i64().unwrap() > 0,
            "{detail}"
        );
        assert!(
            detail["debug"]["cooldown_remaining_ms"].as_i64().unwrap() > 20_000,
            "{detail}"
        );
    }
    assert_eq!(sandbox.books().total.token_requests, 1);
    let data = server.call(Method::GET, PLACE).send().await.json()["data"].clone();
    assert_eq!(
        (data["state"].as_str(), data["health"].as_str()),
        (Some("callable"), Some("pending_refresh"))
    );

    // Nobody listens there any more.
    let tokens = sandbox.issue_expiring(
        &SandboxConfig::default().client_id,
        Duration::from_millis(10),
    );
    sandbox.shutdown().await;
    let text = vault.path().join("connectors/sandbox.toml");
    std::fs::write(
        vault.path().join("connectors/other.toml"),
        std::fs::read_to_string(text)
            .unwrap()
            .replace("id = \"sandbox\"", "id = \"other\""),
    )
    .unwrap();
    vault.set_client("other", "secret");
    vault.import("acme/other", &tokens, HOUR);
    let second = vault.serve(&[]).await;
    let call = || {
        second
            .call(Method::GET, "/proxy")
            .header("x-apideck-service-id", "other")
            .header("x-apideck-downstream-url", "/x")
            // Not enough for a second try.
            .header("x-apideck-timeout", "400")
    };
    let detail = call().send().await.error(401, "UnauthorizedError");
    assert_eq!(detail["debug"]["code"], "not_sent");
    assert!(
        detail["message"]
            .as_str()
            .unwrap()
            .contains("cannot be reached"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods() {
    let (_sandbox, _vault, server) = world(REVOKES).await;
    server
        .bare(Method::GET, "/vault/nothing")
        .send()
        .await
        .error(404, "EntityNotFoundError");
    server
        .call(Method::PUT, PLACE)
        .send()
        .await
        .error(405, "RequestValidationError");
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_provider_holds_nothing_of_the_store() {
    let (sandbox, vault, server) = world(GRACE).await;
    import(&sandbox, &server, Duration::from_millis(10)).await;
    sandbox.inject(Fault::HangBeforeRotation, 1);
    let stuck = server.proxy(Method::GET, "/x").try_send();
    let (answer, ()) = tokio::join!(stuck, async {
        sandbox.when(|books| books.total.hanging == 1).await;
        // Other grants are imported, refreshed and deleted meanwhile.
        for number in 0..20 {
            let place = format!("consumer{number}/sandbox");
            let client = SandboxConfig::default().client_id;
            vault.import(
                &place,
                &sandbox.issue_expiring(&client, Duration::from_millis(10)),
                HOUR,
            );
            assert!(vault.run(&["token", &place]).status.success());
        }
        sandbox.release();
    });
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(sandbox.books().total.refreshes_granted, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_body_is_waited_for() {
    let (_sandbox, _vault, server) = world(REVOKES).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let place = |verb: &str| format!("{PLACE}{verb}");
    for (method, path) in [
        ("POST", place("/import")),
        ("POST", place("/token")),
        ("POST", place("/validate")),
        ("PATCH", place("")),
    ] {
        let mut stream = dial(address).await.unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_one_header_of_bounded_length_in_utf8_or_latin1() {
    let (_sandbox, _vault, server) = world(REVOKES).await;
    let named = |mut call: Call, consumers: &[&[u8]]| {
        call = call
            .header("authorization", &format!("Bearer {}", server.key))
            .header("x-apideck-app-id", "app");
        for consumer in consumers {
            call = call.header_bytes("x-apideck-consumer-id", consumer);
        }
        call.send()
    };
    let add = |consumers: &[&[u8]]| named(server.bare(Method::PATCH, PLACE), consumers);
    let proxied = |consumers: &[&[u8]]| {
        let call = server
            .bare(Method::GET, "/proxy")
            .header("x-apideck-service-id", "sandbox")
            .header("x-apideck-downstream-url", "/x");
        named(call, consumers)
    };
    let (utf8, latin1) = ("René".as_bytes(), b"Ren\xe9");
    let added = add(&[utf8]).await.json();
    let same = add(&[latin1]).await.json();
    assert_eq!(added["data"]["created_at"], same["data"]["created_at"]);
    assert_eq!(add(&[&[b'c'; 256]]).await.status, 200);
    for refused in [&[[b'c'; 257].as_slice()][..], &[b"a", b"b"], &[b"a", b"a"]] {
        for answer in [add(refused).await, proxied(refused).await] {
            answer.error(400, "RequestHeadersValidationError");
            assert_eq!(answer.headers["x-tokenward-remedy"], "request");
        }
    }
    for name in [utf8, latin1] {
        let answer = proxied(&[name]).await;
        // It exists, and is not authorized.
        answer.error(401, "UnauthorizedError");
        assert_eq!(answer.headers["x-tokenward-remedy"], "authorize");
    }
    let another = proxied(&["René\u{a0}".as_bytes()]).await;
    another.error(404, "EntityNotFoundError");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_as_apideck_shows_them() {
    let (sandbox, _vault, server) = world(REVOKES).await;
    let get = async |path: &str| server.call(Method::GET, path).send().await;
    let available = get(PLACE).await.json()["data"].clone();
    assert_eq!(available["enabled"], false);
    for absent in ["created_at", "updated_at"] {
        assert!(available.get(absent).is_none(), "{available}");
    }
    let list = async |query: &str| {
        let answer = get(&format!("/vault/connections{query}")).await.json();
        answer["data"].as_array().map(Vec::len).unwrap()
    };
    assert_eq!(
        (
            list("?configured=true").await,
            list("?configured=false").await
        ),
        (0, 1)
    );
    // What does not exist has no token, nor has what nobody has authorized.
    let other = "/vault/connections/accounting/xero";
    let token = || server.call(Method::POST, &format!("{other}/token")).send();
    token().await.error(404, "EntityNotFoundError");
    server.call(Method::PATCH, other).send().await;
    token().await.error(401, "UnauthorizedError");

    import(&sandbox, &server, HOUR).await;
    assert_eq!(
        (
            list("?configured=true").await,
            list("?configured=false").await
        ),
        (2, 0)
    );
    assert_eq!(
        (list("?api=&configured=").await, list("?api=crm").await),
        (2, 0)
    );
    let wrong = get("/vault/connections?configured=perhaps").await;
    let detail = wrong.error(400, "RequestValidationError");
    assert!(detail.to_string().contains("configured"), "{detail}");

    let patch =
        async |body: &'static str| server.call(Method::PATCH, PLACE).body(body).send().await;
    let set =
        patch(r#"{"settings":{"tenant":"t"},"metadata":{"company_id":"forged","plan":"team"}}"#)
            .await;
    let data = set.json()["data"].clone();
    assert_eq!(data["metadata"], json!({ "plan": "team" }));
    assert_eq!(data["form_fields"][0]["value"], "t");
    for lost in [
        r#"{"configuration":[{"resource":"leads"}]}"#,
        r#"{"custom_mappings":[{"id":"x"}]}"#,
        r#"{"consent_state":"denied"}"#,
    ] {
        patch(lost).await.error(400, "RequestValidationError");
    }
    let sent_back =
        patch(r#"{"configuration":[],"custom_mappings":[],"consent_state":"implicit"}"#).await;
    assert_eq!(sent_back.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_token_that_cannot_be_refreshed_is_callable() {
    let (sandbox, vault, server) = world(REVOKES).await;
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
    let text = json!({ "credentials": {
        "access_token": tokens.access_token,
        "issued_at": jiff::Timestamp::now().to_string(),
        "expires_in": 3600,
    }});
    vault.import_text("acme/sandbox", &text.to_string());
    let answer = server
        .call(Method::POST, &format!("{PLACE}/validate"))
        .send()
        .await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["data"]["state"]),
        (200, &json!("callable"))
    );
    assert_eq!(server.proxy(Method::GET, "/x").send().await.status, 200);
    assert_eq!(sandbox.books().total.token_requests, 0);
}
