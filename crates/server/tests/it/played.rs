//! A server before an API that the test itself plays, byte by byte.

use std::time::Duration;

use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{
    harness::{
        APP, CONSUMER, HOUR, REVOKES, Server, TestVault, connector, dial, dial_narrow, provider,
    },
    wire::{Kind, Message, NoMessage, Reader},
};

/// How a request is led through the gateway: as it is, with a direction that asks for nothing, with
/// a header that is for the next hop, and as its connection's last.
pub(crate) const WAYS: [&[&str]; 4] = [
    &[],
    &["x-apideck-follow-redirects: false"],
    &["te: trailers"],
    &["connection: close"],
];

/// What nobody should have to wait for for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The same, where the server has to be given work until the system's buffers are full.
pub(crate) const FOR_A_FLOOD: Duration = Duration::from_secs(120);

/// Runs a test twice: HTTP/1.1 is read and written by the server itself, and by its library.
pub(crate) async fn both(options: &[&str], connector_lines: &str, test: impl AsyncFn(Played)) {
    for http in HTTP {
        eprintln!("--http {http}");
        let options = [&["--http", http], options].concat();
        test(Played::new(&options, connector_lines).await).await;
    }
}

pub(crate) const HTTP: [&str; 2] = ["own", "library"];

pub(crate) struct Played {
    api: TcpListener,
    pub(crate) base: String,
    pub(crate) sandbox: Sandbox,
    pub(crate) vault: TestVault,
    pub(crate) server: Server,
}

impl Played {
    /// `connector_lines` are added to the connector, `options` to the server's.
    pub(crate) async fn new(options: &[&str], connector_lines: &str) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", api.local_addr().unwrap());
        let sandbox = provider(Duration::ZERO, Rotation::Revokes).await;
        let vault = TestVault::new();
        let text = connector("sandbox", &sandbox, REVOKES)
            .replace(&sandbox.api_url(), &base)
            .replace(
                &format!("hosts = [\"{}\"]", sandbox.base_url()),
                &format!("hosts = [\"{base}\"]"),
            );
        vault.add_connector("sandbox", &(text + connector_lines));
        vault.set_client("sandbox", &SandboxConfig::default().client_secret);
        let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
        vault.import("acme/sandbox", &tokens, HOUR);
        // One worker: everybody shares its connections to the API.
        let server = vault.serve(&[&["--workers", "1"], options].concat()).await;
        let played = Self {
            api,
            base,
            sandbox,
            vault,
            server,
        };
        // From now on key and connection are known.
        let mut call = played.call().await;
        call.send(played.get("/known", &[])).await;
        let mut api = played.accept().await;
        api.request().await;
        api.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(call.answer().await.status(), 200);
        played
    }

    /// The head of a request for this path at the API.
    pub(crate) fn head(&self, method: &str, path: &str, lines: &[&str]) -> String {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!(
            "{method} /proxy HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {}\r\nx-apideck-app-id: {APP}\r\nx-apideck-consumer-id: {CONSUMER}\r\nx-apideck-service-id: sandbox\r\nx-apideck-unified-api: accounting\r\nx-apideck-downstream-url: {path}\r\n{lines}\r\n",
            self.server.key,
        )
    }

    pub(crate) fn get(&self, path: &str, lines: &[&str]) -> String {
        self.head("GET", path, lines)
    }

    /// A connection to the server.
    pub(crate) async fn call(&self) -> Peer {
        let address = self.server.url.strip_prefix("http://").unwrap();
        Peer::new(dial(address).await.unwrap())
    }

    /// A connection to the server of somebody who is not going to read.
    pub(crate) async fn call_narrow(&self) -> Peer {
        let address = self.server.url.strip_prefix("http://").unwrap();
        Peer::new(dial_narrow(address).await.unwrap())
    }

    /// The next connection of the server to the API.
    pub(crate) async fn accept(&self) -> Peer {
        let accepted = timeout(PATIENCE, self.api.accept()).await;
        Peer::new(accepted.expect("the server connects to the API").unwrap().0)
    }

    /// The same, however long it takes.
    pub(crate) async fn accept_whenever(&self) -> Peer {
        Peer::new(self.api.accept().await.unwrap().0)
    }

    /// Whether the server connects to the API without being waited for.
    pub(crate) async fn would_accept(&self) -> bool {
        timeout(Duration::from_millis(100), self.api.accept())
            .await
            .is_ok()
    }
}

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) reader: Reader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Self {
            reader: Reader::new(reader),
            writer,
        }
    }

    /// Sends this. Whoever has hung up does not hear it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.writer.write_all(bytes.as_ref()).await;
    }

    /// The next request.
    pub(crate) async fn request(&mut self) -> Message {
        self.reader.message(Kind::Request).await.unwrap()
    }

    /// The next answer that is final.
    pub(crate) async fn answer(&mut self) -> Message {
        self.try_answer().await.unwrap()
    }

    pub(crate) async fn try_answer(&mut self) -> Result<Message, NoMessage> {
        loop {
            let answer = self.reader.message(Kind::Answer).await?;
            if answer.status() >= 200 {
                return Ok(answer);
            }
        }
    }

    /// Waits until the other side has closed the connection.
    pub(crate) async fn gone(&mut self) {
        let left = self.reader.end().await;
        assert!(left.is_ok(), "the connection stays open");
    }
}
