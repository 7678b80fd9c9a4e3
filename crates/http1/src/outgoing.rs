//! A request that is being written: its head, and its body as it comes.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, header::CONTENT_LENGTH};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    encode::{LAST_CHUNK, expects_body, put_chunk_size, put_end, put_header, put_request_line},
    wire::Wire,
};

/// What failed of a request on its way.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError<E> {
    /// The connection.
    #[error("{0}")]
    Wire(#[source] io::Error),
    /// The body: whoever makes it did not make all of it.
    #[error("{0}")]
    Body(E),
}

/// The head and as much of the body as there is.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// Encoded and not written yet.
    queue: VecDeque<Bytes>,
    body: B,
    chunked: bool,
    ended: bool,
    /// How many bytes were written.
    written: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    /// A request to `path` at `host` with these headers; the body's length or chunks are added.
    pub fn new(method: &Method, path: &str, host: &[u8], headers: &HeaderMap, body: B) -> Self {
        let mut head = BytesMut::with_capacity(1024);
        put_request_line(&mut head, method, path, host);
        for (name, value) in headers {
            if name != CONTENT_LENGTH {
                put_header(&mut head, name.as_str(), value.as_bytes());
            }
        }
        let length = body.size_hint().exact();
        match length {
            Some(0) if !expects_body(method) => {}
            Some(length) => {
                put_header(&mut head, "content-length", length.to_string().as_bytes());
            }
            None => put_header(&mut head, "transfer-encoding", b"chunked"),
        }
        put_end(&mut head);
        Self {
            queue: [head.freeze()].into(),
            ended: body.is_end_stream(),
            body,
            chunked: length.is_none(),
            written: 0,
        }
    }

    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The body of a request of which nothing was written.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Writes until all is written.
    pub fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), OutgoingError<B::Error>>> {
        loop {
            while !self.queue.is_empty() {
                let count = ready!(wire.poll_write_queue(context, &self.queue))
                    .map_err(OutgoingError::Wire)?;
                self.written += count as u64;
                self.advance(count);
            }
            if self.ended {
                return wire.poll_flush(context).map_err(OutgoingError::Wire);
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    // What there is must not wait for what comes next.
                    ready!(wire.poll_flush(context)).map_err(OutgoingError::Wire)?;
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    if self.chunked {
                        self.queue.push_back(Bytes::from_static(LAST_CHUNK));
                    }
                }
                Poll::Ready(Some(frame)) => {
                    if let Ok(data) = frame.map_err(OutgoingError::Body)?.into_data() {
                        self.push(data);
                    }
                }
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if !self.chunked {
            return self.queue.push_back(data);
        }
        let mut size = BytesMut::with_capacity(18);
        put_chunk_size(&mut size, data.len());
        let end = Bytes::from_static(b"\r\n");
        self.queue.extend([size.freeze(), data, end]);
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.queue.pop_front();
        }
    }
}
