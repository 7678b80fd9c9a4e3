//! HTTP/1.1 connections whose requests are small, which is most of them, read and written without the layers
//! of an HTTP library. What is not spoken here (HTTP/2, long or chunked bodies, upgrades, whatever is
//! strange) goes to the library, and the connection with it.

use std::{future::poll_fn, io, pin::pin, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
};
use http_body::Body as _;
use http_body_util::Full;
use tokenward_http1::{
    delivery::{Ending, deliver, unless_gone},
    encode::{date, put_end, put_header, put_status},
    request::{self, Found},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{error::ApiError, linger::Linger, router::Server};
use crate::{
    gateway::{CallerBody, GatewayBody, Marks, Outcome, Plain, path::Form},
    listen::{Connection, timers::RequestGuard},
};

/// What is read at once.
const READ: usize = 8 * 1024;

/// How a connection leaves the lane.
#[derive(Debug)]
pub(super) enum Left {
    Closed,
    /// With what has arrived and was not answered.
    ToLibrary(BytesMut),
}

/// A connection in the lane.
#[derive(Debug)]
pub(super) struct Lane<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) server: &'a Arc<Server>,
    pub(super) connection: &'a Connection,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<'_, S> {
    /// Answers requests until the connection ends or needs the library.
    pub(super) async fn run(mut self) -> Left {
        // A client that hangs up is not worth a line in a log.
        self.serve().await.unwrap_or(Left::Closed)
    }

    async fn serve(&mut self) -> io::Result<Left> {
        let Connection { timer, closing, .. } = self.connection;
        let mut inbox = BytesMut::with_capacity(READ);
        let mut out = BytesMut::new();
        let mut ended = pin!(closing.clone().cancelled_owned());
        loop {
            let mut headers = request::room();
            match request::read(&inbox, &mut headers) {
                Found::Other => return Ok(Left::ToLibrary(inbox)),
                Found::Partial => {
                    inbox.reserve(READ);
                    let idle = inbox.is_empty();
                    if !idle {
                        timer.arriving();
                    }
                    let read = tokio::select! {
                        biased;
                        read = self.stream.read_buf(&mut inbox) => read?,
                        () = &mut ended, if idle => return Ok(Left::Closed),
                    };
                    if read == 0 {
                        return Ok(Left::Closed);
                    }
                }
                Found::Whole(request) => {
                    let admitted = timer.request();
                    let length = request.length;
                    let mut ahead = BytesMut::new();
                    let last = closing.is_cancelled();
                    match admitted {
                        Ok(guard) => {
                            self.answer(&request, guard, last, &mut ahead, &mut out)
                                .await?;
                        }
                        Err(_guard) => {
                            let to_head = request.method == Method::HEAD;
                            let error = ApiError::too_many_requests();
                            self.refuse(error, to_head, last, &mut ahead, &mut out)
                                .await?;
                        }
                    }
                    if last {
                        self.stream.shutdown().await?;
                        return Ok(Left::Closed);
                    }
                    inbox.advance(length);
                    inbox.extend_from_slice(&ahead);
                }
                Found::Refused(refusal) => {
                    let (Ok(mut guard) | Err(mut guard)) = timer.request();
                    guard.answered();
                    let error = ApiError::refused_by(refusal);
                    self.refuse(error, false, true, &mut BytesMut::new(), &mut out)
                        .await?;
                    self.stream.shutdown().await?;
                    let mut linger = Linger::new();
                    poll_fn(|context| linger.poll(self.stream, context)).await;
                    return Ok(Left::Closed);
                }
            }
        }
    }

    /// Answers one request. What arrives meanwhile is put in `ahead`.
    async fn answer(
        &mut self,
        request: &request::Request<'_>,
        mut guard: RequestGuard,
        last: bool,
        ahead: &mut BytesMut,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let date = date();
        let mut sent = None;
        if let Some(form) = Form::of(request.target) {
            let marks = Marks {
                request_id: &self.server.next_id(),
                date: &date,
                last,
            };
            let plain = Plain::of(form, request);
            let sending = self.server.gateway().send_plain(&plain, &marks, out);
            match unless_gone(self.stream, ahead, sending).await? {
                Outcome::Answered(mut relay, ending) => {
                    return deliver(self.stream, ahead, out, &mut relay, ending).await;
                }
                Outcome::Sent(already) => sent = Some(*already),
                Outcome::NotSent => {}
            }
        }
        let response = match as_message(request) {
            // Boxed: what waits for an answer this way is large.
            Ok(message) => {
                let answering = self.server.clone().answer(message, sent);
                unless_gone(self.stream, ahead, answering).await?
            }
            Err(error) => self.server.refuse(error),
        };
        if response.body().is_whole() {
            guard.answered();
        }
        let manner = Manner {
            to_head: request.method == Method::HEAD,
            last,
            date: &date,
        };
        self.write(response, manner, ahead, out).await
    }

    /// Answers a request at which nobody looks.
    async fn refuse(
        &mut self,
        error: ApiError,
        to_head: bool,
        last: bool,
        ahead: &mut BytesMut,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let response = self.server.refuse(error);
        let manner = Manner {
            to_head,
            last,
            date: &date(),
        };
        self.write(response, manner, ahead, out).await
    }

    async fn write(
        &mut self,
        response: Response<GatewayBody>,
        manner: Manner<'_>,
        ahead: &mut BytesMut,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        out.clear();
        let (parts, mut body) = response.into_parts();
        let ending = write_head(&parts, &body, manner, out);
        deliver(self.stream, ahead, out, &mut body, ending).await
    }
}

