//! Heads and chunks as they are written.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use bytes::{BufMut as _, BytesMut};
use http::{Method, StatusCode};

/// The first line of a request, and its `Host` (RFC 9112 section 3.2).
pub fn put_request_line(head: &mut BytesMut, method: &Method, path: &str, host: &[u8]) {
    head.put_slice(method.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(path.as_bytes());
    head.put_slice(b" HTTP/1.1\r\n");
    put_header(head, "host", host);
}

/// The first line of an answer.
pub fn put_status(head: &mut BytesMut, status: StatusCode) {
    head.put_slice(b"HTTP/1.1 ");
    head.put_slice(status.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.put_slice(b"\r\n");
}

/// A header's line.
pub fn put_header(head: &mut BytesMut, name: &str, value: &[u8]) {
    head.put_slice(name.as_bytes());
    head.put_slice(b": ");
    head.put_slice(value);
    head.put_slice(b"\r\n");
}

/// The end of a head.
pub fn put_end(head: &mut BytesMut) {
    head.put_slice(b"\r\n");
}

/// A chunk of a body; an empty one would be the last, and is left out.
pub fn put_chunk(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    put_chunk_size(out, data.len());
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

pub(crate) fn put_chunk_size(out: &mut BytesMut, size: usize) {
    let mut digits = [0; 16];
    let mut place = digits.len();
    let mut left = size;
    loop {
        place -= 1;
        digits[place] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.put_slice(&digits[place..]);
    out.put_slice(b"\r\n");
}

/// What ends a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Whether a request of this method says that its body is empty (RFC 9110 section 8.6).
pub fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The present date (RFC 9110 section 5.6.7), made anew each second.
#[expect(
    clippy::disallowed_methods,
    reason = "for people and caches; nothing is decided by it"
)]
pub fn date() -> [u8; 29] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_chunks_are_hexadecimal() {
        for (size, written) in [
            (1, "1\r\n"),
            (15, "f\r\n"),
            (16, "10\r\n"),
            (65_536, "10000\r\n"),
        ] {
            let mut out = BytesMut::new();
            put_chunk_size(&mut out, size);
            assert_eq!(out, written.as_bytes());
        }
    }
}
