//! Bodies that must be read although their sender has compressed them (RFC 9110 8.4).
//!
//! Without `Accept-Encoding` a server may choose any coding, and a caller's own `Accept-Encoding`
//! reaches the API: error bodies and token replies come compressed whatever was asked for.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status, bufread::GzDecoder};
use http::{HeaderMap, header};
use ruzstd::decoding::{
    FrameDecoder, StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// Nobody applies more codings in a row; somebody who wants to cost us time does.
const MOST_CODINGS: usize = 5;
/// The largest window that a sender may use (RFC 9659).
const ZSTD_WINDOW: u64 = 8 << 20;
/// How a gzip member begins; no JSON and no form does.
pub(super) const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A coding that is not known here.
    #[error("the content coding `{0}` is not known")]
    Unknown(String),
    /// More codings in a row than anybody means.
    #[error("more than {MOST_CODINGS} content codings in a row")]
    TooMany,
    /// The decoded body would be larger than was asked for.
    #[error("the decoded body is larger than {0} bytes")]
    TooLarge(usize),
    /// It is cut off, or not what its coding says.
    #[error("the body is not whole {coding}: {why}")]
    Broken {
        /// The coding.
        coding: &'static str,
        /// In the decoder's words.
        why: io::Error,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// `None` for a coding that changes nothing.
    fn parse(name: &[u8]) -> Result<Option<Self>, DecodeError> {
        let known: [(&[u8], Option<Self>); 8] = [
            (b"gzip", Some(Self::Gzip)),
            (b"x-gzip", Some(Self::Gzip)),
            (b"deflate", Some(Self::Deflate)),
            (b"br", Some(Self::Brotli)),
            (b"zstd", Some(Self::Zstd)),
            (b"identity", None),
            // Senders' words for it, which were never registered.
            (b"none", None),
            (b"", None),
        ];
        known
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map(|(_, coding)| *coding)
            .ok_or_else(|| {
                DecodeError::Unknown(name.escape_ascii().take(40).map(char::from).collect())
            })
    }
}

/// The body as it was before the codings that `content_encoding` names were applied to it, at most
/// `limit` bytes of it (between two codings, too).
///
/// # Errors
///
/// [`DecodeError`]. A body that is cut off is an error, an empty one is not (an answer to `HEAD`).
/// What follows behind the end of a compressed stream is left out, as browsers do.
pub fn decode_body(
    content_encoding: &[u8],
    body: Bytes,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    let mut codings = Vec::new();
    for name in content_encoding.split(|byte| *byte == b',') {
        codings.extend(Coding::parse(name.trim_ascii())?);
        if codings.len() > MOST_CODINGS {
            return Err(DecodeError::TooMany);
        }
    }
    let mut body = body;
    // They are named in the order in which they were applied.
    for coding in codings.into_iter().rev() {
        if body.is_empty() {
            break;
        }
        body = undo(coding, &body, limit)?;
    }
    if body.len() > limit {
        return Err(DecodeError::TooLarge(limit));
    }
    Ok(body)
}

/// The codings of a message: all its `Content-Encoding` lines.
pub fn content_encoding(headers: &HeaderMap) -> Cow<'_, [u8]> {
    let mut lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(first) = lines.next() else {
        return Cow::Borrowed(b"");
    };
    lines.fold(Cow::Borrowed(first.as_bytes()), |so_far, line| {
        Cow::Owned([&so_far, line.as_bytes()].join(&b','))
    })
}

/// Decodes a whole answer in place as far as that can be done. What cannot be decoded stays as it
/// came: somebody may still be able to read it.
pub(super) fn decode_answer(headers: &mut HeaderMap, body: Bytes, limit: usize) -> Bytes {
    let named = content_encoding(headers);
    let codings: &[u8] = if named.is_empty() && body.starts_with(&GZIP_MAGIC) {
        b"gzip"
    } else {
        &named
    };
    match decode_body(codings, body.clone(), limit) {
        Ok(decoded) => {
            headers.remove(header::CONTENT_ENCODING);
            decoded
        }
        Err(error) => {
            tracing::warn!(%error, "an answer's body could not be decoded");
            body
        }
    }
}

