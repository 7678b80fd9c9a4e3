//! The express way through the gateway, for the plain case that most requests are: the key is
//! known, the connection is in memory, its token is fresh, the body is small, and the API's answer
//! concerns nobody but the caller. What goes over the wire is then written straight from what
//! came. All else takes the ordinary way ([`Gateway::handle`]), which decides alike; a test sends
//! the same requests both ways.

use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use http::{HeaderValue, Method, Response, StatusCode};
use tokenward::{
    Token,
    time::Moment,
    vault::{Held, Resolved},
};
use tokio::time::Instant;

use super::{
    Gateway, headers, retry,
    target::{self, Target},
    upstream::{Answered, Relay, UpstreamBody, UpstreamError, Written, expects_body, put_header},
};
use crate::{front::request_id::REQUEST_ID, observe::requests::Line};

/// A request to `/proxy` with no other directions than these.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    pub(crate) method: &'a Method,
    /// The value of `Authorization`.
    pub(crate) key: &'a [u8],
    pub(crate) application: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) service: &'a str,
    pub(crate) unified_api: Option<&'a str>,
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [httparse::Header<'a>],
    /// Which of the headers go on to the API, by their place.
    pub(crate) onward: u128,
    pub(crate) body: &'a [u8],
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Express {
    /// It is not plain after all. Nothing was sent.
    Not,
    /// It was sent, and the ordinary way goes on from there.
    Passed(Box<Passed>),
    /// The head of the API's answer was written for the caller, and this is to follow.
    Answered(Relay),
}

/// A request that was sent already.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(super) began: Moment,
    pub(super) token: Held,
    pub(super) target: Target,
    pub(super) result: Result<Response<UpstreamBody>, UpstreamError>,
}

/// What every answer bears.
pub(crate) struct Marks<'a> {
    /// In `x-apideck-request-id`.
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) date: &'a [u8],
    /// It is the connection's last.
    pub(crate) last: bool,
}

impl Gateway {
    /// Sends a plain request, and writes the head of its answer to `out`.
    pub(crate) async fn express(
        &self,
        plain: &Plain<'_>,
        marks: &Marks<'_>,
        out: &mut BytesMut,
    ) -> Express {
        let began = self.vault.clock().now();
        let Some((resolved, token, target)) = self.look_up(plain) else {
            return Express::Not;
        };
        out.clear();
        write_request(plain, &resolved, &token, &target, out);
        let request = out.split();
        let written = Written {
            bytes: &request,
            to_head: *plain.method == Method::HEAD,
        };
        let api = &resolved.connector.api;
        let mut status = StatusCode::OK;
        let take = |head: &httparse::Response<'_, '_>| {
            let code = head.code.unwrap_or_default();
            let Ok(said) = StatusCode::from_u16(code) else {
                return false;
            };
            status = said;
            !api.concerns_token(code)
                && !retry::may_pass(code)
                && write_answer(head, said, marks, out)
        };
        let deadline = self.deadline(began);
        let answered = self
            .upstream
            .express(&target, written, deadline, take)
            .await;
        let result = match answered {
            Ok(None) => return Express::Not,
            Ok(Some(Answered::Taken(relay))) => {
                let took = began.until(self.vault.clock().now());
                if status.as_u16() < 500 {
                    self.vault.accepted(&resolved, &token);
                }
                self.metrics.proxied(Some(status), took);
                self.log.add(|at| Line {
                    at,
                    request_id: marks.request_id.to_str().unwrap_or_default(),
                    method: plain.method.as_str(),
                    url: plain.url,
                    application: plain.application,
                    consumer: plain.consumer,
                    unified_api: &resolved.key.unified_api,
                    service: plain.service,
                    status: status.as_u16(),
                    took,
                    error: None,
                });
                tracing::debug!(
                    connection = %resolved.key,
                    method = %plain.method,
                    status = status.as_u16(),
                    "proxied"
                );
                return Express::Answered(relay);
            }
            Ok(Some(Answered::Other(response))) => Ok(response),
            Err(error) => Err(error),
        };
        Express::Passed(Box::new(Passed {
            began,
            token,
            target,
            result,
        }))
    }

    /// Where it goes and with what, if that is known without asking anybody.
    fn look_up(&self, plain: &Plain<'_>) -> Option<(Arc<Resolved>, Held, Target)> {
        if !self.keys.knows(plain.key, plain.application) {
            return None;
        }
        let api = plain.unified_api.or_else(|| self.only_api(plain.service))?;
        let resolved =
            self.vault
                .resolved(plain.application, plain.consumer, api, plain.service)?;
        let token = self.vault.fresh(&resolved)?;
        let target = target::resolve(plain.url, &resolved, Some(&token), &self.rules).ok()?;
        Some((resolved, token, target))
    }

    #[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
    fn deadline(&self, began: Moment) -> Instant {
        let left = self.vault.clock().now().until(began + self.config.timeout);
        Instant::now() + left
    }
}

/// The request as the API gets it.
fn write_request(
    plain: &Plain<'_>,
    resolved: &Resolved,
    token: &Token,
    target: &Target,
    out: &mut BytesMut,
) {
    out.put_slice(plain.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.path.as_str().as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(target.origin.host.as_bytes());
    out.put_slice(b"\r\n");
    let going = || {
        let mut going = plain.onward;
        let next = move || {
            let place = going.trailing_zeros() as usize;
            going &= going.wrapping_sub(1);
            plain.headers.get(place)
        };
        std::iter::from_fn(next)
    };
    for header in going() {
        put_header(out, header.name, header.value);
    }
    for (name, value) in headers::of_connector(resolved, Some(token)) {
        if !going().any(|header| header.name.eq_ignore_ascii_case(name.as_str())) {
            put_header(out, name.as_str(), value.as_bytes());
        }
    }
    put_header(out, "authorization", token.authorization().as_bytes());
    if !plain.body.is_empty() || expects_body(plain.method) {
        let length = plain.body.len().to_string();
        put_header(out, "content-length", length.as_bytes());
    }
    out.put_slice(b"\r\n");
    out.put_slice(plain.body);
}

/// The head of the API's answer as the caller gets it. `false`: it needs a closer look.
fn write_answer(
    head: &httparse::Response<'_, '_>,
    status: StatusCode,
    marks: &Marks<'_>,
    out: &mut BytesMut,
) -> bool {
    write_status(status, out);
    if !headers::write_finished(head.headers, status, marks.date, out) {
        out.clear();
        return false;
    }
    put_header(out, REQUEST_ID.as_str(), marks.request_id.as_bytes());
    if marks.last {
        put_header(out, "connection", b"close");
    }
    out.put_slice(b"\r\n");
    true
}

/// The first line of an answer.
pub(crate) fn write_status(status: StatusCode, out: &mut BytesMut) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
}
