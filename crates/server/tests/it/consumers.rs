//! Consumers and what can be listed, as Apideck's clients ask for them.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokenward_testkit::sandbox::{Rotation, SandboxConfig};

use crate::harness::{Answer, CONSUMER, HOUR, REVOKES, Server, TestVault, import_text, provider};

const PLACE: &str = "/vault/connections/accounting/sandbox";

async fn ask(server: &Server, method: Method, path: &str, body: &str) -> Answer {
    let call = server.call(method, path);
    if body.is_empty() {
        call.send().await
    } else {
        call.body(body.to_owned()).send().await
    }
}

async fn data(server: &Server, method: Method, path: &str, body: &str) -> Value {
    let answer = ask(server, method, path, body).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()["data"].take()
}

async fn listed(server: &Server, query: &str) -> (Vec<String>, Value) {
    let answer = ask(server, Method::GET, &format!("/vault/consumers{query}"), "").await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let body = answer.json();
    let entries = body["data"].as_array().unwrap().iter();
    let ids = entries.map(|it| it["consumer_id"].as_str().unwrap().to_owned());
    (ids.collect(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumers_life() {
    let sandbox = provider(Duration::from_millis(10), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let server = vault
        .serve(&["--public-url", "https://vault.example.test/base/"])
        .await;
    let own = format!("/vault/consumers/{CONSUMER}");
    ask(&server, Method::GET, &own, "")
        .await
        .error(404, "EntityNotFoundError");
    ask(&server, Method::PATCH, &own, "{}")
        .await
        .error(404, "EntityNotFoundError");

    // The first connection makes it.
    let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
    data(
        &server,
        Method::POST,
        &format!("{PLACE}/import"),
        &import_text(&tokens, HOUR),
    )
    .await;
    let consumer = data(&server, Method::GET, &own, "").await;
    assert_eq!(consumer["services"], json!(["sandbox"]));
    let connection = &consumer["connections"][0];
    assert_eq!(
        (
            &connection["id"],
            &connection["state"],
            &connection["consumer_id"]
        ),
        (
            &json!("accounting+sandbox"),
            &json!("callable"),
            &json!(CONSUMER)
        )
    );
    assert!(connection["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(connection["credentials_expire_at"], Value::Null);

    let body = format!(
        r#"{{"consumer_id":"{CONSUMER}","metadata":{{"email":"a@example.test","user_name":"Kim"}}}}"#
    );
    let made = data(&server, Method::POST, "/vault/consumers", &body).await;
    assert_eq!(
        (&made["created"], &made["metadata"]["user_name"]),
        (&consumer["created"], &json!("Kim"))
    );
    let changed = data(
        &server,
        Method::PATCH,
        &own,
        r#"{"metadata":{"user_name":null,"image":"x"}}"#,
    )
    .await;
    assert_eq!(
        changed["metadata"],
        json!({ "email": "a@example.test", "image": "x" })
    );

    let deleted = data(&server, Method::DELETE, &own, "").await;
    assert_eq!(deleted, json!({ "consumer_id": CONSUMER }));
    ask(&server, Method::DELETE, &own, "")
        .await
        .error(404, "EntityNotFoundError");
    server
        .proxy(Method::GET, "/x")
        .send()
        .await
        .error(404, "EntityNotFoundError");
    assert_eq!(
        data(&server, Method::GET, PLACE, "").await["state"],
        "available"
    );
    assert_eq!(sandbox.books().total.revocations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_listed_in_pages() {
    let vault = TestVault::new();
    let server = vault
        .serve(&["--public-url", "https://vault.example.test/base/"])
        .await;
    for number in 0..5 {
        let body = format!(r#"{{"consumer_id":"cust {number}/ü"}}"#);
        data(&server, Method::POST, "/vault/consumers", &body).await;
    }
    let (mut met, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let (ids, body) = listed(&server, &query).await;
        assert_eq!(body["meta"]["items_on_page"], ids.len());
        assert!(body["meta"]["cursors"]["current"].is_string());
        met.extend(ids);
        let Some(next) = body["meta"]["cursors"]["next"].as_str() else {
            assert_eq!(body["links"]["next"], Value::Null);
            break;
        };
        let link = body["links"]["next"].as_str().unwrap();
        assert_eq!(
            link,
            format!("https://vault.example.test/base/vault/consumers?cursor={next}&limit=2")
        );
        query = format!("?limit=2&cursor={next}");
    }
    let all: Vec<_> = (0..5).map(|number| format!("cust {number}/ü")).collect();
    assert_eq!(met, all);
    assert_eq!(
        listed(&server, "?filter%5Bconsumer_id%5D=cust%203").await.0,
        all[3..4]
    );
    assert_eq!(listed(&server, "?filter[search]=4%2F").await.0, all[4..]);
    assert_eq!(listed(&server, "?filter[search]=%25").await.0, [""; 0]);
    let one = data(
        &server,
        Method::GET,
        "/vault/consumers/cust%203%2F%C3%BC",
        "",
    )
    .await;
    assert_eq!(
        (&one["consumer_id"], &one["connections"]),
        (&json!(all[3]), &json!([]))
    );

    for (query, kind) in [
        ("?cursor=xyz", "InvalidCursorError"),
        ("?cursor=YXBpczo", "InvalidCursorError"),
        ("?limit=0", "RequestValidationError"),
        ("?limit=201", "RequestValidationError"),
        ("?filter[name]=x", "UnsupportedFiltersError"),
        ("?filter[search]=%00", "RequestValidationError"),
    ] {
        ask(
            &server,
            Method::GET,
            &format!("/vault/consumers{query}"),
            "",
        )
        .await
        .error(400, kind);
    }
    for body in [
        "{}",
        r#"{"consumer_id":""}"#,
        r#"{"consumer_id":7}"#,
        r#"{"consumer_id":" x"}"#,
        r#"{"consumer_id":"a\u0000"}"#,
        r#"{"consumer_id":"x","metadata":{"a":{}}}"#,
        r#"{"consumer_id":"x","metadata":[]}"#,
    ] {
        ask(&server, Method::POST, "/vault/consumers", body)
            .await
            .error(400, "RequestValidationError");
    }
    let long = format!(
        r#"{{"consumer_id":"x","metadata":{{"email":"{}"}}}}"#,
        "y".repeat(5000)
    );
    ask(&server, Method::POST, "/vault/consumers", &long)
        .await
        .error(400, "RequestValidationError");
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_and_apis_are_listed() {
    let sandbox = provider(Duration::from_millis(10), Rotation::Revokes).await;
    let vault = TestVault::with_sandbox(&sandbox, REVOKES);
    let server = vault.serve(&[]).await;
    let ids = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = ids(&data(&server, Method::GET, "/connector/connectors", "").await);
    assert!(
        ["salesforce", "sandbox", "xero"]
            .iter()
            .all(|id| all.contains(&(*id).to_owned())),
        "{all:?}"
    );
    let crm = data(
        &server,
        Method::GET,
        "/connector/connectors?filter[unified_api]=crm",
        "",
    )
    .await;
    assert!(
        ids(&crm).contains(&"salesforce".to_owned()) && !ids(&crm).contains(&"xero".to_owned())
    );
    let none = data(
        &server,
        Method::GET,
        "/connector/connectors?filter[status]=beta",
        "",
    )
    .await;
    assert_eq!(none, json!([]));
    let first = ask(&server, Method::GET, "/connector/connectors?limit=1", "")
        .await
        .json();
    let next = first["meta"]["cursors"]["next"].as_str().unwrap();
    let second = data(
        &server,
        Method::GET,
        &format!("/connector/connectors?limit=1&cursor={next}"),
        "",
    )
    .await;
    assert_eq!([ids(&first["data"]), ids(&second)].concat(), all[..2]);

    let xero = data(&server, Method::GET, "/connector/connectors/xero", "").await;
    assert_eq!(
        (&xero["auth_type"], &xero["unified_apis"][0]["id"]),
        (&json!("oauth2"), &json!("accounting"))
    );
    ask(&server, Method::GET, "/connector/connectors/nonsense", "")
        .await
        .error(404, "EntityNotFoundError");
    let apis = ids(&data(&server, Method::GET, "/connector/apis", "").await);
    assert!(
        ["accounting", "crm", "vault"]
            .iter()
            .all(|id| apis.contains(&(*id).to_owned())),
        "{apis:?}"
    );
    let vault_api = data(&server, Method::GET, "/connector/apis/vault", "").await;
    assert_eq!(vault_api["type"], "platform");
    ask(&server, Method::GET, "/connector/apis/nonsense", "")
        .await
        .error(404, "EntityNotFoundError");

    let icon = xero["icon_url"]
        .as_str()
        .unwrap()
        .strip_prefix(&server.url)
        .unwrap();
    let icon = server.bare(Method::GET, icon).send().await;
    assert_eq!(
        (
            icon.status.as_u16(),
            icon.headers["content-type"].to_str().unwrap()
        ),
        (200, "image/svg+xml")
    );
    server
        .bare(Method::GET, "/vault/icons/nonsense.svg")
        .send()
        .await
        .error(404, "EntityNotFoundError");

    for path in [
        "/vault/connections/crm/x/contacts/schema",
        "/vault/custom-mappings/crm/x/y",
        "/connector/connectors/xero/docs/a",
        "/vault/consumers/acme/stats",
        "/vault/connections/crm/x/consent",
        "/vault/connections/crm/x/contacts/config",
        "/vault/logs",
        "/webhook/webhooks",
        "/webhook/webhooks/1",
        "/webhook/logs",
        "/connector/apis/crm/resources/contacts/coverage",
    ] {
        ask(&server, Method::GET, path, "")
            .await
            .error(501, "MappingError");
        server
            .bare(Method::GET, path)
            .send()
            .await
            .error(401, "UnauthorizedError");
    }
    ask(&server, Method::PUT, "/vault/consumers", "")
        .await
        .error(405, "RequestValidationError");
    let large = "x".repeat((1 << 20) + 1);
    ask(&server, Method::POST, "/vault/consumers", &large)
        .await
        .error(413, "RequestValidationError");
}

/// A setting is a field of a form, which begins with its value.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_fields() {
    let sandbox = provider(Duration::from_millis(10), Rotation::Revokes).await;
    let vault = TestVault::new();
    let settings = "\n[settings.region]\nlabel = \"Region\"\noptions = [\"eu\", \"us\"]\ndefault = \"us\"\n\
                    [settings.live]\nlabel = \"Live\"\ntype = \"boolean\"\n";
    let text = crate::harness::connector("sandbox", &sandbox, REVOKES) + settings;
    vault.add_connector("sandbox", &text);
    vault.set_client("sandbox", &SandboxConfig::default().client_secret);
    let server = vault.serve(&[]).await;
    let field = |connection: &Value, id: &str| {
        let fields = connection["form_fields"].as_array().unwrap().iter();
        fields
            .clone()
            .find(|field| field["id"] == id)
            .cloned()
            .unwrap()
    };
    let before = data(&server, Method::GET, PLACE, "").await;
    assert_eq!(
        (&before["enabled"], before.get("created_at")),
        (&json!(false), None)
    );
    let region = field(&before, "region");
    assert_eq!(
        (&region["type"], &region["value"]),
        (&json!("select"), &json!("us"))
    );
    assert_eq!(
        region["options"][0],
        json!({ "label": "eu", "value": "eu", "option_type": "simple" })
    );
    assert_eq!(field(&before, "live")["value"], "");
    let after = data(
        &server,
        Method::PATCH,
        PLACE,
        r#"{"settings":{"region":"eu","live":true}}"#,
    )
    .await;
    assert_eq!(
        (
            &field(&after, "region")["value"],
            &field(&after, "live")["value"]
        ),
        (&json!("eu"), &json!("true"))
    );
}
