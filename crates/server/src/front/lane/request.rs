//! What a connection's bytes ask for, as far as the lane understands them.

use http::Method;

use crate::gateway::{PREFIX, Plain, decimal, is_hop_by_hop, lower, stays};

/// The head and body of a request for the lane are no longer than this together; the rest is left
/// to the HTTP library.
pub(super) const MOST: usize = 32 * 1024;
/// More headers are left to it, too.
pub(super) const MOST_HEADERS: usize = 64;

/// A request that is here in whole.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) target: &'a str,
    pub(super) headers: &'a [httparse::Header<'a>],
    pub(super) body: &'a [u8],
    /// How long it is in all.
    pub(super) length: usize,
}

/// What there is.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// Not the whole request yet.
    Part,
    Asked(Asked<'a>),
    /// Something for the HTTP library: another version, a long or chunked body, an upgrade, what is
    /// no HTTP.
    Foreign,
}

/// Looks at what has arrived.
pub(super) fn read<'a>(
    inbox: &'a [u8],
    headers: &'a mut [httparse::Header<'a>; MOST_HEADERS],
) -> Found<'a> {
    let part = |length| {
        if length > MOST {
            Found::Foreign
        } else {
            Found::Part
        }
    };
    if inbox.is_empty() {
        return Found::Part;
    }
    let mut head = httparse::Request::new(headers);
    let length = match head.parse(inbox) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return part(inbox.len() + 1),
        Err(_) => return Found::Foreign,
    };
    let httparse::Request {
        method: Some(method),
        path: Some(target),
        version: Some(1),
        headers,
    } = head
    else {
        return Found::Foreign;
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return Found::Foreign;
    };
    let headers = &*headers;
    let Some(body) = body_length(headers) else {
        return Found::Foreign;
    };
    if method == Method::CONNECT || !target.starts_with('/') {
        return Found::Foreign;
    }
    let all = length.saturating_add(usize::try_from(body).unwrap_or(usize::MAX));
    match inbox.get(length..all) {
        None => part(all),
        Some(body) => Found::Asked(Asked {
            method,
            target,
            headers,
            body,
            length: all,
        }),
    }
}

/// The body's length; `None` if the connection or the body has something special about it.
fn body_length(headers: &[httparse::Header<'_>]) -> Option<u64> {
    let room = &mut [0; 32];
    let mut length = None;
    for header in headers {
        match lower(header.name, room) {
            b"content-length" if length.replace(decimal(header.value)?).is_some() => {
                return None;
            }
            b"connection" if !header.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            b"transfer-encoding" | b"upgrade" | b"expect" | b"te" | b"trailer" => return None,
            _ => {}
        }
    }
    Some(length.unwrap_or(0))
}

impl<'a> Asked<'a> {
    /// The request as a plain one to `/proxy`, if it is one.
    pub(super) fn plain(&'a self) -> Option<Plain<'a>> {
        if self.target != "/proxy" || self.method == Method::TRACE {
            return None;
        }
        let mut said = Said::default();
        let mut onward = 0;
        let room = &mut [0; 32];
        for (place, header) in self.headers.iter().enumerate() {
            let name = lower(header.name, room);
            let slot = match name.strip_prefix(PREFIX.as_bytes()) {
                Some(ours) => said.slot(ours)?,
                None if name == b"authorization" => &mut said.key,
                None if name.is_empty()
                    && header.name.len() >= PREFIX.len()
                    && header.name.as_bytes()[..PREFIX.len()]
                        .eq_ignore_ascii_case(PREFIX.as_bytes()) =>
                {
                    return None;
                }
                None => {
                    if !(stays(name) || is_hop_by_hop(name) || name == b"connection") {
                        onward |= 1 << place;
                    }
                    continue;
                }
            };
            if slot.replace(header.value).is_some() {
                return None;
            }
        }
        Some(Plain {
            method: &self.method,
            key: said.key?,
            application: text(said.application?)?,
            consumer: text(said.consumer?)?,
            service: text(said.service?)?,
            unified_api: match said.unified_api {
                None => None,
                Some(api) => Some(text(api)?),
            },
            url: text(said.url?)?,
            headers: self.headers,
            onward,
            body: self.body,
        })
    }
}

/// The directions that a plain request may give.
#[derive(Default)]
struct Said<'a> {
    key: Option<&'a [u8]>,
    application: Option<&'a [u8]>,
    consumer: Option<&'a [u8]>,
    service: Option<&'a [u8]>,
    unified_api: Option<&'a [u8]>,
    url: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    /// The place of `x-apideck-...`.
    fn slot(&mut self, name: &[u8]) -> Option<&mut Option<&'a [u8]>> {
        Some(match name {
            b"app-id" => &mut self.application,
            b"consumer-id" => &mut self.consumer,
            b"service-id" => &mut self.service,
            b"unified-api" => &mut self.unified_api,
            b"downstream-url" => &mut self.url,
            _ => return None,
        })
    }
}

/// What is plain text and not empty.
fn text(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = std::str::from_utf8(value).ok()?.trim();
    (visible && !text.is_empty()).then_some(text)
}
