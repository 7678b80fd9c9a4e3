//! What an HTTP/1.1 answer's head says of its body, and the body's bytes (RFC 9112 section 6).

use std::ops::ControlFlow;

use bytes::{Buf as _, Bytes, BytesMut};

/// More headers than this no API sends.
pub(super) const MOST_HEADERS: usize = 100;
/// Lines between chunks, and what follows the last one.
const LONGEST_LINE: usize = 16 * 1024;

/// An answer that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API's answer is not HTTP/1.1: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Where a body ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// As its chunks say.
    Chunked(Chunks),
    /// With the connection.
    Close,
}

/// What the head says beside its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nature {
    pub(super) framing: Framing,
    /// Whether the connection can be used again.
    pub(super) keep: bool,
}

/// How an answer's body ends, from its head. `to_head`: the request was a `HEAD`.
pub(super) fn nature(
    head: &httparse::Response<'_, '_>,
    to_head: bool,
) -> Result<Nature, Malformed> {
    let mut keep = head.version == Some(1);
    let mut length = None;
    let mut chunked = false;
    for header in &*head.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let said = decimal(header.value).ok_or(Malformed("its length is no number"))?;
            if length.replace(said).is_some_and(|other| other != said) {
                return Err(Malformed("it has two lengths"));
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("its transfer coding is not known"));
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep &= !header
                .value
                .split(|byte| *byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    let without = to_head || matches!(head.code, Some(204 | 304));
    let framing = match (chunked, length) {
        _ if without => Framing::Length(0),
        // A length beside it is not believed, and the connection not used again.
        (true, length) => {
            keep &= length.is_none();
            Framing::Chunked(Chunks::default())
        }
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    };
    keep &= framing != Framing::Close;
    Ok(Nature { framing, keep })
}

/// Digits and nothing else (RFC 9110 section 8.6).
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Framing {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks(At::End)))
    }

    /// Takes the next piece of the body out of what has arrived. `Continue`: more must arrive.
    pub(super) fn next(&mut self, inbox: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        match self {
            Self::Length(left) => {
                let there = inbox
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= there as u64;
                Ok(piece(inbox, there))
            }
            Self::Chunked(chunks) => chunks.next(inbox),
            Self::Close => {
                let there = inbox.len();
                Ok(piece(inbox, there))
            }
        }
    }
}

fn piece(inbox: &mut BytesMut, length: usize) -> Option<Bytes> {
    (length > 0).then(|| inbox.split_to(length).freeze())
}

/// Where in the chunks of a body (RFC 9112 section 7.1).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks(At);

#[derive(Debug, PartialEq, Eq, Default)]
enum At {
    /// In a line with a size.
    #[default]
    Size,
    Data(u64),
    /// In the line end after data.
    DataEnd,
    /// In the lines after the last chunk, of which so much has been read.
    Trailers(usize),
    End,
}

impl Chunks {
    fn next(&mut self, inbox: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        loop {
            match self.step(inbox)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(piece) => return Ok(piece),
            }
        }
    }

    fn step(&mut self, inbox: &mut BytesMut) -> Result<ControlFlow<Option<Bytes>>, Malformed> {
        match self.0 {
            At::End => return Ok(ControlFlow::Break(None)),
            At::Data(left) => {
                let there = inbox.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - there as u64;
                self.0 = if left == 0 {
                    At::DataEnd
                } else {
                    At::Data(left)
                };
                if there == 0 {
                    return Ok(ControlFlow::Break(None));
                }
                return Ok(ControlFlow::Break(piece(inbox, there)));
            }
            _ => {}
        }
        let Some(line) = line(inbox)? else {
            return Ok(ControlFlow::Break(None));
        };
        self.0 = match self.0 {
            At::DataEnd if line.is_empty() => At::Size,
            At::DataEnd => return Err(Malformed("a chunk is longer than it says")),
            At::Size => match size(&line)? {
                0 => At::Trailers(0),
                size => At::Data(size),
            },
            // Trailers are read and left out.
            At::Trailers(_) if line.is_empty() => At::End,
            At::Trailers(read) if read + line.len() > LONGEST_LINE => {
                return Err(Malformed("its trailers do not end"));
            }
            At::Trailers(read) => At::Trailers(read + line.len()),
            At::Data(_) | At::End => unreachable!("they have no lines"),
        };
        Ok(ControlFlow::Continue(()))
    }
}

/// Takes a line out of what has arrived, without its end.
fn line(inbox: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = inbox.iter().position(|byte| *byte == b'\n') else {
        if inbox.len() > LONGEST_LINE {
            return Err(Malformed("a line between chunks does not end"));
        }
        return Ok(None);
    };
    let mut line = inbox.split_to(end).freeze();
    inbox.advance(1);
    // A bare line feed ends no line here: others might read on (RFC 9112 section 2.2).
    if line.last() != Some(&b'\r') {
        return Err(Malformed(
            "a line between chunks ends without a carriage return",
        ));
    }
    line.truncate(line.len() - 1);
    Ok(Some(line))
}

