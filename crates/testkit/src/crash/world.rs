//! The vault under test: a folder, its connections, and the command line that works on it.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::database::{CrashStore, Database};
use crate::sandbox::{GrantId, GrantRequest, IssuedTokens, Rotation, Sandbox, SandboxConfig};

/// The application of every connection.
pub(super) const APP: &str = "app";

/// The name of what prepares, mends and looks, and is not under test.
pub(super) const SETUP: &str = "setup";

/// A connector and the policy of its grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) id: &'static str,
    pub(super) rotation: Rotation,
    replay: &'static str,
}

const GRACE: Duration = Duration::from_secs(1800);

/// Every rotation with the replay policy that fits it.
pub(super) const KINDS: [Kind; 4] = [
    Kind {
        id: "revokes",
        rotation: Rotation::Revokes,
        replay: r#"rotation = "always"
replay = { policy = "revokes" }"#,
    },
    Kind {
        id: "grace",
        rotation: Rotation::Grace(GRACE),
        replay: r#"rotation = "always"
replay = { policy = "grace", seconds = 1800 }"#,
    },
    Kind {
        id: "refused",
        rotation: Rotation::Refused,
        replay: r#"rotation = "always"
replay = { policy = "refused" }"#,
    },
    Kind {
        id: "never",
        rotation: Rotation::Never,
        replay: r#"rotation = "never"
replay = { policy = "harmless" }"#,
    },
];

/// A grant of the vault, by its first connection, with another that shares it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) kind: Kind,
    pub(super) consumer: String,
    /// A second consumer whose connection uses the same grant.
    pub(super) sharer: Option<String>,
    pub(super) families: Mutex<Vec<GrantId>>,
    pub(super) deaths: Mutex<Vec<(GrantId, u64)>>,
}

impl Site {
    /// The connection, as the command line names it.
    pub(super) fn name(&self) -> String {
        format!("{}/accounting+{}", self.consumer, self.kind.id)
    }

    pub(super) fn newest_family(&self) -> GrantId {
        let families = lock(&self.families);
        *families.last().expect("imported at the start")
    }
}

/// The vault's folder and what is in it.
pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) sandbox: Sandbox,
    pub(super) sites: Vec<Site>,
    pub(super) api_key: String,
    program: PathBuf,
    environment: Vec<(String, String)>,
    access_ttl: Duration,
    wrong_policies: bool,
    pub(super) database: Option<Arc<Database>>,
}

