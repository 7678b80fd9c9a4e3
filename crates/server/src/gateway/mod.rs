//! `/proxy`: a request to an API with the connection's fresh token. It names its connection in headers, as
//! Apideck's SDKs do, or in its path (`path`), as the providers' own SDKs can.
//!
//! A request is decided once (`decide`): who asks, for which connection, with which token (from memory when
//! it is fresh), and whether that may go where it is asked to. Then it makes one trip (`trip`); what was
//! decided travels with it. Small requests are written straight from the bytes that came (`encode`). What
//! went wrong here is an Apideck error; what the API answers passes through unchanged.

mod body;
mod decide;
mod directions;
mod encode;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod path;
mod retry;
mod rules;
mod target;
mod trip;
mod upstream;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokenward::{Vault, time::Moment, vault::Resolved};
use tokio::time::Instant;

pub use body::{CallerBody, GatewayBody};
pub(crate) use encode::{Marks, Outcome, Plain, Sent};

use self::{
    body::Replayable,
    decide::Time,
    directions::{Directions, onward},
    path::Form,
    rules::Direction,
    target::Asked,
    trip::{Begun, Trip},
    upstream::Upstream,
};
use crate::{
    egress::{AddressRules, Connector},
    front::{caller::Keys, error::ApiError},
    observe::{
        Metrics,
        requests::{Line, RequestLog},
    },
};

/// The gateway's settings.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How long a request may take until the API's response begins, where the caller does not
    /// say (`x-apideck-timeout`). An upload that moves is given as long again.
    pub timeout: Duration,
    /// How much of a request's body is kept for a second try.
    pub replay_limit: usize,
    /// How often an idempotent request is tried again after a failure of the API.
    pub retries: u32,
    /// HTTP/1.1 to APIs is left to an HTTP library.
    pub library: bool,
    /// Callers speak TLS to us.
    pub https: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(28),
            replay_limit: 256 * 1024,
            retries: 2,
            library: false,
            https: false,
        }
    }
}

/// The gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    vault: Vault,
    keys: Keys,
    upstream: Upstream,
    rules: Arc<AddressRules>,
    metrics: Metrics,
    log: RequestLog,
    config: GatewayConfig,
}

/// What is told of a request that was answered.
struct Noted<'a> {
    directions: &'a Directions<'a>,
    /// Its connection, if it was found.
    resolved: Option<&'a Resolved>,
    method: &'a Method,
    id: &'a HeaderValue,
    began: Moment,
    status: StatusCode,
    /// The error, if it is the gateway's.
    error: Option<&'a ApiError>,
}

impl Gateway {
    /// A gateway on a vault.
    pub fn new(
        vault: Vault,
        keys: Keys,
        connector: Connector,
        rules: Arc<AddressRules>,
        metrics: Metrics,
        log: RequestLog,
        config: GatewayConfig,
    ) -> Self {
        Self {
            vault,
            keys,
            upstream: Upstream::new(connector, config.library),
            rules,
            metrics,
            log,
            config,
        }
    }

    /// The same gateway for another worker: it shares all but the connections to APIs.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            upstream: self.upstream.another(),
            log: self.log.another(),
            ..self.clone()
        }
    }

    /// Closes connections to APIs that have been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        self.upstream.sweep();
    }

    /// The log of requests.
    pub(crate) fn log(&self) -> &RequestLog {
        &self.log
    }

    /// Answers one request to the gateway. `sent`: it was decided and sent already. `id`: its name in the log.
    pub(crate) async fn handle(
        &self,
        request: Request<CallerBody>,
        sent: Option<Sent>,
        id: HeaderValue,
    ) -> Response<GatewayBody> {
        let (parts, body) = request.into_parts();
        let form = Form::of_uri(&parts.uri).unwrap_or(Form::Headers);
        let directions = Directions::of(form, &parts.headers);
        let began = match &sent {
            Some(sent) => sent.decided.time.began,
            None => self.vault.clock().now(),
        };
        let mut noted = Noted {
            directions: &directions,
            resolved: None,
            method: &parts.method,
            id: &id,
            began,
            status: StatusCode::OK,
            error: None,
        };
        let decided = match sent {
            Some(sent) => Ok((sent.decided, Begun::Sent(sent.attempt))),
            None => self.decide(&directions, &parts.method, began).await,
        };
        let resolved = decided
            .as_ref()
            .ok()
            .map(|(decided, _)| decided.resolved.clone());
        noted.resolved = resolved.as_deref();
        let path = directions.path();
        let result = match decided {
            Ok((decided, begun)) => {
                let mut trip = Trip {
                    gateway: self,
                    decided,
                    asked: directions.asked().unwrap_or(Asked::Below("")),
                    here: path
                        .and_then(|path| path.here(&parts.uri, &parts.headers, self.config.https)),
                    headers: onward(&parts.headers),
                    body: Replayable::new(body, self.config.replay_limit),
                };
                trip.run(begun).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(response) => {
                noted.status = response.status();
                self.note(&noted);
                response
            }
            Err(error) => {
                noted.status = error.status();
                noted.error = Some(&error);
                self.note(&noted);
                error.into_response().map(GatewayBody::from)
            }
        }
    }

    /// Counts a request, and writes its line in the log of requests.
    fn note(&self, noted: &Noted<'_>) {
        let took = noted.began.until(self.vault.clock().now());
        let own = noted.error.is_none();
        self.metrics.proxied(own.then_some(noted.status), took);
        let text = |direction| noted.directions.text_or_empty(direction);
        if self.log.is_on() {
            let key = noted.resolved.map(|resolved| &resolved.key);
            let api = key.map_or_else(
                || text(Direction::UnifiedApi),
                |key| (*key.unified_api).into(),
            );
            let application = key.map_or_else(
                || text(Direction::Application),
                |key| key.application.as_str().into(),
            );
            let url = text(Direction::Url);
            let (consumer, service) = (text(Direction::Consumer), text(Direction::Service));
            self.log.add(|at| Line {
                at,
                request_id: noted.id.to_str().unwrap_or_default(),
                method: noted.method.as_str(),
                url: &url,
                application: &application,
                consumer: &consumer,
                unified_api: &api,
                service: &service,
                status: noted.status.as_u16(),
                took,
                error: noted.error.map(ApiError::type_name),
            });
        }
        if let Some(error) = noted.error {
            tracing::info!(
                request_id = noted.id.to_str().unwrap_or_default(),
                application = &*text(Direction::Application),
                consumer = &*text(Direction::Consumer),
                service = &*text(Direction::Service),
                status = error.status().as_u16(),
                kind = error.type_name(),
                reason = error.message(),
                "request not proxied"
            );
        }
    }

    /// A deadline on the runtime's clock.
    #[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
    fn runtime_deadline(&self, time: &Time) -> Instant {
        Instant::now() + self.left(time)
    }
}
