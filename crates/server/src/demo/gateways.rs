//! Real `tokenward serve` processes on one temporary vault.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use tempfile::TempDir;
use tokenward::{
    ApplicationId, ConnectionKey, ConnectorId, Secret, VaultConfig, observe::Blind, store::Scopes,
    vault::Import,
};
use tokenward_sandbox::{IssuedTokens, Sandbox, SandboxConfig};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::Mutex,
};

use super::load::{Client, Report};
use crate::{
    config::{egress::EgressOptions, open::VaultOptions, place::StoreOptions},
    front::caller::new_key,
    wall_clock,
};

const APPLICATION: &str = "demo";
const CONSUMER: &str = "demo-consumer";

/// Gateway processes, their vault and the key to it.
#[derive(Debug)]
pub(super) struct Gateways {
    urls: Vec<String>,
    key: Secret,
    api_url: String,
    children: Mutex<Vec<Child>>,
    _folder: TempDir,
}

impl Gateways {
    /// Makes a vault with the given tokens in it, and starts processes on it.
    pub(super) async fn start(
        sandbox: &Sandbox,
        tokens: &IssuedTokens,
        lifetime: Duration,
        left: Duration,
        processes: u32,
        postgres: Option<String>,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no temporary folder")?;
        let connectors = folder.path().join("connectors");
        std::fs::create_dir(&connectors)?;
        std::fs::write(connectors.join("sandbox.toml"), connector(sandbox))?;
        let options = VaultOptions {
            data_dir: Some(folder.path().to_owned()),
            connectors: Some(connectors.clone()),
            key_file: None,
            egress: EgressOptions {
                allow_private: vec!["127.0.0.0/8".parse()?],
                ..EgressOptions::default()
            },
            store: postgres
                .clone()
                .map_or_else(StoreOptions::default, StoreOptions::at),
        };
        let key = fill(&options, tokens, lifetime, left).await?;

        let mut urls = Vec::new();
        let mut children = Vec::new();
        for _ in 0..processes {
            let mut child = Command::new(
                std::env::current_exe().context("the path of this program is not known")?,
            )
            .args([
                "serve",
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--ops-listen",
                "off",
                "--log",
                "error",
                "--allow-private",
                "127.0.0.0/8",
            ])
            .arg("--data-dir")
            .arg(folder.path())
            .arg("--connectors")
            .arg(&connectors)
            // Not an argument, which everybody on the machine can read.
            .env("TOKENWARD_STORE", postgres.as_deref().unwrap_or("sqlite"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a gateway process cannot start")?;
            let output = child
                .stdout
                .take()
                .context("a gateway process has no output")?;
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).await?;
            let Some(url) = serde_json::from_str::<Value>(&line)
                .ok()
                .and_then(|said| said["listening"].as_str().map(str::to_owned))
            else {
                bail!("a gateway process did not start; see its message above");
            };
            urls.push(url);
            children.push(child);
        }
        Ok(Self {
            urls,
            key,
            api_url: sandbox.api_url(),
            children: Mutex::new(children),
            _folder: folder,
        })
    }

    /// One request through one of the gateways.
    pub(super) async fn request(self: &Arc<Self>, client: &Client, number: usize) -> Report {
        let request = Request::get(format!("{}/proxy", self.urls[number % self.urls.len()]))
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.key.expose()),
            )
            .header("x-apideck-app-id", APPLICATION)
            .header("x-apideck-consumer-id", CONSUMER)
            .header("x-apideck-unified-api", "accounting")
            .header("x-apideck-service-id", "sandbox")
            .header(
                "x-apideck-downstream-url",
                format!("{}/invoices", self.api_url),
            )
            .body(Full::<Bytes>::default());
        let answer = match request {
            Ok(request) => client.send(request).await,
            Err(_) => None,
        };
        Report {
            ok: answer.is_some_and(|(status, _)| status == StatusCode::OK),
            refreshed: None,
        }
    }

    pub(super) async fn stop(&self) {
        for child in self.children.lock().await.iter_mut() {
            let _ = child.kill().await;
        }
    }
}

/// An application, its OAuth client and its connection. Returns the API key.
async fn fill(
    options: &VaultOptions,
    tokens: &IssuedTokens,
    lifetime: Duration,
    left: Duration,
) -> anyhow::Result<Secret> {
    let vault = options
        .open(VaultConfig::default(), Arc::new(Blind))
        .await?
        .vault;
    let application = ApplicationId::from(APPLICATION);
    vault.store().add_application(&application, "Demo").await?;
    let (key, kept) = new_key(&application, Scopes::default(), None);
    vault.store().add_key(kept).await?;
    let config = SandboxConfig::default();
    let connector = ConnectorId::from("sandbox");
    let secret = Secret::new(config.client_secret);
    vault
        .set_client(
            &application,
            &connector,
            &config.client_id,
            Some(&secret),
            Default::default(),
            Vec::new(),
        )
        .await?;
    let place = ConnectionKey::new(application, CONSUMER, "accounting", connector);
    let import = Import {
        access_token: Some(Secret::new(tokens.access_token.as_str())),
        refresh_token: Some(Secret::new(tokens.refresh_token.as_str())),
        issued_at_ms: Some((wall_clock() - (lifetime - left)).0),
        expires_in: Some(lifetime),
        ..Import::default()
    };
    vault.import(&place, import).await?;
    Ok(key)
}

/// The sandbox as a connector: strict rotation, reuse revokes.
fn connector(sandbox: &Sandbox) -> String {
    format!(
        r#"id = "sandbox"
name = "Sandbox"
unified_apis = ["accounting"]
[authorization]
url = "{}"
[token]
url = "{}"
client_auth = "client_secret_basic"
[refresh]
rotation = "always"
replay = {{ policy = "revokes" }}
[api]
base_url = "{}"
hosts = ["{}"]
"#,
        sandbox.authorize_url(),
        sandbox.token_url(),
        sandbox.api_url(),
        sandbox.base_url()
    )
}
