//! A decided request on its way: sent, sent again where that is safe, until an answer is the caller's.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokenward::{connector::Meaning, time::Clock, vault::Held};
use tokio::time::Instant;

use super::{
    Gateway,
    body::{GatewayBody, OutBody, Peeked, Replayable},
    decide::{Credential, Decided},
    directions::remove_named,
    path,
    retry::{Retries, Verdict},
    rules::{self, AnswerRule, DOWNSTREAM_ERROR, Limits},
    target::{self, Asked, Target},
    upstream::{Preconnect, UpstreamBody, UpstreamError},
};
use crate::{
    egress::{RefusedAddress, content_encoding, decode_body},
    front::error::{ApiError, FROM_PROVIDER, ORIGIN},
    observe::metrics::Again,
};

/// What was sent, and what came of it.
pub(super) type Attempt = Result<Response<UpstreamBody>, UpstreamError>;

/// How far a request has come before its trip.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is passed on once; most of them are large, and would be allocated"
)]
pub(super) enum Begun {
    Not,
    /// A connection was still being made when the request was decided.
    Connecting(Preconnect),
    /// It was sent, and this came of it.
    Sent(Attempt),
}

/// How much of an error's body is read to understand it, as it comes and decoded.
const PEEK: usize = 64 * 1024;

/// One request on its way.
pub(super) struct Trip<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) decided: Decided,
    /// As the caller gave it.
    pub(super) asked: Asked<'a>,
    /// Where the caller finds the connection, if it named it in the path.
    pub(super) here: Option<String>,
    /// What goes on of the caller's headers.
    pub(super) headers: HeaderMap,
    pub(super) body: Replayable,
}

/// An API's answer, with what of its body was read to understand it.
struct Heard {
    response: Response<UpstreamBody>,
    peeked: Peeked,
}

