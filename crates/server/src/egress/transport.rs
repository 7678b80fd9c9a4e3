//! The way to token endpoints.
//!
//! One connection for each exchange, made here step by step, so that "nothing was sent" is
//! certain when it is said: until the handshake is over not one byte of the request has left.
//! (A pooled connection may die while the request is written, which would be unknown.)

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokenward::{
    oauth::TokenRequest,
    time::Clock,
    transport::{Answer, Patience, Transport, TransportError},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    connector::{ConnectError, Connector, Destination},
    decode::{GZIP_MAGIC, decode_answer},
    tls::Protocols,
};

/// No token reply is larger, before and after it is decoded.
const LARGEST_ANSWER: usize = 1 << 20;
const MOST_HEADERS: usize = 4096;

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
        let (mut sender, connection) = lenient()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| not_sent(&error))?;
        let driver = self.connections.spawn(async move {
            // Its errors reach us through the sender.
            let _ = connection.await;
        });
        let _ended = AbortOnDrop(driver);
        sender.ready().await.map_err(|error| not_sent(&error))?;
        // The last moment: a process that was paused until now may have been taken over.
        if !patience.may_send(&*self.clock).await {
            return Err(TransportError::TooLate);
        }
        let mut heard = Heard::default();
        let end = timeout(patience.answer, heard.listen(&mut sender, message)).await;
        let end = match end {
            Ok(Err(Broken::Unsent(error))) => return Err(not_sent(&error)),
            Ok(Err(Broken::Silent(why))) => Err(why),
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(format!(
                "its answer did not end within {} s",
                patience.answer.as_secs_f32()
            )),
        };
        heard.answer(end, &host)
    }
}

/// Takes what browsers take. Nothing else travels on this connection, so that nobody can be
/// misled about where an answer ends.
fn lenient() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        // A head's size is bounded, and that is enough.
        .max_headers(MOST_HEADERS);
    builder
}

/// What has arrived so far.
#[derive(Default)]
struct Heard {
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
}

/// Why no more will arrive.
enum Broken {
    /// The connection ended before anything was written to it.
    Unsent(hyper::Error),
    Silent(String),
}

impl Heard {
    /// Sends the request and hears the answer out.
    async fn listen(
        &mut self,
        sender: &mut http1::SendRequest<Full<Bytes>>,
        message: Request<Full<Bytes>>,
    ) -> Result<(), Broken> {
        let response = sender
            .try_send_request(message)
            .await
            .map_err(|mut error| {
                let unsent = error.take_message().is_some();
                let error = error.into_error();
                if unsent {
                    Broken::Unsent(error)
                } else {
                    Broken::Silent(root(&error))
                }
            })?;
        let (parts, mut body) = response.into_parts();
        self.head = Some((parts.status, parts.headers));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Broken::Silent(root(&error)))?;
            if let Some(data) = frame.data_ref() {
                if self.body.len() + data.len() > LARGEST_ANSWER {
                    return Err(Broken::Silent(format!(
                        "its answer is larger than {LARGEST_ANSWER} bytes"
                    )));
                }
                self.body.extend_from_slice(data);
            }
        }
        Ok(())
    }

    /// The answer, if there is one. Where its end is missing, its reader still gets what says itself
    /// where it ends: if that is whole, a wrong length or a connection that stays open takes nothing away
    /// from it, and if it is not, the reader says so and keeps it. The rest is told to be cut off.
    fn answer(self, end: Result<(), String>, host: &str) -> Result<Answer, TransportError> {
        let silent = |why: String| format!("{host} did not answer: {why}");
        let Some((status, mut headers)) = self.head else {
            let why = end.err().unwrap_or_else(|| "nothing came".to_owned());
            return Err(TransportError::NoAnswer(silent(why)));
        };
        let body = decode_answer(&mut headers, self.body.into(), LARGEST_ANSWER);
        let ends = shows_its_end(&headers, &body);
        let answer = Answer {
            status,
            headers,
            body,
        };
        match end {
            Ok(()) => Ok(answer),
            Err(why) if ends => {
                tracing::warn!(%why, "an answer did not end as it should");
                Ok(answer)
            }
            Err(why) if answer.body.is_empty() => Err(TransportError::NoAnswer(silent(why))),
            Err(why) => Err(TransportError::CutOff {
                why: format!("{host} did not answer to the end: {why}"),
                so_far: Box::new(answer),
            }),
        }
    }
}

/// JSON and compressed bodies do; what is cut off a form or a text is not seen to be missing.
fn shows_its_end(headers: &HeaderMap, body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let coded = headers.contains_key(header::CONTENT_ENCODING) || body.starts_with(&GZIP_MAGIC);
    text.trim_ascii_start().starts_with(b"{") || (coded && !body.is_empty())
}

/// Ends a connection with the exchange that it was made for.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