/// The size in a chunk's first line; extensions are passed over.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let size = size.trim_ascii_end();
    let wrong = Malformed("a chunk's size is no number");
    if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong);
    }
    let text = std::str::from_utf8(size).map_err(|_| wrong)?;
    u64::from_str_radix(text, 16).map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nature_of(head: &str) -> Result<Nature, Malformed> {
        nature_to(head, false)
    }

    fn nature_to(head: &str, to_head: bool) -> Result<Nature, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut parsed = httparse::Response::new(&mut headers);
        assert!(parsed.parse(head.as_bytes()).unwrap().is_complete());
        nature(&parsed, to_head)
    }

    /// All of a body that arrives in pieces of so many bytes, and whether it has ended.
    fn read(
        mut framing: Framing,
        sent: &[u8],
        pieces: usize,
    ) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let (mut inbox, mut read) = (BytesMut::new(), Vec::new());
        for arriving in sent.chunks(pieces) {
            inbox.extend_from_slice(arriving);
            while let Some(piece) = framing.next(&mut inbox)? {
                read.extend_from_slice(&piece);
            }
        }
        Ok((read, framing.is_done(), inbox.len()))
    }

    #[test]
    fn a_head_says_where_its_body_ends() {
        let of = |headers: &str| nature_of(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"));
        let length = |left, keep| {
            Ok(Nature {
                framing: Framing::Length(left),
                keep,
            })
        };
        assert_eq!(of("Content-Length: 5\r\n"), length(5, true));
        assert_eq!(
            of("content-length: 5\r\nconnection: foo, Close\r\n"),
            length(5, false)
        );
        assert_eq!(
            of("content-length: 5\r\ncontent-length: 5\r\n"),
            length(5, true)
        );
        assert!(of("content-length: 5\r\ncontent-length: 6\r\n").is_err());
        for wrong in ["+5", "5, 5", "0x5", "", "-1", "99999999999999999999"] {
            assert!(
                of(&format!("content-length: {wrong}\r\n")).is_err(),
                "{wrong}"
            );
        }
        assert!(of("transfer-encoding: gzip, chunked\r\n").is_err());
        let close = Nature {
            framing: Framing::Close,
            keep: false,
        };
        assert_eq!(of(""), Ok(close));
        let both = of("content-length: 5\r\ntransfer-encoding: chunked\r\n").unwrap();
        assert_eq!(both.framing, Framing::Chunked(Chunks::default()));
        assert!(!both.keep);
        let old = nature_of("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap();
        assert!(!old.keep);
        assert_eq!(
            nature_of("HTTP/1.1 304 X\r\ncontent-length: 9\r\n\r\n"),
            length(0, true)
        );
        assert_eq!(
            nature_to("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n", true),
            length(0, true)
        );
    }

    #[test]
    fn chunks_are_read_as_they_come() {
        let sent = b"4;name=value\r\nWiki\r\nC  \r\npedia in \r\nc\r\n0\r\nTrailer: x\r\n\r\nnext";
        for pieces in 1..sent.len() {
            let (body, done, left) =
                read(Framing::Chunked(Chunks::default()), sent, pieces).unwrap();
            assert_eq!(body, b"Wikipedia in \r\nc", "in pieces of {pieces}");
            assert!(done);
            assert_eq!(left, 4);
        }
    }

    #[test]
    fn chunks_that_make_no_sense_are_an_error() {
        for wrong in [
            &b"x\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"0x4\r\nWiki\r\n",
            b"11111111111111111\r\n",
            b"4\r\nWikipedia\r\n",
            b"4\nWiki\r\n",
        ] {
            assert!(read(Framing::Chunked(Chunks::default()), wrong, 3).is_err());
        }
        let endless = vec![b'1'; LONGEST_LINE + 2];
        assert!(read(Framing::Chunked(Chunks::default()), &endless, 1000).is_err());
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunks(body in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1..50usize, pieces in 1..70usize) {
            let mut sent = Vec::new();
            for chunk in body.chunks(chunk) {
                sent.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\n\r\n");
            let (found, done, left) = read(Framing::Chunked(Chunks::default()), &sent, pieces).unwrap();
            prop_assert_eq!(found, body);
            prop_assert!(done);
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn nothing_that_arrives_is_a_panic(sent in proptest::collection::vec(any::<u8>(), 0..300), pieces in 1..70usize) {
            let _ = read(Framing::Chunked(Chunks::default()), &sent, pieces);
        }
    }
}