impl Trip<'_> {
    /// Sends it and answers.
    pub(super) async fn run(&mut self, begun: Begun) -> Result<Response<GatewayBody>, ApiError> {
        let target = self.decided.target.clone();
        let mut heard = self.send(&target, begun).await?;
        self.put_off();
        if let Some(newer) = self.newer_token(&mut heard).await? {
            self.body.hold();
            if !self.body.can_replay() {
                return Err(ApiError::not_replayable(self.gateway.config.replay_limit));
            }
            self.gateway.metrics.proxied_again(Again::Rejected);
            self.decided.renew(self.gateway, &self.asked, newer)?;
            drop(heard);
            let target = self.decided.target.clone();
            heard = self.send(&target, Begun::Not).await?;
        }
        if self.decided.follow_redirects {
            heard = Box::pin(self.follow(heard)).await?;
        }
        Ok(self.finish(heard))
    }

    /// An upload that was still moving at the deadline has put it off: what is left to do has as long again.
    fn put_off(&mut self) {
        let now = self.clock().now();
        let time = &mut self.decided.time;
        if let Some(patience) = time.patience
            && now >= time.deadline
        {
            time.deadline = now + patience;
        }
    }

    /// A better token, if the API has rejected this one as expired. `None`: it is content, or means something
    /// else.
    async fn newer_token(&self, heard: &mut Heard) -> Result<Option<Held>, ApiError> {
        let Credential::Token(token) = &self.decided.credential else {
            return Ok(None);
        };
        let resolved = &self.decided.resolved;
        let vault = &self.gateway.vault;
        if self.says_expired(heard).await {
            return Ok(Box::pin(vault.rejected(resolved, token, self.left())).await?);
        }
        if heard.response.status().as_u16() < 500 {
            vault.accepted(resolved, token);
        }
        Ok(None)
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.gateway.vault.clock()
    }

    /// The deadline on the runtime's clock.
    #[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
    fn deadline(&self) -> Instant {
        Instant::now() + self.left()
    }

    fn left(&self) -> std::time::Duration {
        self.gateway.left(&self.decided.time)
    }

    /// Sends the request, again where that is safe, until the API answers or the time is up.
    async fn send(&self, target: &Target, mut begun: Begun) -> Result<Heard, ApiError> {
        let mut retries = Retries::new(
            &self.decided.method,
            &self.headers,
            self.gateway.config.retries,
        );
        loop {
            let result = match std::mem::replace(&mut begun, Begun::Not) {
                Begun::Sent(result) => result,
                begun => {
                    let upstream = &self.gateway.upstream;
                    let Some(request) = self.request() else {
                        return Err(ApiError::not_replayable(self.gateway.config.replay_limit));
                    };
                    let patience = self.decided.time.patience;
                    let preconnect = match begun {
                        Begun::Connecting(preconnect) => Some(preconnect),
                        _ => None,
                    };
                    upstream
                        .request(target, request, self.deadline(), patience, preconnect)
                        .await
                }
            };
            let now = crate::wall_clock();
            let verdict = retries.judge(&result, self.left(), self.body.can_replay(), now);
            match (verdict, result) {
                (Verdict::Again(pause), result) => {
                    // What is still being written of it must end before it is written anew.
                    self.body.hold();
                    drop(result);
                    self.gateway.metrics.proxied_again(Again::Failed);
                    self.clock().sleep(pause).await;
                }
                (Verdict::Pass, Ok(response)) => {
                    return Ok(Heard {
                        response,
                        peeked: Peeked::default(),
                    });
                }
                (Verdict::Pass, Err(error)) => return Err(unanswered(target, &error)),
            }
        }
    }

    /// `None`: the body cannot be sent from its beginning any more.
    fn request(&self) -> Option<Request<OutBody>> {
        let decided = &self.decided;
        let mut request = Request::new(self.body.read()?);
        *request.method_mut() = decided.method.clone();
        let mut headers = self.headers.clone();
        // The caller's own value goes first.
        for (name, value) in rules::of_connector(&decided.resolved, decided.credential.token()) {
            headers.entry(name).or_insert(value);
        }
        headers.insert(header::AUTHORIZATION, decided.credential.header().clone());
        *request.headers_mut() = headers;
        Some(request)
    }

    /// Whether the API rejected the token as expired.
    async fn says_expired(&self, heard: &mut Heard) -> bool {
        let status = heard.response.status();
        let api = &self.decided.resolved.connector.api;
        if !api.concerns_token(status.as_u16()) {
            return false;
        }
        if !api.signals.is_empty() && worth_reading(&heard.response) {
            let reading = heard.peeked.read(heard.response.body_mut(), PEEK);
            // What was read is kept, however far it came.
            let _ = tokio::time::timeout(self.left(), Box::pin(reading)).await;
        }
        let coding = content_encoding(heard.response.headers());
        let read = heard.peeked.so_far();
        let decoded = decode_body(&coding, read.clone(), PEEK).unwrap_or(read);
        api.meaning(status.as_u16(), heard.response.headers(), &decoded) == Meaning::Expired
    }

    /// Follows redirects of safe methods, as long as they stay where the token may go.
    async fn follow(&mut self, mut heard: Heard) -> Result<Heard, ApiError> {
        const MOST: usize = 5;
        for _ in 0..MOST {
            let next = match self.decided.method {
                Method::GET | Method::HEAD => {
                    target::redirect(&heard.response, &self.decided.target)
                }
                _ => None,
            };
            let resolved = &self.decided.resolved;
            let next = next.map(|next| target::checked(&next, resolved, &self.gateway.rules));
            match next {
                Some(Ok(next)) => {
                    heard = self.send(&next, Begun::Not).await?;
                    self.decided.target = next;
                }
                // Elsewhere the caller may go, but not the token.
                Some(Err(_)) | None => break,
            }
        }
        Ok(heard)
    }

    fn finish(&self, heard: Heard) -> Response<GatewayBody> {
        let Heard { response, peeked } = heard;
        let (mut parts, body) = response.into_parts();
        // What is said of the length of a body that comes in chunks is not believed.
        let measured = body.size_hint().exact().is_some() || self.decided.method == Method::HEAD;
        let decided = &self.decided;
        let told = |reference: &[u8]| match &self.here {
            None => decided.target.absolute(reference),
            Some(here) => {
                let (resolved, token) = (&decided.resolved, decided.credential.token());
                let rules = &self.gateway.rules;
                target::told(reference, &decided.target, here, resolved, token, rules)
            }
        };
        let links = Links {
            told: &told,
            all: self.here.is_some(),
        };
        finish_headers(&mut parts.headers, parts.status, measured, &links);
        tracing::debug!(
            connection = %self.decided.resolved.key,
            method = %self.decided.method,
            status = parts.status.as_u16(),
            "proxied"
        );
        Response::from_parts(parts, GatewayBody::stream(peeked, body))
    }
}

/// Whether an answer's body is short text that can be read before it is handed on: an event stream would
/// stall, and of a success only JSON can say that the token has expired.
fn worth_reading(response: &Response<UpstreamBody>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    if kind == b"text/event-stream" {
        return false;
    }
    let known = response.body().size_hint().exact();
    if response.status().is_success() {
        let json = kind == b"application/json" || kind.ends_with(b"+json");
        return json && known.is_some_and(|length| length <= PEEK as u64);
    }
    true
}

