//! The way out: proxies, certificates, and what servers answer there.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tokenward::{
    endpoint::Endpoint,
    oauth::{TokenDialect, TokenReply, TokenRequest, metadata_request, read_token_reply},
    time::TokioClock,
    transport::{Answer, Patience, Transport as _, TransportError},
};
use tokenward_server::egress::{AddressRules, Connector, ExtraRoots, HttpTransport, Proxies};
use tokenward_testkit::sandbox::{Rotation, SandboxConfig};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{HOUR, REVOKES, TestVault, connector, dial, expired, provider, said};

/// Whatever its address, this name is known to proxies only.
const NAME: &str = "provider.test";
const PASSWORD: &str = "hunter2";

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A server that does the same with each connection, and keeps what it was told. It ends with its
/// owner.
struct Listening {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Listening {
    async fn start<F, D>(tls: Option<TlsAcceptor>, serve: F) -> Self
    where
        F: Fn(Box<dyn Io>, Arc<Mutex<Vec<String>>>) -> D + Send + 'static,
        D: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let told = heard.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stream: Box<dyn Io> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                connections.spawn(serve(stream, told.clone()));
            }
        });
        Self {
            address,
            heard,
            _tasks: tasks,
        }
    }

    /// Answers every request with these bytes, and then closes or stays.
    async fn answering(tls: Option<TlsAcceptor>, answer: Vec<u8>, stays: bool) -> Self {
        Self::start(tls, move |mut stream, heard| {
            let answer = answer.clone();
            async move {
                let head = read_head(&mut stream).await;
                heard.lock().unwrap().push(head);
                stream.write_all(&answer).await.unwrap();
                if stays {
                    std::future::pending::<()>().await;
                }
                stream.shutdown().await.unwrap();
            }
        })
        .await
    }

    /// An HTTP proxy that finds everybody at `behind`.
    async fn proxy(
        tls: Option<TlsAcceptor>,
        behind: SocketAddr,
        wants: Option<&'static str>,
    ) -> Self {
        Self::start(tls, move |mut stream, heard| async move {
            let head = read_head(&mut stream).await;
            let admitted = wants.is_none_or(|wants| head.contains(wants));
            heard.lock().unwrap().push(head);
            if !admitted {
                let no = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(no).await.unwrap();
                return;
            }
            let mut there = dial(&behind.to_string()).await.unwrap();
            let yes = b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n";
            stream.write_all(yes).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        })
        .await
    }

    /// A SOCKS5 proxy that finds everybody at `behind`, and wants no password.
    async fn socks(behind: SocketAddr) -> Self {
        Self::start(None, move |mut stream, heard| async move {
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, [5, 1, 0]);
            stream.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(
                request[..4],
                [5, 1, 0, 3],
                "a name, for the proxy to resolve"
            );
            let mut name = vec![0; usize::from(request[4])];
            stream.read_exact(&mut name).await.unwrap();
            let port = stream.read_u16().await.unwrap();
            let name = String::from_utf8(name).unwrap();
            heard.lock().unwrap().push(format!("{name}:{port}"));
            let mut there: TcpStream = dial(&behind.to_string()).await.unwrap();
            stream
                .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        })
        .await
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn transport(proxies: Proxies, ca_files: &[PathBuf]) -> HttpTransport {
    let rules = AddressRules::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let connector = Connector::new(rules, proxies, ExtraRoots::read(ca_files).unwrap());
    HttpTransport::new(connector, Arc::new(TokioClock::default()))
}

fn through(proxy: &str) -> Proxies {
    Proxies::new(Some(proxy), |_| None).unwrap()
}

fn get(url: &str) -> TokenRequest {
    metadata_request(Endpoint::from_operator(url.parse().unwrap()).unwrap())
}

async fn exchange(transport: &HttpTransport, url: &str) -> Result<Answer, TransportError> {
    let patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(20),
        not_after: None,
        last_look: None,
    };
    transport.exchange(get(url), patience).await
}

/// Why nothing was sent.
async fn unsent(transport: &HttpTransport, url: &str) -> String {
    match exchange(transport, url).await {
        Err(TransportError::NotSent(why)) => why,
        other => panic!("{url}: {other:?}"),
    }
}

