//! Names of requests, for people who ask about one.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, HeaderValue};
use tokenward::seal::random_bytes;

/// The header that carries a request's name.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-apideck-request-id");

/// Makes names that are unlike all others: a random start for each maker, and a count. Asking for
/// random bytes anew for each request would cost more than all else that is done for its answer.
#[derive(Debug)]
pub(crate) struct RequestIds {
    start: u64,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self {
            start: u64::from_le_bytes(random_bytes()),
            next: AtomicU64::new(u64::from_le_bytes(random_bytes())),
        }
    }
}

impl RequestIds {
    /// The next name, in the form of a UUID (RFC 9562, version 8).
    pub(crate) fn next_id(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = uuid::Builder::from_custom_bytes(
            ((u128::from(self.start) << 64) | u128::from(number)).to_be_bytes(),
        );
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.as_uuid().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).expect("a UUID is a header value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_uuids_and_differ() {
        let (here, there) = (RequestIds::default(), RequestIds::default());
        let names = [here.next_id(), here.next_id(), there.next_id()];
        for (index, name) in names.iter().enumerate() {
            assert!(uuid::Uuid::parse_str(name.to_str().unwrap()).is_ok());
            assert!(!names[..index].contains(name));
        }
    }
}
