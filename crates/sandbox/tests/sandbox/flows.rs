//! Authorization, client authentication, revocation, introspection.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{Request, StatusCode, header};
use tokenward_sandbox::{Rotation, Sandbox, SandboxConfig};
use url::Url;

use crate::client::{
    ID, SECRET, api, as_client, form, get, post, refreshed, refused, send, start, with_grant,
};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CALLBACK: &str = "http://127.0.0.1:1/callback?keep=1";

fn challenge() -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
    URL_SAFE_NO_PAD.encode(hash)
}

async fn authorize(sandbox: &Sandbox, fields: &[(&str, &str)]) -> (StatusCode, Option<Url>) {
    let url = format!("{}?{}", sandbox.authorize_url(), form(fields));
    let answer = get(&url, None).await;
    let target = answer.headers.get(header::LOCATION);
    let target = target.map(|target| Url::parse(target.to_str().unwrap()).unwrap());
    (answer.status, target)
}

fn query(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    Some(pairs.find(|(key, _)| key == name)?.1.into_owned())
}

async fn code(sandbox: &Sandbox) -> String {
    let challenge = challenge();
    let fields = [
        ("response_type", "code"),
        ("client_id", ID),
        ("redirect_uri", CALLBACK),
        ("scope", "read write"),
        ("state", "st&te"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let (status, target) = authorize(sandbox, &fields).await;
    assert_eq!(status, StatusCode::FOUND);
    let target = target.unwrap();
    assert_eq!(query(&target, "state").unwrap(), "st&te");
    assert_eq!(query(&target, "keep").unwrap(), "1");
    query(&target, "code").unwrap()
}

fn exchange<'a>(code: &'a str, verifier: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", verifier),
    ]
}

#[tokio::test]
async fn a_code_is_exchanged_once() {
    let sandbox = start(SandboxConfig::default()).await;
    let code = code(&sandbox).await;
    let answer = as_client(&sandbox.token_url(), &exchange(&code, VERIFIER)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
    assert_eq!(answer.text("scope"), "read write");
    let token = answer.text("access_token");
    assert_eq!(api(&sandbox, &token).await, StatusCode::OK);
    assert_eq!(sandbox.grant_of(&code), sandbox.grant_of(&token));

    let again = as_client(&sandbox.token_url(), &exchange(&code, VERIFIER)).await;
    assert_eq!(again.unwrap().text("error"), "invalid_grant");
    assert_eq!(api(&sandbox, &token).await, StatusCode::UNAUTHORIZED);
    let total = sandbox.books().total;
    assert_eq!((total.code_exchanges, total.family_revocations), (1, 1));
    assert_eq!((total.other_refusals, total.refreshes_refused), (1, 0));
}

#[tokio::test]
async fn pkce_is_verified() {
    let sandbox = start(SandboxConfig::default()).await;
    let code = code(&sandbox).await;
    let wrong = as_client(&sandbox.token_url(), &exchange(&code, "wrong")).await;
    assert_eq!(wrong.unwrap().text("error"), "invalid_grant");
    let missing = &exchange(&code, VERIFIER)[..3];
    let missing = as_client(&sandbox.token_url(), missing).await;
    assert_eq!(missing.unwrap().text("error"), "invalid_grant");
    let right = as_client(&sandbox.token_url(), &exchange(&code, VERIFIER)).await;
    assert_eq!(right.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn authorize_sends_nobody_astray() {
    let registered = SandboxConfig {
        redirect_uris: vec![CALLBACK.into()],
        ..SandboxConfig::default()
    };
    let sandbox = start(registered).await;
    let client = ("client_id", ID);
    for fields in [
        [("client_id", "nobody"), ("redirect_uri", CALLBACK)],
        [client, ("redirect_uri", "https://elsewhere.example/")],
        [client, ("redirect_uri", "javascript:alert(1)")],
        [client, ("state", "no redirect_uri")],
    ] {
        let (status, target) = authorize(&sandbox, &fields).await;
        assert_eq!((status, target), (StatusCode::BAD_REQUEST, None));
    }

    let known = [client, ("redirect_uri", CALLBACK), ("state", "s")];
    for (more, error) in [
        (
            vec![("response_type", "token")],
            "unsupported_response_type",
        ),
        (vec![("response_type", "code")], "invalid_request"),
        (
            vec![
                ("response_type", "code"),
                ("code_challenge", VERIFIER),
                ("code_challenge_method", "plain"),
            ],
            "invalid_request",
        ),
    ] {
        let fields = [&known[..], &more].concat();
        let (status, target) = authorize(&sandbox, &fields).await;
        assert_eq!(status, StatusCode::FOUND);
        let target = target.unwrap();
        assert_eq!(query(&target, "error").unwrap(), error);
        assert_eq!(query(&target, "state").unwrap(), "s");
        assert_eq!(query(&target, "code"), None);
    }
}

#[tokio::test]
async fn clients_authenticate_by_basic_or_body() {
    let sandbox = start(SandboxConfig::default()).await;
    sandbox.add_client("an id", "p:ä+%");
    let basic = |pair: &str| {
        Request::post(sandbox.token_url())
            .header(header::HOST, "sandbox")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(
                header::AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(pair)),
            )
            .body("grant_type=client_credentials".to_owned())
            .unwrap()
    };
    let encoded = send(basic("an+id:p%3A%C3%A4%2B%25")).await.unwrap();
    assert_eq!(encoded.status, StatusCode::OK);
    assert_eq!(encoded.json().get("refresh_token"), None);
    for wrong in ["an id:p:ä+%", "an+id:no", "nobody:p"] {
        let answer = send(basic(wrong)).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
        assert_eq!(answer.text("error"), "invalid_client");
    }

    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", "an id"),
        ("client_secret", "p:ä+%"),
    ];
    let body = post(&sandbox.token_url(), &fields).await.unwrap();
    assert_eq!(body.status, StatusCode::OK);
    // Both tokens belong to the one grant of the client.
    let grant = sandbox.grant_of(&body.text("access_token"));
    assert_eq!(grant, sandbox.grant_of(&encoded.text("access_token")));
    assert_eq!(sandbox.books().grant(grant.unwrap()).client_credentials, 2);
    assert_eq!(sandbox.books().total.other_refusals, 3);
}

#[tokio::test]
async fn a_refresh_token_is_good_for_its_client_only() {
    let (sandbox, issued) = with_grant(SandboxConfig::default()).await;
    sandbox.add_client("other", "secret");
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", issued.refresh_token.as_str()),
        ("client_id", "other"),
        ("client_secret", "secret"),
    ];
    let answer = post(&sandbox.token_url(), &fields).await.unwrap();
    assert_eq!(answer.text("error"), "invalid_grant");
    refreshed(&sandbox, &issued.refresh_token).await;
}

