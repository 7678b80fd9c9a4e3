//! The head of a request, and what RFC 9112 demands of it.

use std::mem::MaybeUninit;

use http::{HeaderMap, Method, StatusCode, Version};
use httparse::Header;

use crate::{decimal, lower};

/// A request is read here if its head and body are no longer than this together.
pub const MOST: usize = 32 * 1024;
/// And if it has no more headers.
pub const MOST_HEADERS: usize = 64;

/// Room for the headers of a request.
pub type Room<'a> = [MaybeUninit<Header<'a>>; MOST_HEADERS];

/// Room in which nothing is yet.
pub const fn room<'a>() -> Room<'a> {
    [const { MaybeUninit::uninit() }; MOST_HEADERS]
}

/// A small request that is here in whole.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method,
    /// Its target, as it came: it begins with a slash.
    pub target: &'a str,
    /// Its headers, as they came.
    pub headers: &'a [Header<'a>],
    /// Its body.
    pub body: &'a [u8],
    /// How long head and body are.
    pub length: usize,
}

/// What [`read`] has found.
#[derive(Debug)]
pub enum Found<'a> {
    /// Not the whole request yet.
    Partial,
    /// A request.
    Whole(Request<'a>),
    /// Something for an HTTP library: another version, a long or chunked body, an upgrade, what is
    /// no HTTP.
    Other,
    /// A request that must not be answered otherwise.
    Refused(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `Host`, several, or one that is none (RFC 9112 section 3.2).
    #[error("the request needs exactly one valid Host header")]
    Host,
    /// Its length can be read in more than one way (RFC 9112 section 6.3).
    #[error("the request's length is ambiguous")]
    Length,
    /// Its body's transfer coding is not `chunked` alone (RFC 9112 section 6.1).
    #[error("the request's transfer coding is not implemented")]
    Coding,
    /// A method that is not for a gateway (RFC 9110 sections 9.3.6 and 9.3.8).
    #[error("the method is not allowed")]
    Method,
}

impl Refusal {
    /// The status that tells of it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Length => StatusCode::BAD_REQUEST,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// What a request's headers say of its framing and its host; fed header by header.
#[derive(Debug, Default)]
pub struct Checks {
    hosts: u32,
    bad_host: bool,
    lengths: u32,
    codings: u32,
    unknown_coding: bool,
}

impl Checks {
    /// Takes note of a header. `name` in lower case.
    pub fn note(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"host" => {
                self.hosts += 1;
                self.bad_host |= !is_host(value);
            }
            b"content-length" => self.lengths += 1,
            b"transfer-encoding" => {
                self.codings += 1;
                self.unknown_coding |= !value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }

    /// Whether the request may be answered.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn done(&self, version: Version, method: &Method) -> Result<(), Refusal> {
        if *method == Method::TRACE || *method == Method::CONNECT {
            return Err(Refusal::Method);
        }
        let needs_host = version == Version::HTTP_11;
        if self.bad_host || self.hosts > 1 || needs_host && self.hosts == 0 {
            return Err(Refusal::Host);
        }
        if self.unknown_coding || self.codings > 1 {
            return Err(Refusal::Coding);
        }
        if self.lengths > 1 || self.codings > 0 && (self.lengths > 0 || !needs_host) {
            return Err(Refusal::Length);
        }
        Ok(())
    }
}

/// Checks a request that an HTTP library has read.
///
/// # Errors
///
/// [`Refusal`].
pub fn check(version: Version, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut checks = Checks::default();
    for (name, value) in headers {
        checks.note(name.as_str().as_bytes(), value.as_bytes());
    }
    checks.done(version, method)
}

/// Whether this can be the value of `Host`: a name or an address, and perhaps a port (RFC 9110 section
/// 7.2). It may be empty.
pub fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', ..] => {
            let Some(end) = value.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let inside = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            if !value[1..end].iter().all(inside) {
                return false;
            }
            (&b""[..], &value[end + 1..])
        }
        _ => {
            let end = value.iter().position(|byte| *byte == b':');
            value.split_at(end.unwrap_or(value.len()))
        }
    };
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let numbered = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host.iter().all(named) && numbered
}

/// Looks at what has arrived.
pub fn read<'a>(bytes: &'a [u8], headers: &'a mut Room<'a>) -> Found<'a> {
    let partial = |length| {
        if length > MOST {
            Found::Other
        } else {
            Found::Partial
        }
    };
    if bytes.is_empty() {
        return Found::Partial;
    }
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return partial(bytes.len() + 1),
        Err(_) => return Found::Other,
    };
    let httparse::Request {
        method: Some(method),
        path: Some(target),
        version: Some(1),
        headers,
    } = head
    else {
        return Found::Other;
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return Found::Other;
    };
    let headers = &*headers;
    let body = match body_length(&method, headers) {
        Ok(Some(body)) => body,
        Ok(None) => return Found::Other,
        Err(refusal) => return Found::Refused(refusal),
    };
    if !target.starts_with('/') {
        return Found::Other;
    }
    let all = length.saturating_add(usize::try_from(body).unwrap_or(usize::MAX));
    match bytes.get(length..all) {
        None => partial(all),
        Some(body) => Found::Whole(Request {
            method,
            target,
            headers,
            body,
            length: all,
        }),
    }
}

