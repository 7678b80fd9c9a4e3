//! The lane: HTTP/1.1 connections whose requests are small, which is most of them, read and
//! written without the layers of an HTTP library. A plain request to `/proxy` goes the express way
//! ([`crate::gateway::Gateway::express`]), others are given to those who answer them as always.
//! What the lane does not speak (HTTP/2, long or chunked bodies, upgrades, whatever is strange)
//! goes to the library, and the connection with it.

mod answer;
mod request;

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::{io::poll_read_buf, sync::CancellationToken};

use self::{
    answer::Manner,
    request::{Asked, Found, MOST_HEADERS},
};
use crate::{
    front::router::Server,
    gateway::{CallerBody, Express, Marks, Relay},
    listen::Quiet,
};

/// What is read at once.
const READ: usize = 8 * 1024;

/// How a connection leaves the lane.
#[derive(Debug)]
pub(crate) enum Left {
    Closed,
    /// With what has arrived and was not answered.
    ToLibrary(BytesMut),
}

/// A connection in the lane.
#[derive(Debug)]
pub(crate) struct Lane<S> {
    pub(crate) stream: S,
    pub(crate) server: Arc<Server>,
    pub(crate) quiet: Arc<Quiet>,
    /// Cancelled when no further request is to be read.
    pub(crate) closing: CancellationToken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// Answers requests until the connection ends or needs the library.
    pub(crate) async fn run(&mut self) -> Left {
        // Whoever hangs up is no news.
        self.serve().await.unwrap_or(Left::Closed)
    }

    async fn serve(&mut self) -> io::Result<Left> {
        let mut inbox = BytesMut::with_capacity(READ);
        let mut out = BytesMut::new();
        let mut closing = pin!(self.closing.clone().cancelled_owned());
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
            match request::read(&inbox, &mut headers) {
                Found::Foreign => return Ok(Left::ToLibrary(inbox)),
                Found::Part => {
                    inbox.reserve(READ);
                    let idle = inbox.is_empty();
                    let read = tokio::select! {
                        biased;
                        read = self.stream.read_buf(&mut inbox) => read?,
                        () = &mut closing, if idle => return Ok(Left::Closed),
                    };
                    if read == 0 {
                        return Ok(Left::Closed);
                    }
                }
                Found::Asked(asked) => {
                    let busy = self.quiet.begin(Version::HTTP_11);
                    let length = asked.length;
                    let mut ahead = BytesMut::new();
                    let last = self.closing.is_cancelled();
                    self.answer(&asked, last, &mut ahead, &mut out).await?;
                    drop(busy);
                    if last {
                        self.stream.shutdown().await?;
                        return Ok(Left::Closed);
                    }
                    inbox.advance(length);
                    inbox.extend_from_slice(&ahead);
                }
            }
        }
    }

    /// Answers one request. What arrives meanwhile is put in `ahead`.
    async fn answer(
        &mut self,
        asked: &Asked<'_>,
        last: bool,
        ahead: &mut BytesMut,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let date = date();
        let mut passed = None;
        if let Some(plain) = asked.plain() {
            let marks = Marks {
                request_id: &self.server.next_id(),
                date: &date,
                last,
            };
            let gateway = self.server.gateway();
            let sending = gateway.express(&plain, &marks, out);
            match unless_gone(&mut self.stream, ahead, sending).await? {
                Express::Answered(relay) => return self.relay(relay, out).await,
                Express::Passed(sent) => passed = Some(*sent),
                Express::Not => {}
            }
        }
        let request = ordinary(asked)?;
        // Boxed: what waits for an answer the ordinary way is large.
        let answering = self.server.clone().answer(request, passed);
        let response = unless_gone(&mut self.stream, ahead, answering).await?;
        let manner = Manner {
            to_head: asked.method == Method::HEAD,
            last,
            date: &date,
        };
        answer::write(&mut self.stream, response, manner, out).await
    }

    /// Writes what `out` holds, then the body that follows it.
    async fn relay(&mut self, mut relay: Relay, out: &mut BytesMut) -> io::Result<()> {
        // Most bodies are here already, and go with the head.
        let mut broken = None;
        while out.len() < READ
            && let Some(piece) = relay.ready_piece()
        {
            match piece {
                Ok(piece) => out.extend_from_slice(&piece),
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        self.stream.write_all(out).await?;
        // The caller got what there was, and sees that it is not all.
        broken.map_or(Ok(()), |error| Err(io::Error::other(error)))?;
        while let Some(piece) = relay.piece().await {
            let piece = piece.map_err(io::Error::other)?;
            self.stream.write_all(&piece).await?;
        }
        // TLS may still hold some of it.
        self.stream.flush().await
    }
}

/// The request for those who answer it the ordinary way.
fn ordinary(asked: &Asked<'_>) -> io::Result<Request<CallerBody>> {
    let strange = |_| io::Error::from(io::ErrorKind::InvalidData);
    let body = CallerBody::Whole(Full::new(Bytes::copy_from_slice(asked.body)));
    let mut request = Request::new(body);
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = asked.target.parse().map_err(|_| strange(()))?;
    let mut headers = HeaderMap::with_capacity(asked.headers.len());
    for header in asked.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| strange(()))?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| strange(()))?;
        headers.append(name, value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// Waits for this, unless the caller goes away first. What the caller sends ahead is kept.
async fn unless_gone<T>(
    stream: &mut (impl AsyncRead + Unpin),
    ahead: &mut BytesMut,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        match read_ahead(stream, ahead, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(gone) => Poll::Ready(Err(gone)),
        }
    })
    .await
}

/// Ready when the caller has gone away.
fn read_ahead(
    stream: &mut (impl AsyncRead + Unpin),
    ahead: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Error> {
    // Who sends more than this ahead is read later.
    while ahead.len() < READ {
        ahead.reserve(READ);
        match ready!(poll_read_buf(Pin::new(&mut *stream), context, ahead)) {
            Ok(0) => return Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
            Ok(_) => {}
            Err(error) => return Poll::Ready(error),
        }
    }
    Poll::Pending
}

/// The present date (RFC 9110 section 5.6.7), made anew each second.
#[expect(
    clippy::disallowed_methods,
    reason = "for people and caches; nothing is decided by it"
)]
fn date() -> [u8; 29] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((0, [b' '; 29])) };
    }
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.unwrap_or(Duration::ZERO).as_secs();
    let (last, text) = LAST.get();
    if last == seconds {
        return text;
    }
    let mut text = [b' '; 29];
    text.copy_from_slice(httpdate::fmt_http_date(now).as_bytes());
    LAST.set((seconds, text));
    text
}
