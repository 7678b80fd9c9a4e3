//! A vault in a temporary folder, servers on it, and a client for them.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenward_testkit::{
    Signal,
    postgres::{PostgresCluster, Proxy},
    sandbox::{IssuedTokens, Rotation, Sandbox, SandboxConfig},
    signal,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

/// Who reads and writes HTTP/1.1 in tests that do not say; see `CONTRIBUTING.md`.
const HTTP: &str = "TOKENWARD_HTTP";

/// Whether that is the library.
pub(crate) fn by_library() -> bool {
    std::env::var_os(HTTP).is_some_and(|http| http == "library")
}

pub(crate) const CONSUMER: &str = "acme";
pub(crate) const APP: &str = "app";

/// A vault with an application, and a log file for everything that its processes print.
pub(crate) struct TestVault {
    pub(crate) folder: TempDir,
    pub(crate) key: String,
    /// Where its rows lie; `None`: in the folder.
    pub(crate) database: Option<Database>,
}

pub(crate) const DATABASE_PASSWORD: &str = "correct-horse-battery";

/// A private PostgreSQL behind a wire that can be cut.
pub(crate) struct Database {
    cluster: Mutex<PostgresCluster>,
    pub(crate) proxy: Proxy,
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn start() -> Self {
        // The machine does not fail in a test: no need to wait for its disk.
        let cluster = PostgresCluster::start_with(&["fsync=off"], None).unwrap();
        let proxy = Proxy::start(&cluster.socket()).await.unwrap();
        Self {
            url: url_at(&cluster, &proxy),
            cluster: Mutex::new(cluster),
            proxy,
        }
    }

    /// Another wire to it, for a replica that is to be cut off alone, and the URL at its end.
    pub(crate) async fn wire(&self) -> (Proxy, String) {
        let socket = self.cluster.lock().unwrap().socket();
        let proxy = Proxy::start(&socket).await.unwrap();
        let url = url_at(&self.cluster.lock().unwrap(), &proxy);
        (proxy, url)
    }

    /// Ends the server without a word to anybody, and starts it again.
    pub(crate) fn crash(&self) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster.kill().unwrap();
        cluster.resume().unwrap();
    }

    /// Locks a table against everybody, until the process that is returned ends.
    pub(crate) fn hold(&self, table: &str) -> std::process::Child {
        let sql = format!(
            "BEGIN; LOCK TABLE tokenward.{table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"
        );
        let holder = self.cluster.lock().unwrap().session("vault", &sql).unwrap();
        let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'tokenward.";
        while self.sql(&format!("{held}{table}'::regclass")) == "0" {
            std::thread::sleep(Duration::from_millis(20));
        }
        holder
    }

    /// Ends sessions that hold a table and whose processes are gone.
    pub(crate) fn release(&self) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()");
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster.lock().unwrap().sql("vault", sql).unwrap()
    }
}

/// The server trusts everybody; the password is there to be looked for in the logs.
fn url_at(cluster: &PostgresCluster, proxy: &Proxy) -> String {
    let with_password = format!("tokenward:{DATABASE_PASSWORD}@");
    let url = cluster.url_at(proxy.address());
    url.replace("tokenward@", &with_password)
}

impl TestVault {
    /// An empty vault with one application.
    pub(crate) fn new() -> Self {
        Self::made(None)
    }

    /// The same, with its rows in a PostgreSQL of its own.
    pub(crate) async fn on_postgres() -> Self {
        Self::made(Some(Database::start().await))
    }