fn openssl(folder: &Path, command: &str) {
    let made = Command::new("openssl")
        .args(command.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A self-signed certificate, marked as a CA's as `openssl req -x509` does it: `NAME.pem`, `NAME.key`.
fn self_signed(folder: &Path, name: &str, more: &str) {
    openssl(
        folder,
        &format!("req -x509 {KEY} -subj /CN={name} -keyout {name}.key -out {name}.pem {more}"),
    );
}

fn acceptor(folder: &Path, name: &str) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Which nobody can tell from its beginning.
fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into_bytes();
    answer.extend(body);
    answer
}

/// The sandbox under a name that only proxies know.
async fn behind_a_proxy() -> (tokenward_testkit::sandbox::Sandbox, TestVault, SocketAddr) {
    let sandbox = provider(Duration::ZERO, Rotation::Revokes).await;
    let address = sandbox.base_url().replace("http://", "").parse().unwrap();
    let vault = TestVault::new();
    let text = connector("sandbox", &sandbox, REVOKES).replace("127.0.0.1", NAME);
    vault.add_connector("sandbox", &text);
    let config = SandboxConfig::default();
    vault.set_client("sandbox", &config.client_secret);
    let tokens = sandbox.issue_expiring(&config.client_id, Duration::from_millis(10));
    vault.import("acme/sandbox", &tokens, HOUR);
    (sandbox, vault, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn apis_and_token_endpoints_are_reached_through_the_proxy_of_the_environment() {
    let (sandbox, vault, address) = behind_a_proxy().await;
    // me:hunter2
    let credentials = "Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n";
    let proxy = Listening::proxy(None, address, Some(credentials)).await;
    let mut command = vault.serve_command(&["--log", "debug"]);
    command.env(
        "HTTP_PROXY",
        format!("http://me:{PASSWORD}@{}", proxy.address),
    );
    command.env("NO_PROXY", "other.test,10.0.0.0/8");
    let server = vault.started(command).await;
    server.serves().await;

    let books = sandbox.books().total;
    assert_eq!((books.refresh_requests, books.api_accepted), (1, 1));
    let asked = proxy.heard();
    assert_eq!(
        asked.len(),
        2,
        "a tunnel to the token endpoint, one to the API"
    );
    let tunnel = format!("CONNECT {NAME}:{} HTTP/1.1\r\n", address.port());
    assert!(
        asked.iter().all(|head| head.starts_with(&tunnel)),
        "{asked:?}"
    );
    let log = vault.log();
    assert!(
        !log.contains(PASSWORD) && !log.contains("bWU6aHVudGVyMg"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_use_a_proxy_of_each_kind() {
    let folder = TempDir::new().unwrap();
    self_signed(
        folder.path(),
        "proxy",
        "-addext subjectAltName=IP:127.0.0.1",
    );
    let ca = folder.path().join("proxy.pem");
    let (sandbox, vault, address) = behind_a_proxy().await;
    let over_tls = Listening::proxy(Some(acceptor(folder.path(), "proxy")), address, None).await;
    let socks = Listening::socks(address).await;
    for proxy in [
        format!("https://{}", over_tls.address),
        format!("socks5h://{}", socks.address),
    ] {
        let args = ["validate", "acme/sandbox", "--proxy", &proxy];
        let output = vault.run(&[&args[..], &["--ca-file", ca.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{proxy}: {}", said(&output));
    }
    assert_eq!(sandbox.books().total.refresh_requests, 2);
    assert_eq!(over_tls.heard().len(), 1);
    assert_eq!(socks.heard(), [format!("{NAME}:{}", address.port())]);
}

#[tokio::test]
async fn a_proxy_that_does_not_do_its_part_is_named_and_nothing_was_sent() {
    let nobody = "127.0.0.1:9".parse().unwrap();
    let url = format!("http://{NAME}/token");
    let wants = Listening::proxy(None, nobody, Some("Proxy-Authorization: ")).await;
    let refuses = |answer: &'static [u8]| Listening::answering(None, answer.to_vec(), false);

    let without = unsent(&transport(through(&wants.address.to_string()), &[]), &url).await;
    let named = format!("{NAME} cannot be reached: the proxy {}", wants.address);
    assert!(without.starts_with(&named), "{without}");
    assert!(
        without.contains("wants a user and a password (HTTP 407)"),
        "{without}"
    );

    let wrong = refuses(b"HTTP/1.1 407 No\r\n\r\n").await;
    let with = format!("http://me:{PASSWORD}@{}", wrong.address);
    let wrong = unsent(&transport(through(&with), &[]), &url).await;
    assert!(
        wrong.contains("refused the user and password of its URL"),
        "{wrong}"
    );
    assert!(!wrong.contains(PASSWORD), "{wrong}");

    for (answer, why) in [
        (
            &b"HTTP/1.0 403 Forbidden\r\n\r\nno"[..],
            "refused to connect to provider.test:80: HTTP 403",
        ),
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer in HTTP/1.1"),
        (
            b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "sent bytes of its own",
        ),
    ] {
        let proxy = refuses(answer).await;
        let said = unsent(&transport(through(&proxy.address.to_string()), &[]), &url).await;
        assert!(said.contains(why), "{said}");
    }
    let gone = unsent(&transport(through("http://127.0.0.1:9"), &[]), &url).await;
    assert!(
        gone.contains("the proxy 127.0.0.1:9 cannot be reached"),
        "{gone}"
    );
}

#[tokio::test]
async fn a_proxy_is_no_way_around_the_rules_for_addresses() {
    let proxy = Listening::proxy(None, "127.0.0.1:9".parse().unwrap(), None).await;
    let rules = transport(through(&proxy.address.to_string()), &[]);
    for refused in [
        "http://169.254.169.254/",
        "https://10.0.0.1/",
        "http://[::ffff:a00:1]/",
    ] {
        let why = unsent(&rules, refused).await;
        assert!(why.contains("private address"), "{why}");
    }
    // This machine itself is behind no proxy.
    let strict = Connector::new(
        AddressRules::default(),
        through(&proxy.address.to_string()),
        ExtraRoots::default(),
    );
    let strict = HttpTransport::new(strict, Arc::new(TokioClock::default()));
    for refused in ["http://localhost/", "http://127.0.0.1/"] {
        let why = unsent(&strict, refused).await;
        assert!(why.contains("private address"), "{why}");
    }
    assert_eq!(proxy.heard(), [""; 0]);
}

#[tokio::test]
async fn extra_certificates_are_trusted_for_what_they_are() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let file = |name: &str| folder.join(format!("{name}.pem"));
    self_signed(folder, "ca", "-days 2");
    openssl(
        folder,
        &format!("req {KEY} -subj /CN=signed -keyout signed.key -out signed.csr"),
    );
    std::fs::write(folder.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        folder,
        "x509 -req -in signed.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out signed.pem",
    );
    self_signed(
        folder,
        "own",
        "-days 2 -addext subjectAltName=DNS:localhost",
    );
    // It has run out by the time that it is shown.
    openssl(
        folder,
        &format!("req {KEY} -subj /CN=old -keyout old.key -out old.csr"),
    );
    let as_a_cas = "basicConstraints=critical,CA:TRUE\nsubjectAltName=DNS:localhost\n";
    std::fs::write(folder.join("as_a_cas"), as_a_cas).unwrap();
    openssl(
        folder,
        "x509 -req -in old.csr -signkey old.key -days 0 -extfile as_a_cas -out old.pem",
    );
    tokio::time::sleep(Duration::from_secs(2)).await;

    let body = br#"{"a":1}"#;
    let serve = |name: &'static str| {
        Listening::answering(Some(acceptor(folder, name)), ok("", body), false)
    };
    let nobody = || transport(Proxies::none(), &[]);
    let given = |name: &str| transport(Proxies::none(), &[file(name)]);
    let at = |server: &Listening, host: &str| format!("https://{host}:{}/", server.address.port());

    let signed = serve("signed").await;
    let url = at(&signed, "localhost");
    let untrusted = unsent(&nobody(), &url).await;
    assert!(untrusted.contains("--ca-file"), "{untrusted}");
    assert_eq!(exchange(&given("ca"), &url).await.unwrap().body, &body[..]);
    let other_name = unsent(&given("ca"), &at(&signed, "127.0.0.1")).await;
    assert!(other_name.contains("subjectAltName"), "{other_name}");

    // Marked as a CA's, but exactly this one was given.
    let own = serve("own").await;
    assert_eq!(
        exchange(&given("own"), &at(&own, "localhost"))
            .await
            .unwrap()
            .body,
        &body[..]
    );
    let other_name = unsent(&given("own"), &at(&own, "127.0.0.1")).await;
    assert!(other_name.contains("subjectAltName"), "{other_name}");
    unsent(&given("ca"), &at(&own, "localhost")).await;

    let old = serve("old").await;
    let expired = unsent(&given("old"), &at(&old, "localhost")).await;
    assert!(expired.contains("clock"), "{expired}");

    let plain = Listening::start(None, |mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let no_tls = unsent(&nobody(), &at(&plain, "localhost")).await;
    assert!(no_tls.contains("does not speak TLS"), "{no_tls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_in_the_systems_store_is_refused_with_a_way_out() {
    let folder = TempDir::new().unwrap();
    self_signed(folder.path(), "own", "-addext subjectAltName=DNS:localhost");
    let pem = folder.path().join("own.pem");
    let tls = acceptor(folder.path(), "own");
    let server = Listening::answering(Some(tls), ok("", b"{}"), false).await;
    let issuer = format!("https://localhost:{}", server.address.port());
    let vault = TestVault::new();
    let args = [
        "clients",
        "set",
        "--connector",
        "oidc",
        "--client-id",
        "x",
        "--public",
    ];
    let discover = [&args[..], &["--discover", &issuer]].concat();
    let store = |command: &mut Command| said(&command.env("SSL_CERT_FILE", &pem).output().unwrap());

    let refused = store(&mut vault.command(&discover));
    assert!(
        refused.contains("openssl req -x509") && refused.contains("--ca-file"),
        "{refused}"
    );
    let given = [&discover[..], &["--ca-file", pem.to_str().unwrap()]].concat();
    // It was read, and is no metadata.
    let read = store(&mut vault.command(&given));
    assert!(
        !read.contains("certificate") && read.contains("issuer"),
        "{read}"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_anything_else() {
    let vault = TestVault::new();
    for (setting, says) in [
        (
            ["--proxy", "ftp://me:hunter2@p:1"],
            "--proxy names no proxy",
        ),
        (["--ca-file", "/dev/null"], "no PEM certificate in it"),
    ] {
        let output = vault.run(&[&["applications", "list"][..], &setting].concat());
        let said = said(&output);
        assert!(!output.status.success() && said.contains(says), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

#[tokio::test]
async fn odd_answers_of_token_endpoints_are_read() {
    let reply = br#"{"access_token":"a","refresh_token":"r"}"#;
    let length = reply.len();
    let fields: String = (0..500).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let chunked = [&b"28\r\n"[..], reply, b"\r\n"].concat();
    for (what, answer) in [
        ("plain", ok("", reply)),
        (
            "gzip, unasked",
            ok("Content-Encoding: gzip\r\n", &gzip(reply)),
        ),
        ("gzip, unsaid", ok("", &gzip(reply))),
        (
            "a space before the colon",
            ok("Content-Encoding : deflate\r\n", &deflate(reply)),
        ),
        (
            "folded",
            ok(
                "X-Folded: one\r\n two\r\nContent-Encoding:\r\n deflate\r\n",
                &deflate(reply),
            ),
        ),
        ("many fields", ok(&fields, reply)),
        ("a line without a colon", ok("nonsense\r\n", reply)),
        ("a name that is none", ok("a b: c\r\n(x): y\r\n", reply)),
        ("control characters", ok("x: a\x01b\r\n", reply)),
        (
            "bare line feeds",
            [b"HTTP/1.1 200 OK\nx: y\n\n", &reply[..]].concat(),
        ),
        (
            "HTTP/1.0",
            [b"HTTP/1.0 200 OK\r\n\r\n", &reply[..]].concat(),
        ),
        (
            "interim",
            [
                b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
                &ok("", reply)[..],
            ]
            .concat(),
        ),
        (
            "both lengths",
            ok(
                "content-length: 9\r\ntransfer-encoding: chunked\r\n",
                &[&chunked[..], b"0\r\n\r\n"].concat(),
            ),
        ),
        // JSON tells where it ends.
        (
            "a length too large",
            ok(&format!("content-length: {}\r\n", length + 9), reply),
        ),
        (
            "no last chunk",
            ok("transfer-encoding: chunked\r\n", &chunked),
        ),
    ] {
        let server = Listening::answering(None, answer, false).await;
        let url = format!("http://{}/token", server.address);
        let answer = exchange(&transport(Proxies::none(), &[]), &url).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.body, &reply[..], "{what}");
        let asked = server.heard()[0].to_ascii_lowercase();
        assert!(asked.contains("accept-encoding: identity\r\n"), "{asked}");
    }
}

#[tokio::test]
async fn an_answer_that_may_be_cut_is_none() {
    for cut in [&b"access_token=a&refresh_token=r"[..], b"\"text\"", b""] {
        let header = format!("content-length: {}\r\n", cut.len() + 1);
        let server = Listening::answering(None, ok(&header, cut), false).await;
        let url = format!("http://{}/token", server.address);
        let answer = exchange(&transport(Proxies::none(), &[]), &url).await;
        match answer {
            // Its reader gets what came, and is told.
            Err(TransportError::CutOff { so_far, .. }) => assert_eq!(so_far.body, cut),
            Err(TransportError::NoAnswer(_)) if cut.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
    let large = ok("", &vec![b' '; (1 << 20) + 1]);
    let server = Listening::answering(None, large, false).await;
    let url = format!("http://{}/token", server.address);
    let answer = exchange(&transport(Proxies::none(), &[]), &url)
        .await
        .unwrap_err();
    assert!(
        answer.to_string().contains("larger than 1048576"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_seen_to_be_cut_is_left_to_its_reader() {
    let reply = br#"{"access_token":"a","refresh_token":"r"}"#;
    let zipped = gzip(reply);
    for (coding, cut) in [
        ("identity", &reply[..30]),
        ("gzip", &zipped[..zipped.len() - 9]),
    ] {
        let length = cut.len() + 9;
        let header = format!("content-encoding: {coding}\r\ncontent-length: {length}\r\n");
        let server = Listening::answering(None, ok(&header, cut), false).await;
        let url = format!("http://{}/token", server.address);
        let answer = exchange(&transport(Proxies::none(), &[]), &url)
            .await
            .unwrap();
        assert_eq!(answer.body, cut);
        let dialect = TokenDialect::default();
        let read = read_token_reply(
            answer.status,
            &answer.headers,
            &answer.body,
            &dialect,
            &[],
            0,
        );
        assert!(matches!(read, TokenReply::Unreadable { .. }), "{read:?}");
    }
}

#[tokio::test]
async fn an_answer_whose_connection_stays_open_is_read_when_the_time_is_up() {
    let reply = br#"{"access_token":"a"}"#;
    let server = Listening::answering(None, ok("", reply), true).await;
    let url = format!("http://{}/token", server.address);
    let patience = Patience {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(1),
        not_after: None,
        last_look: None,
    };
    let transport = transport(Proxies::none(), &[]);
    let answer = transport.exchange(get(&url), patience).await.unwrap();
    assert_eq!(answer.body, &reply[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_token_reply_is_a_refresh() {
    let (sandbox, vault) = expired(Duration::ZERO, Rotation::Revokes, REVOKES).await;
    let reply = br#"{"access_token":"fresh","refresh_token":"next","token_type":"Bearer","expires_in":3600}"#;
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let server = Listening::answering(None, ok(headers, &gzip(reply)), false).await;
    let url = format!("http://{}/token", server.address);
    let text = connector("sandbox", &sandbox, REVOKES).replace(&sandbox.token_url(), &url);
    vault.add_connector("sandbox", &text);
    let output = vault.run(&["token", "acme/sandbox"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(output.stdout.trim_ascii(), b"fresh");
    assert_eq!(server.heard().len(), 1);
}

/// What an API over HTTP/2 sends beside its answer is not counted; the deadline ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_api_whose_interim_answers_do_not_end_is_given_up() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let localhost = "-days 2 -addext subjectAltName=DNS:localhost";
    self_signed(folder, "api", localhost);
    let mut tls = ServerConfig::clone(acceptor(folder, "api").config());
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let api = Listening::start(Some(tls), |stream, heard| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut streams = JoinSet::new();
        while let Some(Ok((_, answer))) = connection.accept().await {
            let heard = heard.clone();
            streams.spawn(async move {
                send_interim_answers(answer).await;
                heard.lock().unwrap().push("reset".to_owned());
            });
        }
    })
    .await;

    let sandbox = provider(Duration::ZERO, Rotation::Revokes).await;
    let base = format!("https://localhost:{}", api.address.port());
    let vault = TestVault::new();
    let text = connector("sandbox", &sandbox, REVOKES)
        .replace(&sandbox.api_url(), &base)
        .replace(
            &format!("hosts = [\"{}\"]", sandbox.base_url()),
            &format!("hosts = [\"{base}\"]"),
        );
    vault.add_connector("sandbox", &text);
    let client = SandboxConfig::default();
    vault.set_client("sandbox", &client.client_secret);
    vault.import(
        "acme/sandbox",
        &sandbox.issue_expiring(&client.client_id, HOUR),
        HOUR,
    );
    let file = folder.join("api.pem");
    let ca = ["--ca-file", file.to_str().unwrap()];
    let options = ["--retries", "0", "--request-timeout", "2"];
    let server = vault.serve(&[&ca[..], &options].concat()).await;
    let answer = server.proxy(http::Method::GET, "/x").send().await;
    answer.error(504, "ProxyTimedOutError");
    while api.heard().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Without end, until the other side has had enough.
async fn send_interim_answers(mut answer: h2::server::SendResponse<bytes::Bytes>) {
    loop {
        for _ in 0..100 {
            let mut interim = http::Response::new(());
            *interim.status_mut() = http::StatusCode::EARLY_HINTS;
            if answer.send_informational(interim).is_err() {
                return;
            }
        }
        // Nothing holds the sender back here.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let reset = |context: &mut Context<'_>| Poll::Ready(answer.poll_reset(context).is_ready());
        if std::future::poll_fn(reset).await {
            return;
        }
    }
}