/// The request as an HTTP library would have read it.
fn as_message(request: &request::Request<'_>) -> Result<Request<CallerBody>, ApiError> {
    let body = CallerBody::Whole(Full::new(Bytes::copy_from_slice(request.body)));
    let mut message = Request::new(body);
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = request
        .target
        .parse()
        .map_err(|_| ApiError::invalid("The request's target is not a URL's path"))?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for header in request.headers {
        let wrong = || ApiError::invalid("A header cannot be read");
        headers.append(
            HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| wrong())?,
            HeaderValue::from_bytes(header.value).map_err(|_| wrong())?,
        );
    }
    *message.headers_mut() = headers;
    Ok(message)
}

/// How the head of an answer is to be written.
#[derive(Clone, Copy, Debug)]
struct Manner<'a> {
    /// The request was a `HEAD`.
    to_head: bool,
    /// It is the connection's last.
    last: bool,
    date: &'a [u8],
}

/// Writes the head; says how the end of the body is told.
fn write_head(
    parts: &http::response::Parts,
    body: &GatewayBody,
    manner: Manner<'_>,
    out: &mut BytesMut,
) -> Ending {
    put_status(out, parts.status);
    for (name, value) in &parts.headers {
        let ours = name == TRANSFER_ENCODING || name == CONNECTION || name == CONTENT_LENGTH;
        if !ours {
            put_header(out, name.as_str(), value.as_bytes());
        }
    }
    if !parts.headers.contains_key(DATE) {
        put_header(out, "date", manner.date);
    }
    if manner.last {
        put_header(out, "connection", b"close");
    }
    let ending = if manner.to_head || parts.status == StatusCode::NOT_MODIFIED {
        // It says what the body would be.
        if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
            put_header(out, "content-length", length.as_bytes());
        }
        Ending::NoBody
    } else if parts.status == StatusCode::NO_CONTENT {
        Ending::NoBody
    } else if let Some(length) = body.size_hint().exact() {
        put_header(out, "content-length", length.to_string().as_bytes());
        Ending::Length(length)
    } else {
        put_header(out, "transfer-encoding", b"chunked");
        Ending::Chunked
    };
    put_end(out);
    ending
}