#[tokio::test]
async fn bad_requests_are_told() {
    let sandbox = start(SandboxConfig::default()).await;
    let url = sandbox.token_url();
    for (fields, error) in [
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (vec![("grant_type", "refresh_token")], "invalid_request"),
        (
            vec![("grant_type", "refresh_token"), ("grant_type", "x")],
            "invalid_request",
        ),
    ] {
        let answer = as_client(&url, &fields).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.text("error"), error);
    }
    refused(&sandbox, "sbx_rt_unknown").await;
    assert_eq!(sandbox.books().total.token_requests, 4);
}

#[tokio::test]
async fn revocation_and_introspection() {
    let config = SandboxConfig {
        rotation: Rotation::Refused,
        ..SandboxConfig::default()
    };
    let (sandbox, issued) = with_grant(config).await;
    let introspect = async |token: &str| {
        let answer = as_client(&sandbox.introspect_url(), &[("token", token)]).await;
        answer.unwrap().json()
    };
    let revoke = async |token: &str| {
        let answer = as_client(&sandbox.revoke_url(), &[("token", token)]).await;
        answer.unwrap().status
    };
    let found = introspect(&issued.access_token).await;
    assert_eq!(found["active"], true);
    assert_eq!(found["client_id"], ID);
    assert!(found["exp"].as_u64().unwrap() > 1_700_000_000);

    assert_eq!(revoke(&issued.access_token).await, StatusCode::OK);
    assert_eq!(introspect(&issued.access_token).await["active"], false);
    assert_eq!(introspect(&issued.refresh_token).await["active"], true);
    let next = refreshed(&sandbox, &issued.refresh_token).await;
    assert_eq!(introspect(&issued.refresh_token).await["active"], false);

    assert_eq!(revoke(&next.text("refresh_token")).await, StatusCode::OK);
    refused(&sandbox, &next.text("refresh_token")).await;
    let dead = api(&sandbox, &next.text("access_token")).await;
    assert_eq!(dead, StatusCode::UNAUTHORIZED);
    assert_eq!(revoke("unknown").await, StatusCode::OK);

    let anonymous = post(&sandbox.introspect_url(), &[("token", "x")]).await;
    assert_eq!(anonymous.unwrap().status, StatusCode::UNAUTHORIZED);
    let books = sandbox.books();
    let counts = books.grant(issued.grant_id);
    assert_eq!((counts.revocations, counts.introspections), (2, 4));
    assert_eq!(books.total.revocations, 3);
}

#[tokio::test]
async fn every_secret_is_known_and_none_is_shown() {
    let (sandbox, issued) = with_grant(SandboxConfig::default()).await;
    let code = code(&sandbox).await;
    let answer = as_client(&sandbox.token_url(), &exchange(&code, VERIFIER)).await;
    let answer = answer.unwrap();
    let secrets = sandbox.issued_secrets();
    for secret in [
        &issued.access_token,
        &issued.refresh_token,
        &answer.text("access_token"),
        &answer.text("refresh_token"),
        &code,
        VERIFIER,
        SECRET,
    ] {
        assert!(secrets.iter().any(|known| known == secret));
    }
    let shown = format!(
        "{:?} {sandbox:?} {issued:?} {:?} {:?}",
        SandboxConfig::default(),
        sandbox.books(),
        sandbox.timeline(),
    );
    assert!(secrets.iter().all(|secret| !shown.contains(secret)));
}
