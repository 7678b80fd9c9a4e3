//! The way to token endpoints.
//!
//! One connection for each exchange, made here step by step, so that "nothing was sent" is
//! certain when it is said: until the handshake is over not one byte of the request has left.
//! (A pooled connection may die while the request is written, which would be unknown.)

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokenward::{
    oauth::TokenRequest,
    time::Clock,
    transport::{Answer, Patience, Transport, TransportError},
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    connector::{ConnectError, Connector, Destination},
    decode::decode_answer,
    tls::Protocols,
};

/// No token reply is larger.
const LARGEST_ANSWER: usize = 1 << 20;

const USER_AGENT: &str = concat!("tokenward/", env!("CARGO_PKG_VERSION"));

/// Carries token requests over HTTP/1.1.
#[derive(Debug)]
pub struct HttpTransport {
    connector: Connector,
    clock: Arc<dyn Clock>,
    connections: TaskTracker,
}

impl HttpTransport {
    /// A transport over this way out.
    pub fn new(connector: Connector, clock: Arc<dyn Clock>) -> Self {
        Self {
            connector,
            clock,
            connections: TaskTracker::new(),
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError> {
        let host = request
            .endpoint
            .url()
            .host_str()
            .unwrap_or_default()
            .to_owned();
        let not_sent = |why: &dyn std::fmt::Display| {
            TransportError::NotSent(format!("{host} cannot be reached: {why}"))
        };
        let message = build(&request).map_err(|error| not_sent(&error))?;

        let to = Destination::of_url(request.endpoint.url())
            .ok_or_else(|| not_sent(&ConnectError::NoHost))?;
        let stream = self
            .connector
            .connect(&to, Protocols::Http1, patience.connect)
            .await
            .map_err(|error| not_sent(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| not_sent(&error))?;
        let driver = self.connections.spawn(async move {
            // Its errors reach us through the sender.
            let _ = connection.await;
        });
        if let Err(error) = sender.ready().await {
            driver.abort();
            return Err(not_sent(&error));
        }
        // The last moment: a process that was paused until now may have been taken over.
        if !patience.may_send(&*self.clock).await {
            driver.abort();
            return Err(TransportError::TooLate);
        }
        let no_answer = |why: &dyn std::fmt::Display| {
            TransportError::NoAnswer(format!("{host} did not answer: {why}"))
        };
        let answer = async {
            let response = sender
                .send_request(message)
                .await
                .map_err(|error| no_answer(&root(&error)))?;
            let (mut parts, body) = response.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER)
                .collect()
                .await
                .map_err(|error| no_answer(&error))?
                .to_bytes();
            let body = decode_answer(&mut parts.headers, body, LARGEST_ANSWER);
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        };
        let result = timeout(patience.answer, answer).await.unwrap_or_else(|_| {
            Err(no_answer(&format_args!(
                "nothing within {}",
                seconds(patience.answer)
            )))
        });
        driver.abort();
        result
    }
}

fn build(request: &TokenRequest) -> Result<Request<Full<Bytes>>, http::Error> {
    let url = request.endpoint.url();
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let mut message = Request::builder()
        .method(request.method.clone())
        .uri(target)
        .body(Full::new(Bytes::copy_from_slice(&request.body)))?;
    *message.headers_mut() = request.headers.clone();
    message
        .headers_mut()
        .insert(header::HOST, HeaderValue::try_from(authority)?);
    message.headers_mut().insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    message
        .headers_mut()
        .insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    message
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(message)
}

/// hyper's own words and, behind them, the operating system's.
fn root(error: &hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}
