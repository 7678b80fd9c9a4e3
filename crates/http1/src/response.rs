//! The head of an answer, and where its body ends (RFC 9112 sections 4 and 6.3).

use std::mem::MaybeUninit;

use http::StatusCode;
use httparse::Header;

use crate::{
    Malformed, decimal,
    framing::{Chunks, Framing},
    lower,
};

/// Room for as many headers as nearly every answer has.
const USUAL_HEADERS: usize = 64;
/// An answer's headers are limited by their size ([`LONGEST_HEAD`]); a line is three bytes at least, but
/// who sends more than this sends no headers.
const MOST_HEADERS: usize = 4096;
/// Longer heads no server sends.
pub const LONGEST_HEAD: usize = 256 * 1024;

/// The head of an answer.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as they came.
    pub headers: &'a [Header<'a>],
    /// Where its body ends, and what then becomes of the connection.
    pub nature: Nature,
}

/// What a head says beside its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection can be used again.
    pub keep: bool,
}

/// What [`read`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Not the whole head yet.
    Partial,
    /// An interim answer (RFC 9110 section 15.2) of so many bytes.
    Interim(usize),
    /// What was made of the head, and its length.
    Head(T, usize),
}

/// Reads the head of an answer and shows it to `take`. `to_head`: the request was a `HEAD`.
///
/// # Errors
///
/// [`Malformed`].
pub fn read<T>(
    bytes: &[u8],
    to_head: bool,
    take: impl FnOnce(ResponseHead<'_>) -> T,
) -> Result<Found<T>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut head = httparse::Response::new(&mut []);
    match parser().parse_response_with_uninit_headers(&mut head, bytes, &mut headers) {
        Err(httparse::Error::TooManyHeaders) => {}
        parsed => return found(parsed, &head, bytes.len(), to_head, take),
    }
    let mut headers = vec![httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = parser().parse_response(&mut head, bytes);
    found(parsed, &head, bytes.len(), to_head, take)
}

/// A space before the colon is taken away (RFC 9112 section 5.1); nothing else is forgiven.
fn parser() -> httparse::ParserConfig {
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    parser
}

fn found<T>(
    parsed: httparse::Result<usize>,
    head: &httparse::Response<'_, '_>,
    there: usize,
    to_head: bool,
    take: impl FnOnce(ResponseHead<'_>) -> T,
) -> Result<Found<T>, Malformed> {
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if there > LONGEST_HEAD => {
            return Err(Malformed("its head does not end"));
        }
        Ok(httparse::Status::Partial) => return Ok(Found::Partial),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed("it has too many headers"));
        }
        Err(httparse::Error::Status) => return Err(Malformed("its status line is wrong")),
        Err(httparse::Error::Version) => return Err(Malformed("its version is not 1.0 or 1.1")),
        Err(_) => return Err(Malformed("its head cannot be read")),
    };
    let code = head.code.unwrap_or_default();
    match code {
        // Nobody has offered to speak another protocol.
        101 => return Err(Malformed("it switches to another protocol")),
        100..200 => return Ok(Found::Interim(length)),
        _ => {}
    }
    let status =
        StatusCode::from_u16(code).map_err(|_| Malformed("its status is not three digits"))?;
    let nature = nature(head, to_head)?;
    let head = ResponseHead {
        status,
        headers: &*head.headers,
        nature,
    };
    Ok(Found::Head(take(head), length))
}

/// How an answer's body ends, from its head.
fn nature(head: &httparse::Response<'_, '_>, to_head: bool) -> Result<Nature, Malformed> {
    let mut keep = head.version == Some(1);
    let mut length = None;
    let mut chunked = false;
    let room = &mut [0; 32];
    for header in &*head.headers {
        // Other names need not be read.
        if !matches!(header.name.len(), 10 | 14 | 17) {
            continue;
        }
        match lower(header.name, room) {
            b"content-length" => {
                // The same number again is that number (RFC 9112 section 6.3).
                for said in header.value.split(|byte| *byte == b',') {
                    let said = decimal(said.trim_ascii());
                    let said = said.ok_or(Malformed("its length is no number"))?;
                    if length.replace(said).is_some_and(|other| other != said) {
                        return Err(Malformed("it has two lengths"));
                    }
                }
            }
            b"transfer-encoding" => {
                if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("its transfer coding is not known"));
                }
                chunked = true;
            }
            b"connection" => keep &= !says_close(header.value),
            _ => {}
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

/// Whether a `Connection` header has the option `close`.
pub fn says_close(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nature_of(head: &str) -> Result<Nature, Malformed> {
        nature_to(head, false)
    }

    fn nature_to(head: &str, to_head: bool) -> Result<Nature, Malformed> {
        match read(head.as_bytes(), to_head, |head| head.nature)? {
            Found::Head(nature, length) => {
                assert_eq!(length, head.len());
                Ok(nature)
            }
            other => panic!("{other:?}"),
        }
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
        assert_eq!(of("content-length: 5, 5\r\n"), length(5, true));
        assert!(of("content-length: 5\r\ncontent-length: 6\r\n").is_err());
        for wrong in ["+5", "5, 6", "5,", "0x5", "", "-1", "99999999999999999999"] {
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
    fn headers_are_limited_by_their_size() {
        let mut many = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n".to_owned();
        for number in 0..300 {
            many += &format!("x-{number}: y\r\n");
        }
        many += "\r\n";
        let count = read(many.as_bytes(), false, |head| head.headers.len());
        assert_eq!(count, Ok(Found::Head(301, many.len())));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST_HEAD));
        assert!(read(endless.as_bytes(), false, |_| ()).is_err());
    }

    #[test]
    fn a_space_before_the_colon_is_taken_away() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n";
        let name = read(head.as_bytes(), false, |head| {
            head.headers[0].name.to_owned()
        });
        assert_eq!(
            name,
            Ok(Found::Head("Content-Length".to_owned(), head.len()))
        );
        assert_eq!(nature_of(head).unwrap().framing, Framing::Length(3));
    }

    #[test]
    fn interim_answers_are_told_apart_and_switching_is_refused() {
        let early = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
        assert_eq!(
            read(early.as_bytes(), false, |_| ()),
            Ok(Found::Interim(early.len()))
        );
        assert!(read(b"HTTP/1.1 101 Switching\r\n\r\n", false, |_| ()).is_err());
        for wrong in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
        ] {
            assert!(read(wrong.as_bytes(), false, |_| ()).is_err(), "{wrong}");
        }
    }
}