impl World {
    /// Makes a vault with `grants` grants.
    pub(super) async fn new(
        program: &Path,
        environment: &[(String, String)],
        grants: usize,
        access_ttl: Duration,
        wrong_policies: bool,
        store: CrashStore,
    ) -> io::Result<Self> {
        let database = match store {
            CrashStore::Embedded => None,
            CrashStore::Postgres => Some(Arc::new(Database::start().await?)),
        };
        let sandbox = Sandbox::start(SandboxConfig {
            access_ttl,
            token_latency: Duration::from_millis(60),
            timeline_limit: 5_000_000,
            ..SandboxConfig::default()
        })
        .await?;
        let mut world = Self {
            folder: TempDir::with_prefix("tokenward-crash-")?,
            sandbox,
            sites: Vec::new(),
            api_key: String::new(),
            program: program.to_owned(),
            environment: environment.to_vec(),
            access_ttl,
            wrong_policies,
            database,
        };
        std::fs::create_dir(world.path().join("logs"))?;
        world.connectors(SETUP)?;
        let made = world
            .json(&["applications", "create", "App", "--id", APP, "--json"])
            .await?;
        world.api_key = made["api_key"].as_str().unwrap_or_default().to_owned();
        let SandboxConfig {
            client_id,
            client_secret,
            ..
        } = SandboxConfig::default();
        for kind in KINDS {
            let args = [
                "clients",
                "set",
                "--connector",
                kind.id,
                "--client-id",
                &client_id,
            ];
            let args = [&args[..], &["--client-secret-file", "-"]].concat();
            world.run(SETUP, &args, &client_secret).await?;
        }
        for number in 0..grants {
            let site = Site {
                kind: KINDS[number % KINDS.len()],
                consumer: format!("k{number}"),
                sharer: (number % 4 == 1).then(|| format!("k{number}s")),
                families: Mutex::default(),
                deaths: Mutex::default(),
            };
            world.authorize(&site).await?;
            if let Some(sharer) = &site.sharer {
                let name = format!("{sharer}/accounting+{}", site.kind.id);
                let args = ["connections", "link", &name, "--to", &site.name()];
                world.run(SETUP, &args, "").await?;
            }
            world.sites.push(site);
        }
        Ok(world)
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn log_file(&self, via: &str) -> PathBuf {
        self.path().join("logs").join(format!("{via}.log"))
    }

    fn connector_folder(&self, via: &str) -> PathBuf {
        self.path().join("via").join(via)
    }

    /// Writes connector files with which a process gives the provider its name.
    pub(super) fn connectors(&self, via: &str) -> io::Result<()> {
        let folder = self.connector_folder(via);
        std::fs::create_dir_all(&folder)?;
        for Kind { id, replay, .. } in KINDS {
            let harmless = "rotation = \"always\"\nreplay = { policy = \"harmless\" }";
            let replay = if self.wrong_policies {
                harmless
            } else {
                replay
            };
            let text = format!(
                r#"id = "{id}"
name = "Sandbox, {id}"
unified_apis = ["accounting"]
[authorization]
url = "{authorize}"
[token]
url = "{token}?via={via}"
client_auth = "client_secret_basic"
grant_types = ["authorization_code"]
[refresh]
{replay}
[api]
base_url = "{api}"
hosts = ["{base}"]
"#,
                authorize = self.sandbox.authorize_url(),
                token = self.sandbox.token_url(),
                api = self.sandbox.api_url(),
                base = self.sandbox.base_url(),
            );
            std::fs::write(folder.join(format!("{id}.toml")), text)?;
        }
        Ok(())
    }

    pub(super) fn forget_connectors(&self, via: &str) {
        // A folder that stays is removed with the vault's.
        let _ = std::fs::remove_dir_all(self.connector_folder(via));
    }

    /// The command line on this vault, under a name.
    pub(super) fn command(&self, via: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            // Who reads and writes HTTP/1.1 is for the tests to say.
            if name.to_string_lossy().starts_with("TOKENWARD_") && name != "TOKENWARD_HTTP" {
                command.env_remove(name);
            }
        }
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(self.database.iter().map(|database| {
                let steady = via == SETUP;
                let url = if steady {
                    &database.steady_url
                } else {
                    &database.url
                };
                ("TOKENWARD_STORE", url)
            }))
            .args(args)
            .arg("--data-dir")
            .arg(self.path())
            .arg("--connectors")
            .arg(self.connector_folder(via))
            .args(["--allow-private", "127.0.0.0/8"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, via: &str, args: &[&str], input: &str) -> io::Result<String> {
        // What is not under test does not meet a database that is being restarted.
        let _steady = match &self.database {
            Some(database) if via == SETUP => Some(database.steady().await),
            _ => None,
        };
        let mut child = self
            .command(via, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input has closed it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{args:?}: {}", said.trim())))
    }

    pub(super) async fn json(&self, args: &[&str]) -> io::Result<Value> {
        let said = self.run(SETUP, args, "").await?;
        serde_json::from_str(&said).map_err(|_| io::Error::other(format!("{args:?} said {said}")))
    }

    /// What the vault knows of a connection.
    pub(super) async fn show(&self, name: &str) -> io::Result<Value> {
        self.json(&["connections", "show", name, "--json"]).await
    }

    /// A new authorization at the provider, imported.
    pub(super) async fn authorize(&self, site: &Site) -> io::Result<()> {
        let request = GrantRequest {
            rotation: Some(site.kind.rotation),
            ..GrantRequest::default()
        };
        let issued = self.sandbox.issue_grant(&request);
        let tokens = issued.map_err(|error| io::Error::other(error.to_string()))?;
        lock(&site.families).push(tokens.grant_id);
        let name = site.name();
        self.run(
            SETUP,
            &["connections", "import", &name],
            &self.import(&tokens),
        )
        .await?;
        Ok(())
    }

    fn import(&self, tokens: &IssuedTokens) -> String {
        json!({ "credentials": {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "issued_at": wall_clock(),
            "expires_in": self.access_ttl.as_secs(),
        }})
        .to_string()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a person would write into an import"
)]
fn wall_clock() -> String {
    let now = std::time::SystemTime::now();
    let since = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = i64::try_from(since.as_millis()).unwrap_or_default();
    tokenward::time::StoreTime(millis).to_string()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
