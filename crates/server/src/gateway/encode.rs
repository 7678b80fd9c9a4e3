//! A decided request written straight from the bytes that came, and its answer likewise: for requests that are
//! here in whole and of which all is known without asking anybody, which are most. It is another encoding of
//! what [`Trip`](super::trip::Trip) does; whatever turns out to need a closer look goes on there, as it is.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode};
use tokenward_http1::{
    Header,
    delivery::{Ending, Source},
    encode::{expects_body, put_end, put_header, put_request_line, put_status},
    framing::Framing,
    lower,
    request::Request,
    response::ResponseHead,
};

use super::{
    Gateway, Noted,
    decide::Decided,
    directions::Directions,
    path::Form,
    retry,
    rules::{self, AnswerRule, DOWNSTREAM_ERROR, LONGEST_NAME, Limits, RequestRule},
    trip::{Attempt, is_error},
    upstream::{Answered, Lease, Written},
};
use crate::front::{
    error::{FROM_PROVIDER, ORIGIN},
    request_id::REQUEST_ID,
};

/// A request to the gateway that is here in whole, taken apart.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    request: &'a Request<'a>,
    directions: Directions<'a>,
    /// Which of the headers go on to the API, by their place.
    onward: u64,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is not plain after all. Nothing was sent.
    NotSent,
    /// It was sent; the rest is for [`Gateway::handle`].
    Sent(Box<Sent>),
    /// The head of the API's answer was written for the caller, and this body is to follow.
    Answered(Relay, Ending),
}

/// A request that was sent already, with what was decided about it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(super) decided: Decided,
    pub(super) attempt: Attempt,
}

/// What every answer bears.
#[derive(Debug)]
pub(crate) struct Marks<'a> {
    /// In `x-apideck-request-id`.
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) date: &'a [u8],
    /// It is the connection's last.
    pub(crate) last: bool,
}

/// The body of an answer whose head was written already.
#[derive(Debug)]
pub(crate) struct Relay(Lease);

impl Source for Relay {
    type Error = tower::BoxError;

    fn poll_data(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, tower::BoxError>>> {
        self.0.poll_piece(context)
    }
}

impl<'a> Plain<'a> {
    /// Takes a request to the gateway apart.
    pub(crate) fn of(form: Form<'a>, request: &'a Request<'a>) -> Self {
        let mut directions = Directions::in_form(form);
        let mut onward = 0;
        let room = &mut [0; LONGEST_NAME];
        for (place, header) in request.headers.iter().enumerate() {
            let rule = match lower(header.name, room) {
                b"" => rules::of_long_request(header.name),
                name => rules::of_request(name),
            };
            match rule {
                RequestRule::Onward => onward |= 1 << place,
                RequestRule::Direction(direction) => directions.note(direction, header.value),
                // What `Connection` may name does not come here: see `tokenward_http1::request`.
                RequestRule::Connection | RequestRule::Stays => {}
            }
        }
        Self {
            request,
            directions,
            onward,
        }
    }

    fn going(&self) -> impl Iterator<Item = &'a Header<'a>> {
        let (headers, mut going) = (self.request.headers, self.onward);
        std::iter::from_fn(move || {
            let place = going.trailing_zeros() as usize;
            going &= going.wrapping_sub(1);
            headers.get(place)
        })
    }
}

impl Gateway {
    /// Sends a plain request, and writes the head of its answer to `out`.
    pub(crate) async fn send_plain(
        &self,
        plain: &Plain<'_>,
        marks: &Marks<'_>,
        out: &mut BytesMut,
    ) -> Outcome {
        let began = self.vault.clock().now();
        let method = &plain.request.method;
        let Some(decided) = self.decide_at_once(&plain.directions, method, began) else {
            return Outcome::NotSent;
        };
        out.clear();
        write_request(plain, &decided, out);
        let request = out.split();
        let written = Written {
            bytes: &request,
            to_head: decided.method == Method::HEAD,
        };
        let api = &decided.resolved.connector.api;
        let mut status = StatusCode::OK;
        let take = |head: &ResponseHead<'_>| {
            status = head.status;
            let code = status.as_u16();
            // Of a 407 the connection may be somebody's own.
            if api.concerns_token(code) || retry::may_pass(code) || code == 407 {
                return None;
            }
            let by_path = plain.directions.path().is_some();
            write_answer(head, written.to_head, by_path, marks, out)
        };
        let deadline = self.runtime_deadline(&decided.time);
        let answered = self
            .upstream
            .send_written(&decided.target, written, deadline, take)
            .await;
        let attempt = match answered {
            Ok(None) => return Outcome::NotSent,
            Ok(Some(Answered::Taken(lease, ending))) => {
                if let Some(token) = decided.credential.token()
                    && status.as_u16() < 500
                {
                    self.vault.accepted(&decided.resolved, token);
                }
                self.note(&Noted {
                    directions: &plain.directions,
                    resolved: Some(&decided.resolved),
                    method: &decided.method,
                    id: marks.request_id,
                    began,
                    status,
                    error: None,
                });
                tracing::debug!(
                    connection = %decided.resolved.key,
                    method = %decided.method,
                    status = status.as_u16(),
                    "proxied"
                );
                return Outcome::Answered(Relay(lease), ending);
            }
            Ok(Some(Answered::Other(response))) => Ok(response),
            Err(error) => Err(error),
        };
        Outcome::Sent(Box::new(Sent { decided, attempt }))
    }
}

