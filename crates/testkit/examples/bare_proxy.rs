//! The floor for `bench/gateway.py`: what hyper's server and hyper-util's pooled client cost
//! when they do nothing but forward to one upstream with one static `Authorization` header.
//!
//! ```text
//! bare_proxy PORT UPSTREAM_HOST:PORT TOKEN
//! ```
//!
//! Not a proxy to use: hop-by-hop headers pass, nothing times out, there is one upstream.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: bare_proxy PORT UPSTREAM_HOST:PORT TOKEN";
    let port: u16 = args.next().ok_or(usage)?.parse()?;
    let upstream: Authority = args.next().ok_or(usage)?.parse()?;
    let token = args.next().ok_or(usage)?;

    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let proxy = Proxy {
        client: Client::builder(TokioExecutor::new()).build(connector),
        upstream,
        authorization: HeaderValue::try_from(format!("Bearer {token}"))?,
    };

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let proxy = proxy.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { proxy.forward(request).await }
            });
            // A client that leaves in the middle is none of our business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Incoming>,
    upstream: Authority,
    authorization: HeaderValue,
}

impl Proxy {
    async fn forward(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Either<Incoming, Empty<Bytes>>>, http::Error> {
        let path = request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.upstream.clone())
            .path_and_query(path)
            .build()?;
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(Either::Left)),
            Err(_) => Response::builder()
                .status(StatusCode::BAD_GATEWAY)
                .body(Either::Right(Empty::new())),
        }
    }
}
