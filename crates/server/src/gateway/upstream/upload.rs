//! A request on its way to an API over HTTP/1.1.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Method, header::CONTENT_LENGTH, request::Parts};
use http_body::Body as _;

use super::wire::Wire;
use crate::gateway::{body::OutBody, target::Target};

/// What failed of a request on its way.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Wire(#[source] io::Error),
    /// The caller did not send all of its body.
    #[error("{0}")]
    Caller(#[source] hyper::Error),
}

/// The head and as much of the body as there is.
#[derive(Debug)]
pub(super) struct Upload {
    /// Encoded and not written yet.
    queue: VecDeque<Bytes>,
    body: OutBody,
    chunked: bool,
    ended: bool,
    /// Whether anything was written.
    begun: bool,
}

impl Upload {
    /// The host is in a header, and only the path in the request line (RFC 9112 section 3.2).
    pub(super) fn new(target: &Target, request: &Parts, body: OutBody) -> Self {
        let mut head = BytesMut::with_capacity(1024);
        head.put_slice(request.method.as_str().as_bytes());
        head.put_u8(b' ');
        head.put_slice(target.path.as_str().as_bytes());
        head.put_slice(b" HTTP/1.1\r\nhost: ");
        head.put_slice(target.origin.host.as_bytes());
        head.put_slice(b"\r\n");
        for (name, value) in &request.headers {
            if name != CONTENT_LENGTH {
                put_header(&mut head, name.as_str(), value.as_bytes());
            }
        }
        let length = body.size_hint().exact();
        match length {
            Some(0) if !expects_body(&request.method) => {}
            Some(length) => {
                put_header(&mut head, "content-length", length.to_string().as_bytes());
            }
            None => put_header(&mut head, "transfer-encoding", b"chunked"),
        }
        head.put_slice(b"\r\n");
        Self {
            queue: [head.freeze()].into(),
            ended: body.is_end_stream(),
            body,
            chunked: length.is_none(),
            begun: false,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The body of a request of which nothing was written.
    pub(super) fn into_body(self) -> OutBody {
        self.body
    }

    /// Writes until all is written.
    pub(super) fn poll(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.queue.is_empty() {
                let written =
                    ready!(wire.poll_write_queue(context, &self.queue)).map_err(Broken::Wire)?;
                self.begun = true;
                self.written(written);
            }
            if self.ended {
                return wire.poll_flush(context).map_err(Broken::Wire);
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    // What there is must not wait for what comes next.
                    ready!(wire.poll_flush(context)).map_err(Broken::Wire)?;
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    if self.chunked {
                        self.queue.push_back(Bytes::from_static(b"0\r\n\r\n"));
                    }
                }
                Poll::Ready(Some(frame)) => {
                    if let Ok(data) = frame.map_err(Broken::Caller)?.into_data() {
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
        let size = format!("{:x}\r\n", data.len());
        let end = Bytes::from_static(b"\r\n");
        self.queue.extend([size.into(), data, end]);
    }

    fn written(&mut self, mut count: usize) {
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.queue.pop_front();
        }
    }
}

/// Whether a request of this method says that its body is empty (RFC 9110 section 8.6).
pub(crate) fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

pub(crate) fn put_header(head: &mut BytesMut, name: &str, value: &[u8]) {
    head.put_slice(name.as_bytes());
    head.put_slice(b": ");
    head.put_slice(value);
    head.put_slice(b"\r\n");
}