/// Where an answer's links lead.
pub(super) struct Links<'a> {
    /// How a reference is told; `None`: as it is.
    pub(super) told: &'a dyn Fn(&[u8]) -> Option<HeaderValue>,
    /// Also those of `Link`.
    pub(super) all: bool,
}

/// Makes an answer's headers the gateway's: without what belongs to the connection, with word of whose error
/// it is and what is left of the API's limits. `measured`: its length is known.
pub(super) fn finish_headers(
    headers: &mut HeaderMap,
    status: StatusCode,
    measured: bool,
    links: &Links<'_>,
) {
    let mut leaving = Vec::new();
    let mut connection = Vec::new();
    let mut limits = Limits::default();
    // A list of equal lengths is understood, but not passed on: the length is told anew.
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let digits = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    let one_length = lengths.next().is_some_and(digits) && lengths.next().is_none();
    for (name, value) in headers.iter_mut() {
        match rules::of_answer(name.as_str().as_bytes()) {
            AnswerRule::Onward | AnswerRule::Date => {}
            AnswerRule::Link => {
                if links.all
                    && let Some(other) = path::relink(value.as_bytes(), links.told)
                {
                    *value = other;
                }
            }
            AnswerRule::Limit(which, rank) => limits.note(which, rank, value.clone()),
            AnswerRule::Length if !one_length => leaving.push(name.clone()),
            AnswerRule::Length if measured => {}
            AnswerRule::Length | AnswerRule::Stays => leaving.push(name.clone()),
            AnswerRule::Location => {
                if let Some(other) = (links.told)(value.as_bytes()) {
                    *value = other;
                }
            }
            AnswerRule::Connection => {
                leaving.push(name.clone());
                connection.push(value.clone());
            }
        }
    }
    for name in leaving {
        headers.remove(name);
    }
    for value in connection {
        remove_named(headers, &value);
    }
    headers.insert(ORIGIN, FROM_PROVIDER);
    if is_error(status) {
        headers.insert(DOWNSTREAM_ERROR, HeaderValue::from_static("true"));
    }
    for (name, value) in limits.said() {
        headers.insert(name, value);
    }
}

pub(super) fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// In words for the caller. A private address and a body that breaks off are the request's fault, the rest
/// is the network's.
fn unanswered(target: &Target, error: &UpstreamError) -> ApiError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut last = error.to_string();
    while let Some(present) = cause {
        last = present.to_string();
        if let Some(refused) = present.downcast_ref::<RefusedAddress>() {
            return ApiError::forbidden_host(refused.to_string());
        }
        cause = present.source();
    }
    let host = target.host();
    match error {
        UpstreamError::TimedOut => ApiError::timed_out(&format!("{host} did not answer in time")),
        UpstreamError::Caller(_) => {
            ApiError::invalid(format!("The request's body cannot be read: {last}"))
        }
        UpstreamError::Connect(_) | UpstreamError::Exchange(_) => ApiError::downstream(
            StatusCode::BAD_GATEWAY,
            format!("{host} cannot be reached: {last}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(pairs: &[(&'static str, &'static str)], measured: bool) -> HeaderMap {
        let mut headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let target = Target::for_tests("https://api.acme.example/v1/things?page=2");
        let told = |reference: &[u8]| target.absolute(reference);
        let links = Links {
            told: &told,
            all: false,
        };
        let status = StatusCode::TOO_MANY_REQUESTS;
        finish_headers(&mut headers, status, measured, &links);
        headers
    }

    #[test]
    fn errors_and_limits_are_marked() {
        let headers = finished(
            &[
                ("x-ratelimit-remaining", "7"),
                ("connection", "close, x-hop"),
                ("x-hop", "1"),
            ],
            true,
        );
        assert_eq!(headers["x-apideck-downstream-error"], "true");
        assert_eq!(headers["x-tokenward-origin"], "provider");
        assert_eq!(headers["x-downstream-ratelimit-remaining"], "7");
        assert!(!headers.contains_key("connection"));
        assert!(!headers.contains_key("x-hop"));
    }

    #[test]
    fn a_length_that_is_not_the_bodys_goes() {
        let said = [("content-length", "3"), ("transfer-encoding", "chunked")];
        assert!(!finished(&said, false).contains_key("content-length"));
        assert_eq!(finished(&said[..1], true)["content-length"], "3");
    }

    #[test]
    fn a_location_leads_where_the_api_means() {
        for (said, means) in [
            ("/v2/x", "https://api.acme.example/v2/x"),
            ("x?y#z", "https://api.acme.example/v1/x?y#z"),
            ("//other.example/x", "https://other.example/x"),
            ("https://other.example/x", "https://other.example/x"),
        ] {
            assert_eq!(finished(&[("location", said)], true)["location"], means);
        }
    }
}
