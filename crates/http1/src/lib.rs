//! HTTP/1.1 on bytes, for a gateway that hands on what it reads.
//!
//! The core does no I/O: bytes in, values out.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`request`] | the head of a request, and where its body ends |
//! | [`response`] | the head of an answer, and where its body ends |
//! | [`framing`] | the bytes of a body: a length, chunks, or the connection's end |
//! | [`encode`] | heads and chunks as they are written |
//!
//! Around it: [`wire`] (a connection with what has arrived on it), [`outgoing`] (a request that is being
//! written), [`delivery`] (an answer that is being written to a caller who may go away).
//!
//! What RFC 9112 forbids is refused. Where it lets a recipient choose, the choice is the strict one for
//! requests, which strangers make; and for answers the one that loses nothing.

pub mod delivery;
pub mod encode;
pub mod framing;
pub mod outgoing;
pub mod request;
pub mod response;
pub mod wire;

pub use httparse::Header;

/// An answer that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP/1.1: {0}")]
pub struct Malformed(pub &'static str);

/// A header's name in lower case; one that is longer than all that anybody compares is empty.
pub fn lower<'a, const ROOM: usize>(name: &str, room: &'a mut [u8; ROOM]) -> &'a [u8] {
    let Some(room) = room.get_mut(..name.len()) else {
        return b"";
    };
    room.copy_from_slice(name.as_bytes());
    room.make_ascii_lowercase();
    room
}

/// Digits and nothing else (RFC 9110 section 8.6).
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
