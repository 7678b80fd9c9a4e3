//! Writes what the ordinary way has answered.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, BytesMut};
use http::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
};
use http_body::Body as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::gateway::{GatewayBody, put_header, write_status};

/// What is written at once, about.
const PIECE: usize = 16 * 1024;

/// How the head of an answer is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner<'a> {
    /// The request was a `HEAD`.
    pub(super) to_head: bool,
    /// It is the connection's last.
    pub(super) last: bool,
    pub(super) date: &'a [u8],
}

/// Writes the whole of an answer.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    response: Response<GatewayBody>,
    manner: Manner<'_>,
    out: &mut BytesMut,
) -> io::Result<()> {
    out.clear();
    let (parts, mut body) = response.into_parts();
    let chunked = write_head(&parts, &body, manner, out);
    let without = manner.to_head
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if without {
        stream.write_all(out).await?;
        return stream.flush().await;
    }
    let mut promised = body.size_hint().exact();
    loop {
        let mut next = |context: &mut Context<'_>| Pin::new(&mut body).poll_frame(context);
        let frame = match poll_fn(|context| Poll::Ready(next(context))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                // What there is must not wait for what comes next.
                stream.write_all(out).await?;
                stream.flush().await?;
                out.clear();
                poll_fn(next).await
            }
        };
        let data = match frame {
            None => break,
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(broken)) => {
                // The caller gets what there was, and sees that it is not all.
                stream.write_all(out).await?;
                return Err(io::Error::other(broken));
            }
        };
        // Trailers are left out, and an empty chunk would be the last.
        let Some(data) = data.ok().filter(|data| !data.is_empty()) else {
            continue;
        };
        promised = promised.map(|left| left.saturating_sub(data.len() as u64));
        if chunked {
            out.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        out.put_slice(&data);
        if chunked {
            out.put_slice(b"\r\n");
        }
        if out.len() >= PIECE {
            stream.write_all(out).await?;
            out.clear();
        }
    }
    if promised.is_some_and(|left| left > 0) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if chunked {
        out.put_slice(b"0\r\n\r\n");
    }
    stream.write_all(out).await?;
    // TLS may still hold some of it.
    stream.flush().await
}

/// Writes the head. Whether the body goes in chunks.
fn write_head(
    parts: &http::response::Parts,
    body: &GatewayBody,
    manner: Manner<'_>,
    out: &mut BytesMut,
) -> bool {
    write_status(parts.status, out);
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
    let bodiless = manner.to_head || parts.status == StatusCode::NOT_MODIFIED;
    let mut chunked = false;
    if bodiless {
        // It says what the body would be.
        if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
            put_header(out, "content-length", length.as_bytes());
        }
    } else if parts.status != StatusCode::NO_CONTENT {
        match body.size_hint().exact() {
            Some(length) => put_header(out, "content-length", length.to_string().as_bytes()),
            None => {
                put_header(out, "transfer-encoding", b"chunked");
                chunked = true;
            }
        }
    }
    out.put_slice(b"\r\n");
    chunked
}