    fn made(database: Option<Database>) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("connectors")).unwrap();
        let mut vault = Self {
            folder,
            key: String::new(),
            database,
        };
        let made = vault.json(&["applications", "create", "App", "--id", APP, "--json"]);
        vault.key = made["api_key"].as_str().unwrap().to_owned();
        vault
    }

    /// A vault with the sandbox as connector `sandbox`, and a client for it.
    pub(crate) fn with_sandbox(sandbox: &Sandbox, policy: &str) -> Self {
        Self::new().connected_to(sandbox, policy)
    }

    /// Adds the sandbox as connector `sandbox`, and a client for it.
    pub(crate) fn connected_to(self, sandbox: &Sandbox, policy: &str) -> Self {
        let vault = self;
        vault.add_connector("sandbox", &connector("sandbox", sandbox, policy));
        vault.set_client("sandbox", &SandboxConfig::default().client_secret);
        vault
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.path().join("log.txt")
    }

    /// Everything that servers have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn add_connector(&self, id: &str, text: &str) {
        std::fs::write(self.path().join(format!("connectors/{id}.toml")), text).unwrap();
    }

    pub(crate) fn set_client(&self, connector: &str, secret: &str) {
        let id = SandboxConfig::default().client_id;
        let args = [
            "clients",
            "set",
            "--connector",
            connector,
            "--client-id",
            &id,
            "--client-secret-file",
            "-",
        ];
        let output = self.run_with(&args, secret);
        assert!(output.status.success(), "{}", said(&output));
    }

    pub(crate) fn import(&self, place: &str, tokens: &IssuedTokens, lifetime: Duration) {
        self.import_text(place, &import_text(tokens, lifetime));
    }

    pub(crate) fn import_text(&self, place: &str, text: &str) {
        let output = self.run_with(&["connections", "import", place], text);
        assert!(output.status.success(), "{}", said(&output));
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TOKENWARD_"))
        {
            // Who reads and writes HTTP/1.1: where a test does not say, both must do.
            if name != HTTP {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .arg("--data-dir")
            .arg(self.path())
            .arg("--allow-private")
            .arg("127.0.0.0/8");
        if let Some(database) = &self.database {
            command.env("TOKENWARD_STORE", &database.url);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input has closed it: no concern of ours.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a server on this vault; more than one may run.
    pub(crate) async fn serve(&self, extra: &[&str]) -> Server {
        self.started(self.serve_command(extra)).await
    }

    pub(crate) fn serve_command(&self, extra: &[&str]) -> Command {
        let mut args = vec!["serve", "--json", "--listen", "127.0.0.1:0"];
        args.extend(["--ops-listen", "127.0.0.1:0"]);
        if !extra.contains(&"--log") {
            args.extend(["--log", "tokenward=debug"]);
        }
        args.extend(extra);
        self.command(&args)
    }

    /// Waits until a server listens.
    pub(crate) async fn started(&self, command: Command) -> Server {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .await
            .unwrap();
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("no start: {}", self.log()));
        let url = said["listening"].as_str().unwrap().to_owned();
        let ops = said["ops"].as_str().unwrap().to_owned();
        Server {
            child,
            url,
            ops,
            key: self.key.clone(),
            client: client(),
        }
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An import whose access token has `tokens.expires_in` of `lifetime` left.
pub(crate) fn import_text(tokens: &IssuedTokens, lifetime: Duration) -> String {
    let issued = jiff::Timestamp::now() - (lifetime - tokens.expires_in);
    json!({ "credentials": {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "issued_at": issued.to_string(),
        "expires_in": lifetime.as_secs(),
    }})
    .to_string()
}

/// A provider whose access tokens live for an hour, and which takes so long over each refresh.
pub(crate) async fn provider(latency: Duration, rotation: Rotation) -> Sandbox {
    let config = SandboxConfig {
        access_ttl: HOUR,
        token_latency: latency,
        rotation,
        ..SandboxConfig::default()
    };
    Sandbox::start(config).await.unwrap()
}

/// A vault whose only token, that of `acme/sandbox`, has run out.
pub(crate) async fn expired(
    latency: Duration,
    rotation: Rotation,
    policy: &str,
) -> (Sandbox, TestVault) {
    let sandbox = provider(latency, rotation).await;
    let vault = TestVault::with_sandbox(&sandbox, policy);
    let client = SandboxConfig::default().client_id;
    let tokens = sandbox.issue_expiring(&client, Duration::from_millis(10));
    vault.import("acme/sandbox", &tokens, HOUR);
    tokio::time::sleep(Duration::from_millis(20)).await;
    (sandbox, vault)
}

/// The sandbox as a connector file.
pub(crate) fn connector(id: &str, sandbox: &Sandbox, policy: &str) -> String {
    format!(
        r#"id = "{id}"
name = "Sandbox"
unified_apis = ["accounting"]
[authorization]
url = "{authorize}"
[token]
url = "{token}"
client_auth = "client_secret_basic"
grant_types = ["authorization_code", "client_credentials"]
[refresh]
rotation = "always"
replay = {policy}
[revocation]
url = "{revoke}"
scope = "grant"
[api]
base_url = "{api}"
hosts = ["{base}"]
[api.headers]
X-Tenant = "{{settings.tenant}}"
[settings.tenant]
label = "Tenant"
"#,
        authorize = sandbox.authorize_url(),
        token = sandbox.token_url(),
        revoke = sandbox.revoke_url(),
        api = sandbox.api_url(),
        base = sandbox.base_url(),
    )
}

pub(crate) const REVOKES: &str = r#"{ policy = "revokes" }"#;
pub(crate) const GRACE: &str = r#"{ policy = "grace", seconds = 1800 }"#;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Connects as a caller does.
#[expect(
    clippy::disallowed_methods,
    reason = "a test is outside of the server that it calls"
)]
pub(crate) async fn dial(address: &str) -> std::io::Result<tokio::net::TcpStream> {
    tokio::net::TcpStream::connect(address).await
}

/// The same, with as little room for what comes as the system allows: the server notices soon that nobody reads.
#[expect(
    clippy::disallowed_methods,
    reason = "a test is outside of the server that it calls"
)]
pub(crate) async fn dial_narrow(address: &str) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(address.parse().unwrap()).await
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// A running server.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) ops: String,
    pub(crate) key: String,
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, complete.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            panic!(
                "not JSON ({}): {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            )
        })
    }

    /// Checks that it is an error in Apideck's form, and gives its `detail`.
    pub(crate) fn error(&self, status: u16, type_name: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (
                self.status.as_u16(),
                body["type_name"].as_str().unwrap_or_default()
            ),
            (status, type_name),
            "{body}"
        );
        assert_eq!(body["status_code"], status);
        assert!(
            body["message"].is_string() && body["error"].is_string() && body["ref"].is_string(),
            "{body}"
        );
        assert!(self.headers.contains_key("x-apideck-request-id"));
        assert_eq!(self.headers["x-tokenward-origin"], "gateway");
        assert!(self.headers.contains_key("x-tokenward-remedy"));
        assert!(!self.headers.contains_key("x-apideck-downstream-error"));
        body["detail"].clone()
    }
}

