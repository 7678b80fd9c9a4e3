//! The API behind the proxies in `bench/gateway.py`: fast, and strict about the credential.
//!
//! ```text
//! bench_upstream PORT TLS_PORT CERTIFICATE KEY TOKEN...
//! ```
//!
//! On the second port it speaks TLS, with the certificate and the key in these files.
//!
//! Every request must carry `Authorization: Bearer TOKEN` for one of the tokens given (a token
//! that ends in `*` is a prefix), any other is answered with 401:
//!
//! * `/` answers with 1 KiB of JSON, `/big` with 1 MiB.
//! * `POST /take` reads its body, which must be of 1 MiB, and answers as `/` does.
//! * `POST /token/SECONDS` grants tokens for a refresh token `NAME.N`: `NAME-N+1`, good for so
//!   long, and `NAME.N+1` as the next refresh token. It needs no credential.
//! * `GET /_stats` tells how many there were of each and needs no credential, so that a benchmark
//!   can see that its requests arrived here, each with the right token.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

const SMALL: usize = 1024;
const BIG: usize = 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: bench_upstream PORT TLS_PORT CERTIFICATE KEY TOKEN...";
    let port: u16 = args.next().ok_or(usage)?.parse()?;
    let tls_port: u16 = args.next().ok_or(usage)?.parse()?;
    let acceptor = acceptor(&args.next().ok_or(usage)?, &args.next().ok_or(usage)?)?;
    let expected: Vec<Expected> = args.map(|token| Expected::new(&token)).collect();
    if expected.is_empty() {
        return Err(usage.into());
    }

    let upstream = Arc::new(Upstream {
        expected,
        small: body(SMALL),
        big: body(BIG),
        ok: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
        refreshes: AtomicU64::new(0),
    });
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let secure = TcpListener::bind((Ipv4Addr::LOCALHOST, tls_port)).await?;
    let connections = TaskTracker::new();
    loop {
        let upstream = Arc::clone(&upstream);
        tokio::select! {
            accepted = plain.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(upstream.serve(stream));
            }
            accepted = secure.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let handshake = acceptor.accept(stream);
                connections.spawn(async move {
                    if let Ok(stream) = handshake.await {
                        upstream.serve(stream).await;
                    }
                });
            }
        }
    }
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config).into())
}

struct Upstream {
    expected: Vec<Expected>,
    small: Bytes,
    big: Bytes,
    ok: AtomicU64,
    wrong: AtomicU64,
    refreshes: AtomicU64,
}

impl Upstream {
    async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(move |request| {
            let upstream = Arc::clone(&self);
            async move { Ok::<_, Infallible>(upstream.answer(request).await) }
        });
        // A client that leaves in the middle is none of our business.
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/_stats") => return json(StatusCode::OK, self.stats().into()),
            (&Method::POST, path) => {
                if let Some(lifetime) = path.strip_prefix("/token/") {
                    return self.token(lifetime, body).await;
                }
            }
            _ => {}
        }
        // A second Authorization header beside the right one is wrong too.
        let mut sent = parts.headers.get_all(AUTHORIZATION).iter();
        let mut right = match (sent.next(), sent.next()) {
            (Some(value), None) => self.expected.iter().any(|e| e.matches(value.as_bytes())),
            _ => false,
        };
        if parts.uri.path() == "/take" {
            let Some(length) = length(body).await else {
                // Its sender has gone, and will not hear.
                return json(StatusCode::BAD_REQUEST, Bytes::new());
            };
            right &= length == BIG;
        }
        if !right {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            let error = Bytes::from_static(br#"{"error":"wrong credential or body"}"#);
            return json(StatusCode::UNAUTHORIZED, error);
        }
        self.ok.fetch_add(1, Ordering::Relaxed);
        let body = match parts.uri.path() {
            "/big" => &self.big,
            _ => &self.small,
        };
        json(StatusCode::OK, body.clone())
    }

    fn stats(&self) -> String {
        let [ok, wrong, refreshes] =
            [&self.ok, &self.wrong, &self.refreshes].map(|count| count.load(Ordering::Relaxed));
        format!(r#"{{"ok":{ok},"wrong":{wrong},"refreshes":{refreshes}}}"#)
    }

    async fn token(&self, lifetime: &str, body: Incoming) -> Response<Full<Bytes>> {
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let next = url::form_urlencoded::parse(&body)
            .find(|(name, _)| name == "refresh_token")
            .and_then(|(_, value)| {
                let (name, number) = value.rsplit_once('.')?;
                Some((name.to_owned(), number.parse::<u64>().ok()? + 1))
            });
        let Some((name, number)) = next else {
            let error = Bytes::from_static(br#"{"error":"invalid_grant"}"#);
            return json(StatusCode::BAD_REQUEST, error);
        };
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let granted = format!(
            r#"{{"access_token":"{name}-{number}","refresh_token":"{name}.{number}","token_type":"Bearer","expires_in":{lifetime}}}"#
        );
        json(StatusCode::OK, granted.into())
    }
}

/// How long a body is; `None` if it did not come to its end.
async fn length(mut body: Incoming) -> Option<usize> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.ok()?.data_ref().map_or(0, Bytes::len);
    }
    Some(length)
}

/// An `Authorization` value that is accepted.
enum Expected {
    Exactly(Vec<u8>),
    StartingWith(Vec<u8>),
}

impl Expected {
    fn new(token: &str) -> Self {
        match token.strip_suffix('*') {
            Some(prefix) => Self::StartingWith(format!("Bearer {prefix}").into_bytes()),
            None => Self::Exactly(format!("Bearer {token}").into_bytes()),
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exactly(expected) => value == expected.as_slice(),
            Self::StartingWith(prefix) => value.starts_with(prefix),
        }
    }
}

fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn body(length: usize) -> Bytes {
    let (head, tail) = (r#"{"id":"bench","filler":""#, r#""}"#);
    let filler = "x".repeat(length - head.len() - tail.len());
    format!("{head}{filler}{tail}").into()
}
