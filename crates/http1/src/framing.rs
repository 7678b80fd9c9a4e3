//! The bytes of a body (RFC 9112 sections 6 and 7).

use std::ops::ControlFlow;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::Malformed;

/// Lines between chunks, and what follows the last one.
const LONGEST_LINE: usize = 16 * 1024;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes more.
    /// It is 0 when all was taken.
    Length(u64),
    /// As its chunks say.
    Chunked(Chunks),
    /// With the connection.
    Close,
}

impl Framing {
    /// Whether all of the body was taken.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks(At::End)))
    }

    /// Takes the next piece of the body out of what has arrived. `None`: more must arrive, or
    /// [`is_done`](Self::is_done).
    ///
    /// # Errors
    ///
    /// [`Malformed`] chunks.
    pub fn next(&mut self, inbox: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks(At);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
    // A carriage return is no space: who takes it for the line's end reads another message.
    if line.contains(&b'\r') {
        return Err(Malformed("a chunk's line holds a carriage return"));
    }
    let mut size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    while let [rest @ .., b' ' | b'\t'] = size {
        size = rest;
    }
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
            b"4\r\r\nWiki\r\n",
            b"4;a\rb\r\nWiki\r\n",
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