/// A request under construction.
pub(crate) struct Call {
    builder: http::request::Builder,
    body: Bytes,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A header in bytes that need not be UTF-8.
    pub(crate) fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        self.builder = self.builder.header(name, value);
        self
    }

    pub(crate) async fn send(self) -> Answer {
        self.try_send().await.unwrap()
    }

    pub(crate) async fn try_send(self) -> Result<Answer, String> {
        let request = self.builder.body(Full::new(self.body)).unwrap();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

impl Server {
    /// A call without any header.
    pub(crate) fn bare(&self, method: Method, path: &str) -> Call {
        let builder = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        Call {
            builder,
            body: Bytes::new(),
            client: self.client.clone(),
        }
    }

    /// A question of an operator.
    pub(crate) fn operator(&self, path: &str) -> Call {
        Call {
            builder: Request::get(format!("{}{path}", self.ops)),
            body: Bytes::new(),
            client: self.client.clone(),
        }
    }

    /// A call with key, application and consumer.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        self.bare(method, path)
            .header("authorization", &format!("Bearer {}", self.key))
            .header("x-apideck-app-id", APP)
            .header("x-apideck-consumer-id", CONSUMER)
    }

    /// A call through the gateway to the connection `acme/accounting+sandbox`.
    pub(crate) fn proxy(&self, method: Method, downstream: &str) -> Call {
        self.call(method, "/proxy")
            .header("x-apideck-service-id", "sandbox")
            .header("x-apideck-unified-api", "accounting")
            .header("x-apideck-downstream-url", downstream)
    }

    /// Checks that a request gets through, after whatever must be waited for.
    pub(crate) async fn serves(&self) {
        let answer = self
            .proxy(Method::GET, "/x")
            .header("x-apideck-timeout", "40000")
            .send()
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(self.operator("/metrics").send().await.body.to_vec()).unwrap()
    }

    /// Asks for an orderly stop and waits for it.
    pub(crate) async fn stop(mut self) -> std::process::ExitStatus {
        signal(self.child.id().unwrap(), Signal::TERM).unwrap();
        self.child.wait().await.unwrap()
    }
}

/// Sends `count` calls at once and gives all answers.
pub(crate) async fn all_at_once<F>(count: usize, mut call: F) -> Vec<Answer>
where
    F: FnMut(usize) -> Call,
{
    let tasks = tokio_util::task::TaskTracker::new();
    let handles: Vec<_> = (0..count)
        .map(|number| tasks.spawn(call(number).send()))
        .collect();
    let mut answers = Vec::new();
    for handle in handles {
        answers.push(handle.await.unwrap());
    }
    answers
}

/// Starts many processes at once and collects what they said.
pub(crate) fn processes_at_once(
    vault: &TestVault,
    count: usize,
    args: &[&str],
) -> Vec<(bool, String, String)> {
    let children: Vec<_> = (0..count)
        .map(|_| {
            vault
                .command(args)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    children
        .into_iter()
        .map(|mut child| {
            let (mut out, mut err) = (String::new(), String::new());
            child
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut out)
                .unwrap();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut err)
                .unwrap();
            (child.wait().unwrap().success(), out, err)
        })
        .collect()
}
