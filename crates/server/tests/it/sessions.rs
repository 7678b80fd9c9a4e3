//! Customers' sessions: what they open, and what they do not.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};

use crate::harness::{
    APP, Answer, CONSUMER, Call, HOUR, REVOKES, Server, TestVault, import_text, provider,
};

const PLACE: &str = "/vault/connections/accounting/sandbox";

async fn world() -> (Sandbox, TestVault, Server) {
    let sandbox = provider(Duration::from_millis(10), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let server = vault.serve(&[]).await;
    (sandbox, vault, server)
}

async fn asked(server: &Server, body: &str) -> Answer {
    let call = server.call(Method::POST, "/vault/sessions");
    call.body(body.to_owned()).send().await
}

/// A session's token.
async fn session(server: &Server, body: &str) -> String {
    let answer = asked(server, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = answer.json()["data"].take();
    let token = data["session_token"].as_str().unwrap();
    assert_eq!(
        data["session_uri"],
        format!("{}/session/{token}", server.url)
    );
    token.to_owned()
}

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// As Apideck's component asks.
fn with(server: &Server, token: &str, method: Method, path: &str) -> Call {
    server
        .bare(method, path)
        .header("authorization", &format!("Bearer {token}"))
        .header("content-type", "application/json")
        .header("x-apideck-app-id", APP)
        .header("x-apideck-auth-type", "JWT")
        .header("x-apideck-consumer-id", CONSUMER)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_with_what_the_application_has_settled() {
    let (_sandbox, vault, server) = world().await;
    let plain = claims(&session(&server, "").await);
    assert_eq!(
        (&plain["application_id"], &plain["consumer_id"]),
        (&json!(APP), &json!(CONSUMER))
    );
    let length = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(length(&plain), 3600);
    // The component sends people to Apideck if nobody says where.
    assert_eq!(
        plain["redirect_uri"],
        format!("{}/vault/connected", server.url)
    );

    let url = "https://app.example.test/back?a=1";
    let other = "https://app.example.test/other";
    let body = json!({
        "consumer_metadata": { "user_name": "Kim", "email": null },
        "redirect_uri": url,
        "settings": { "unified_apis": ["crm"], "session_length": "30m", "allow_actions": ["disable"], "sandbox_mode": false },
        "theme": { "vault_name": "Acme", "logo": null, "privacy_url": "https://example.test/p" },
        "custom_consumer_settings": { "flag": true },
    });
    let full = claims(&session(&server, &body.to_string()).await);
    assert_eq!((length(&full), &full["redirect_uri"]), (1800, &json!(url)));
    assert_eq!(full["consumer_metadata"], json!({ "user_name": "Kim" }));
    assert_eq!(full["settings"]["allow_actions"], json!(["disable"]));
    let consumer = server
        .call(Method::GET, &format!("/vault/consumers/{CONSUMER}"))
        .send()
        .await;
    assert_eq!(
        consumer.json()["data"]["metadata"],
        json!({ "user_name": "Kim" })
    );

    for body in [
        "[]",
        "{",
        r#"{"settings":{"session_length":"8d"}}"#,
        r#"{"settings":{"session_length":60}}"#,
        r#"{"settings":{"allow_actions":"delete"}}"#,
        r#"{"redirect_uri":"javascript:alert(1)"}"#,
        r#"{"redirect_uri":"/back"}"#,
        &json!({ "theme": { "vault_name": "x".repeat(9000) } }).to_string(),
    ] {
        asked(&server, body)
            .await
            .error(400, "RequestValidationError");
    }

    let args = [
        "applications",
        "update",
        APP,
        "--redirect-url",
        url,
        "--redirect-url",
        other,
        "--default-redirect-url",
        url,
        "--vault-name",
        "The Shop",
        "--json",
    ];
    let settings = vault.json(&args)["settings"].take();
    assert_eq!(
        (&settings["redirect_urls"], &settings["theme"]["vault_name"]),
        (&json!([url, other]), &json!("The Shop"))
    );
    let settled = claims(&session(&server, "{}").await);
    assert_eq!(
        (&settled["redirect_uri"], &settled["theme"]["vault_name"]),
        (&json!(url), &json!("The Shop"))
    );
    session(&server, &json!({ "redirect_uri": url }).to_string()).await;
    for other in [
        "https://app.example.test/back",
        "https://evil.test/",
        "https://app.example.test/back?a=1&b",
    ] {
        let body = json!({ "redirect_uri": other }).to_string();
        let refused = asked(&server, &body).await;
        refused.error(400, "RequestValidationError");
        assert!(
            refused.json()["detail"]
                .as_str()
                .unwrap()
                .contains("registered")
        );
    }
    for (args, why) in [
        (vec!["--remove-redirect-url", url], "default redirect URL"),
        (
            vec!["--remove-redirect-url", "https://other.test/"],
            "not registered",
        ),
        (vec!["--redirect-url", "ftp://x"], "http"),
        (vec!["--primary-color", "red"], "hexadecimal"),
    ] {
        let all: Vec<_> = ["applications", "update", APP]
            .into_iter()
            .chain(args)
            .collect();
        let output = vault.run(&all);
        assert!(!output.status.success(), "{all:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(why),
            "{all:?}: {output:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_its_own_connections() {
    let (sandbox, _vault, server) = world().await;
    let token = session(&server, "").await;
    let list = with(&server, &token, Method::GET, "/vault/connections")
        .send()
        .await;
    assert_eq!(list.status, 200, "{list:?}");
    let entry = list.json()["data"][0].take();
    assert_eq!(
        (&entry["state"], &entry["enabled"], entry.get("created_at")),
        (&json!("available"), &json!(false), None)
    );

    let added = with(&server, &token, Method::PATCH, PLACE)
        .body(r#"{"enabled":true}"#)
        .send()
        .await;
    assert_eq!(added.json()["data"]["state"], "added");
    let minted = with(&server, &token, Method::POST, &format!("{PLACE}/token"))
        .send()
        .await;
    assert_eq!(minted.json()["data"]["state"], "callable");
    let got = with(&server, &token, Method::GET, PLACE).send().await;
    assert_eq!(got.json()["data"]["state"], "callable");
    // Headers need not repeat what the token says.
    let bare = server
        .bare(Method::GET, PLACE)
        .header("authorization", &format!("Bearer {token}"))
        .header("x-apideck-auth-type", "jwt");
    assert_eq!(bare.send().await.status, 200);
    let metadata =
        with(&server, &token, Method::PATCH, PLACE).body(r#"{"metadata":{"plan":"free"}}"#);
    metadata.send().await.error(403, "ForbiddenError");
    assert_eq!(
        with(&server, &token, Method::DELETE, PLACE)
            .send()
            .await
            .status,
        204
    );
    assert_eq!(sandbox.books().total.client_credentials, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_nothing_else() {
    let (sandbox, vault, server) = world().await;
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
    let import = import_text(&tokens, HOUR);
    let imported = server
        .call(Method::POST, &format!("{PLACE}/import"))
        .body(import.clone());
    assert_eq!(imported.send().await.status, 200);
    let token = session(&server, "").await;
    let refused = async |call: Call| {
        call.send().await.error(401, "UnauthorizedError");
    };

    // Neither what is the application's nor the gateway, with and without the header that names the kind.
    for (method, path) in [
        (Method::GET, "/vault/consumers"),
        (Method::POST, "/vault/consumers"),
        (Method::GET, "/vault/consumers/acme"),
        (Method::DELETE, "/vault/consumers/acme"),
        (Method::POST, "/vault/sessions"),
        (Method::GET, "/connector/connectors"),
        (Method::GET, "/connector/apis"),
        (Method::GET, "/connector/connectors/x/docs/y"),
        (Method::POST, "/webhook/w/x/y"),
        (Method::POST, "/vault/connections/accounting/sandbox/import"),
        (
            Method::POST,
            "/vault/connections/accounting/sandbox/validate",
        ),
        (Method::GET, "/proxy"),
    ] {
        refused(with(&server, &token, method.clone(), path).body(import.clone())).await;
        let as_key = server
            .bare(method, path)
            .header("authorization", &format!("Bearer {token}"))
            .header("x-apideck-app-id", APP)
            .header("x-apideck-consumer-id", CONSUMER)
            .header("x-apideck-service-id", "sandbox")
            .header("x-apideck-downstream-url", "/x");
        refused(as_key).await;
    }
    assert_eq!(sandbox.books().total.api_accepted, 0);

    // Nor another consumer's connections, or another application's.
    let named = |name: &str, value: &str| {
        server
            .bare(Method::GET, PLACE)
            .header("authorization", &format!("Bearer {token}"))
            .header("x-apideck-auth-type", "JWT")
            .header(name, value)
    };
    refused(named("x-apideck-consumer-id", "victim")).await;
    refused(named("x-apideck-app-id", "other")).await;
    named("x-apideck-consumer-id", CONSUMER)
        .header("x-apideck-consumer-id", "victim")
        .send()
        .await
        .error(400, "RequestHeadersValidationError");

    // Nor is anything else a session.
    let mut forged: Vec<String> = token.split('.').map(Into::into).collect();
    let mut other = claims(&token);
    other["consumer_id"] = "victim".into();
    forged[1] = URL_SAFE_NO_PAD.encode(other.to_string());
    for no in [
        "null",
        "",
        &vault.key,
        &forged.join("."),
        token.rsplit_once('.').unwrap().0,
    ] {
        refused(with(&server, no, Method::GET, PLACE)).await;
    }
    // Another vault's.
    let elsewhere = TestVault::new();
    let there = elsewhere.serve(&[]).await;
    let foreign = session(&there, "").await;
    refused(with(&server, &foreign, Method::GET, PLACE)).await;
    // It goes with its consumer.
    let gone = server
        .call(Method::DELETE, &format!("/vault/consumers/{CONSUMER}"))
        .send()
        .await;
    assert_eq!(gone.status, 200, "{gone:?}");
    refused(with(&server, &token, Method::PATCH, PLACE).body(r#"{"enabled":true}"#)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_as_narrow_as_it_was_made() {
    let (_sandbox, _vault, server) = world().await;
    let added = server
        .call(Method::PATCH, PLACE)
        .body(r#"{"enabled":true}"#)
        .send()
        .await;
    assert_eq!(added.status, 200);
    let body = r#"{"settings":{"allow_actions":[],"session_length":"5m"}}"#;
    let token = session(&server, body).await;
    with(&server, &token, Method::DELETE, PLACE)
        .send()
        .await
        .error(403, "ForbiddenError");
    let disable = with(&server, &token, Method::PATCH, PLACE).body(r#"{"enabled":false}"#);
    disable.send().await.error(403, "ForbiddenError");
    let got = with(&server, &token, Method::GET, PLACE).send().await;
    assert_eq!(got.json()["data"]["enabled"], true);

    let other = session(&server, r#"{"settings":{"unified_apis":["crm"]}}"#).await;
    let list = with(&server, &other, Method::GET, "/vault/connections")
        .send()
        .await;
    assert_eq!(list.json()["data"], json!([]));
    with(&server, &other, Method::GET, PLACE)
        .send()
        .await
        .error(404, "EntityNotFoundError");
}

/// A session is one on every replica, also after a restart and with keys that were changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_known_to_every_process_of_its_vault() {
    let (_sandbox, vault, server) = world().await;
    let token = session(&server, "").await;
    let second = vault.serve(&[]).await;
    assert_eq!(
        with(&second, &token, Method::GET, "/vault/connections")
            .send()
            .await
            .status,
        200
    );
    server.stop().await;
    let third = vault.serve(&[]).await;
    assert_eq!(
        with(&third, &token, Method::GET, "/vault/connections")
            .send()
            .await
            .status,
        200
    );
}

/// Scripts of other origins may call the vault's API, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn other_origins_may_ask_the_vault_only() {
    let (_sandbox, _vault, server) = world().await;
    let preflight = |path: &str| {
        server
            .bare(Method::OPTIONS, path)
            .header("origin", "https://app.example.test")
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "authorization,content-type,x-apideck-app-id,x-apideck-auth-type,x-apideck-consumer-id")
    };
    for path in ["/vault/connections", PLACE, "/vault/nonsense"] {
        let answer = preflight(path).send().await;
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        assert_eq!(answer.status, 204);
        assert_eq!(header("access-control-allow-origin"), "*");
        assert_eq!(header("access-control-max-age"), "600");
        let allowed = header("access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "x-apideck-app-id",
            "x-apideck-auth-type",
            "x-apideck-consumer-id",
        ] {
            assert!(allowed.split(", ").any(|it| it == name), "{name}");
        }
        let methods = header("access-control-allow-methods");
        assert!(
            ["GET", "POST", "PATCH", "DELETE"]
                .iter()
                .all(|it| methods.contains(it))
        );
        assert!(
            !answer
                .headers
                .contains_key("access-control-allow-credentials")
        );
    }
    let marked = |answer: &Answer| {
        let header = |name| {
            answer
                .headers
                .get(name)
                .map(|it| it.to_str().unwrap().to_owned())
        };
        (
            header("access-control-allow-origin"),
            header("access-control-expose-headers"),
        )
    };
    let both = (
        Some("*".to_owned()),
        Some("x-apideck-request-id".to_owned()),
    );
    let origin = |call: Call| call.header("origin", "https://app.example.test").send();
    let (token, list) = (session(&server, "").await, "/vault/connections");
    assert_eq!(
        marked(&origin(with(&server, &token, Method::GET, list)).await),
        both
    );
    for (path, status) in [(list, 401), ("/vault/nonsense", 404)] {
        let answer = origin(server.bare(Method::GET, path)).await;
        assert_eq!(
            (answer.status.as_u16(), marked(&answer)),
            (status, both.clone())
        );
    }
    for path in [
        "/proxy",
        "/connector/connectors",
        "/webhook/webhooks",
        "/nonsense",
    ] {
        assert_eq!(
            marked(&preflight(path).send().await),
            (None, None),
            "{path}"
        );
        assert_eq!(
            marked(&origin(server.call(Method::GET, path)).await),
            (None, None),
            "{path}"
        );
    }
}