/// The request as the API gets it.
fn write_request(plain: &Plain<'_>, decided: &Decided, out: &mut BytesMut) {
    let Decided { target, method, .. } = decided;
    let path = target.path.as_str();
    put_request_line(out, method, path, target.origin.host.as_bytes());
    for header in plain.going() {
        put_header(out, header.name, header.value);
    }
    // The caller's own value goes first.
    for (name, value) in rules::of_connector(&decided.resolved, decided.credential.token()) {
        let given = |header: &Header<'_>| header.name.eq_ignore_ascii_case(name.as_str());
        if !plain.going().any(given) {
            put_header(out, name.as_str(), value.as_bytes());
        }
    }
    put_header(out, "authorization", decided.credential.header().as_bytes());
    let body = plain.request.body;
    if !body.is_empty() || expects_body(method) {
        put_header(out, "content-length", body.len().to_string().as_bytes());
    }
    put_end(out);
    out.extend_from_slice(body);
}

/// The head of the API's answer as the caller gets it, and how the end of its body is told. `None`: it needs
/// a closer look.
fn write_answer(
    head: &ResponseHead<'_>,
    to_head: bool,
    by_path: bool,
    marks: &Marks<'_>,
    out: &mut BytesMut,
) -> Option<Ending> {
    let ending = match head.nature.framing {
        _ if to_head || matches!(head.status.as_u16(), 204 | 304) => Ending::NoBody,
        Framing::Length(length) => Ending::Length(length),
        Framing::Chunked(_) | Framing::Close => Ending::Chunked,
    };
    put_status(out, head.status);
    if write_answer_headers(head, ending, by_path, marks, out).is_none() {
        out.clear();
        return None;
    }
    put_header(out, REQUEST_ID.as_str(), marks.request_id.as_bytes());
    if ending == Ending::Chunked {
        put_header(out, "transfer-encoding", b"chunked");
    }
    if marks.last {
        put_header(out, "connection", b"close");
    }
    put_end(out);
    Some(ending)
}

fn write_answer_headers(
    head: &ResponseHead<'_>,
    ending: Ending,
    by_path: bool,
    marks: &Marks<'_>,
    out: &mut BytesMut,
) -> Option<()> {
    let mut limits = Limits::default();
    let (mut dated, mut measured) = (false, false);
    let room = &mut [0; LONGEST_NAME];
    for header in head.headers {
        match rules::of_answer(lower(header.name, room)) {
            AnswerRule::Onward => {}
            AnswerRule::Limit(which, rank) => limits.note(which, rank, header.value),
            AnswerRule::Date => dated = true,
            AnswerRule::Length => match ending {
                _ if std::mem::replace(&mut measured, true) => return None,
                // A list of the same length.
                Ending::Length(_) if header.value.contains(&b',') => return None,
                Ending::Length(_) => {}
                // It says what the body would be.
                Ending::NoBody if head.status != StatusCode::NO_CONTENT => {}
                Ending::Chunked | Ending::NoBody => continue,
            },
            // Links are told in the form in which the caller names the connection.
            AnswerRule::Location | AnswerRule::Link if by_path => return None,
            AnswerRule::Link => {}
            AnswerRule::Location if header.value.starts_with(b"http") => {}
            AnswerRule::Location => return None,
            AnswerRule::Connection => {
                let plain: [&[u8]; 2] = [b"keep-alive", b"close"];
                if plain
                    .iter()
                    .any(|plain| header.value.eq_ignore_ascii_case(plain))
                {
                    continue;
                }
                return None;
            }
            AnswerRule::Stays => continue,
        }
        put_header(out, header.name, header.value);
    }
    if !dated {
        put_header(out, "date", marks.date);
    }
    put_header(out, ORIGIN.as_str(), FROM_PROVIDER.as_bytes());
    if is_error(head.status) {
        put_header(out, DOWNSTREAM_ERROR.as_str(), b"true");
    }
    for (name, value) in limits.said() {
        put_header(out, name, value);
    }
    Some(())
}