/// The body's length; `None` if the connection or the body has something special about it.
fn body_length(method: &Method, headers: &[Header<'_>]) -> Result<Option<u64>, Refusal> {
    let room = &mut [0; 32];
    let mut checks = Checks::default();
    let (mut length, mut special) = (Some(0), false);
    for header in headers {
        // Other names need not be read.
        if !matches!(header.name.len(), 2 | 4 | 6 | 7 | 10 | 14 | 17) {
            continue;
        }
        let name = lower(header.name, room);
        checks.note(name, header.value);
        match name {
            b"content-length" => length = decimal(header.value),
            b"connection" => special |= !header.value.eq_ignore_ascii_case(b"keep-alive"),
            b"transfer-encoding" | b"upgrade" | b"expect" | b"te" | b"trailer" => special = true,
            _ => {}
        }
    }
    checks.done(Version::HTTP_11, method)?;
    Ok(length.filter(|_| !special))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Verdict {
        Partial,
        Whole(usize, Vec<u8>),
        Other,
        Refused(Refusal),
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        let mut headers = room();
        match read(bytes, &mut headers) {
            Found::Partial => Verdict::Partial,
            Found::Whole(request) => Verdict::Whole(request.length, request.body.to_vec()),
            Found::Other => Verdict::Other,
            Found::Refused(refusal) => Verdict::Refused(refusal),
        }
    }

    fn of(headers: &str) -> Verdict {
        verdict(format!("POST /x HTTP/1.1\r\n{headers}\r\nbody").as_bytes())
    }

    #[test]
    fn a_request_is_read_when_it_is_whole() {
        let sent = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbodynext";
        for there in 0..sent.len() - 4 {
            assert_eq!(verdict(&sent[..there]), Verdict::Partial, "{there}");
        }
        let length = sent.len() - 4;
        assert_eq!(verdict(sent), Verdict::Whole(length, b"body".to_vec()));
    }

    #[test]
    fn exactly_one_host() {
        for good in [
            "a",
            "a.example:8700",
            "[::1]",
            "[::1]:80",
            "",
            "127.0.0.1",
            "a_b",
        ] {
            let verdict = of(&format!("host: {good}\r\n"));
            assert!(matches!(verdict, Verdict::Whole(..)), "{good}: {verdict:?}");
        }
        let refused = Verdict::Refused(Refusal::Host);
        assert_eq!(of(""), refused);
        assert_eq!(of("host: a\r\nHost: a\r\n"), refused);
        for wrong in [
            "a/b", "a b", "user@a", "a:b", "[::1", "a,b:c", "a\\b", "[x]",
        ] {
            assert_eq!(of(&format!("host: {wrong}\r\n")), refused, "{wrong}");
        }
    }

    #[test]
    fn a_length_that_can_be_read_in_two_ways_is_refused() {
        let length = Verdict::Refused(Refusal::Length);
        assert_eq!(
            of("host: a\r\ncontent-length: 4\r\ncontent-length: 4\r\n"),
            length
        );
        let both = "host: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n";
        assert_eq!(of(both), length);
        for coding in [
            "gzip, chunked",
            "cow",
            "chunked, chunked",
            ",chunked",
            "chunked;q=1",
        ] {
            let verdict = of(&format!("host: a\r\ntransfer-encoding: {coding}\r\n"));
            assert_eq!(verdict, Verdict::Refused(Refusal::Coding), "{coding}");
        }
        // The library reads those, and refuses what is wrong with them.
        for other in ["+4", "4, 4", "0x4", "-1", "99999999999999999999"] {
            let verdict = of(&format!("host: a\r\ncontent-length: {other}\r\n"));
            assert_eq!(verdict, Verdict::Other, "{other}");
        }
    }

    #[test]
    fn what_is_special_is_left_to_the_library() {
        for special in [
            "transfer-encoding: chunked",
            "expect: 100-continue",
            "connection: close",
            "upgrade: h2c",
            "te: trailers",
            "content-length: 100000",
        ] {
            let verdict = of(&format!("host: a\r\n{special}\r\n"));
            assert_eq!(verdict, Verdict::Other, "{special}");
        }
        assert_eq!(verdict(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Verdict::Other);
        assert_eq!(verdict(b"\x16\x03\x01"), Verdict::Other);
        let absolute = b"GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(verdict(absolute), Verdict::Other);
    }

    #[test]
    fn methods_that_are_not_for_a_gateway_are_refused() {
        for method in ["TRACE", "CONNECT"] {
            let sent = format!("{method} /x HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(verdict(sent.as_bytes()), Verdict::Refused(Refusal::Method));
        }
    }

    proptest! {
        #[test]
        fn what_comes_later_changes_no_verdict(
            head in "(GET|POST) /[a-z]{0,4} HTTP/1\\.1\r\n((host|content-length|x-a|connection): [a-z0-9]{0,3}\r\n){0,4}\r\n",
            body in proptest::collection::vec(any::<u8>(), 0..20),
            more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut sent = head.into_bytes();
            sent.extend_from_slice(&body);
            let before = verdict(&sent);
            sent.extend_from_slice(&more);
            if before != Verdict::Partial {
                prop_assert_eq!(before, verdict(&sent));
            }
        }

        #[test]
        fn nothing_that_arrives_is_a_panic(sent in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = verdict(&sent);
        }
    }
}
