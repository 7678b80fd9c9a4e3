//! The API behind the proxies in `bench/gateway.py`: fast, and strict about the credential.
//!
//! ```text
//! bench_upstream PORT TOKEN...
//! ```
//!
//! Every request must carry `Authorization: Bearer TOKEN` for one of the tokens given (a token
//! that ends in `*` is a prefix). It is answered with 200 and 1 KiB of JSON, any other with 401.
//! `GET /_stats` tells how many there were of each and needs no credential, so that a benchmark
//! can see that its requests arrived here, each with the right token.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

const BODY_LEN: usize = 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: bench_upstream PORT TOKEN...";
    let port: u16 = args.next().ok_or(usage)?.parse()?;
    let expected: Vec<Expected> = args.map(|token| Expected::new(&token)).collect();
    if expected.is_empty() {
        return Err(usage.into());
    }

    let upstream = Arc::new(Upstream {
        expected,
        body: body(),
        ok: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let upstream = Arc::clone(&upstream);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = upstream.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that leaves in the middle is none of our business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Upstream {
    expected: Vec<Expected>,
    body: Bytes,
    ok: AtomicU64,
    wrong: AtomicU64,
}

impl Upstream {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == Method::GET && request.uri().path() == "/_stats" {
            let (ok, wrong) = (
                self.ok.load(Ordering::Relaxed),
                self.wrong.load(Ordering::Relaxed),
            );
            let stats = format!(r#"{{"ok":{ok},"wrong":{wrong}}}"#);
            return json(StatusCode::OK, stats.into());
        }
        // A second Authorization header beside the right one is wrong too.
        let mut sent = request.headers().get_all(AUTHORIZATION).iter();
        let right = match (sent.next(), sent.next()) {
            (Some(value), None) => self.expected.iter().any(|e| e.matches(value.as_bytes())),
            _ => false,
        };
        if right {
            self.ok.fetch_add(1, Ordering::Relaxed);
            json(StatusCode::OK, self.body.clone())
        } else {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            json(
                StatusCode::UNAUTHORIZED,
                Bytes::from_static(br#"{"error":"wrong credential"}"#),
            )
        }
    }
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

fn body() -> Bytes {
    let (head, tail) = (r#"{"id":"bench","filler":""#, r#""}"#);
    let filler = "x".repeat(BODY_LEN - head.len() - tail.len());
    format!("{head}{filler}{tail}").into()
}