fn undo(coding: Coding, body: &[u8], limit: usize) -> Result<Bytes, DecodeError> {
    let mut decoded = Bounded {
        bytes: Vec::new(),
        limit,
    };
    let whole = match coding {
        Coding::Gzip => gzip(body, &mut decoded),
        Coding::Deflate => deflate(body, &mut decoded),
        Coding::Brotli => decoded.fill(brotli_decompressor::Decompressor::new(body, 4096)),
        Coding::Zstd => zstd(body, &mut decoded),
    };
    match whole {
        _ if decoded.is_over() => Err(DecodeError::TooLarge(limit)),
        Ok(()) => Ok(decoded.bytes.into()),
        Err(why) => Err(DecodeError::Broken {
            coding: coding.name(),
            why,
        }),
    }
}

/// Output that stops growing one byte past its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    fn is_over(&self) -> bool {
        self.bytes.len() > self.limit
    }

    fn room(&self) -> usize {
        (self.limit + 1).saturating_sub(self.bytes.len())
    }

    fn fill(&mut self, decoder: impl Read) -> io::Result<()> {
        let room = self.room() as u64;
        decoder.take(room).read_to_end(&mut self.bytes).map(drop)
    }
}

/// One member after the other (RFC 1952 2.2).
fn gzip(mut body: &[u8], decoded: &mut Bounded) -> io::Result<()> {
    loop {
        let mut member = GzDecoder::new(body);
        decoded.fill(&mut member)?;
        body = member.into_inner();
        if decoded.is_over() || !body.starts_with(&GZIP_MAGIC) {
            return Ok(());
        }
    }
}

/// `deflate` is the zlib form (RFC 9110 8.4.1.2); some servers send the bare one.
fn deflate(body: &[u8], decoded: &mut Bounded) -> io::Result<()> {
    let as_zlib = inflate(body, true, decoded);
    if as_zlib.is_ok() || decoded.is_over() {
        return as_zlib;
    }
    decoded.bytes.clear();
    // If it is neither, the standard's form says what is wrong.
    inflate(body, false, decoded).or(as_zlib)
}

/// Step by step: flate2's reader takes the end of its input for the end of the stream.
fn inflate(body: &[u8], zlib: bool, decoded: &mut Bounded) -> io::Result<()> {
    let mut stream = Decompress::new(zlib);
    loop {
        let before = (stream.total_in(), stream.total_out());
        decoded.bytes.reserve(decoded.room().min(16 << 10));
        let rest = usize::try_from(before.0).map_or(&[][..], |taken| &body[taken..]);
        let status = stream
            .decompress_vec(rest, &mut decoded.bytes, FlushDecompress::None)
            .map_err(io::Error::other)?;
        if status == Status::StreamEnd || decoded.is_over() {
            return Ok(());
        }
        if before == (stream.total_in(), stream.total_out()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// One frame after the other; those that are to be skipped are (RFC 8878 3.1).
fn zstd(mut body: &[u8], decoded: &mut Bounded) -> io::Result<()> {
    let mut first = true;
    while !decoded.is_over() && (first || begins_a_frame(body)) {
        first = false;
        match StreamingDecoder::new_with_max_window_size(&mut body, ZSTD_WINDOW) {
            Ok(mut frame) => {
                decoded.fill(&mut frame)?;
                if !decoded.is_over() {
                    check(&frame.decoder)?;
                }
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                body = usize::try_from(length)
                    .ok()
                    .and_then(|length| body.get(length..))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(())
}

fn begins_a_frame(body: &[u8]) -> bool {
    matches!(
        body,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
    )
}

/// The decoder computes the checksum of a frame that has one, and leaves comparing to us.
fn check(frame: &FrameDecoder) -> io::Result<()> {
    match frame.get_checksum_from_data() {
        Some(sum) if frame.get_calculated_checksum() != Some(sum) => {
            Err(io::Error::other("the checksum is another"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
