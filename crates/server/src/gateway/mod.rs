//! `/proxy`: a request to an API with the connection's fresh token.
//!
//! The way of a request: authenticate the key, resolve the connection, take the token (from
//! memory when it is fresh), check that it may go where it is asked to, stream both ways. What
//! went wrong here is an Apideck error; what the API answers passes through unchanged.

mod body;
mod express;
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod retry;
mod target;
mod upstream;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokenward::{
    ApplicationId, ConnectionKey, ConsumerId, Token, Vault,
    connector::Meaning,
    time::{Clock, Moment},
    vault::Resolved,
};
use tokio::time::Instant;

pub use body::{CallerBody, GatewayBody};
pub(crate) use express::{Express, Marks, Passed, Plain, write_status};
pub(crate) use headers::{PREFIX, is_hop_by_hop, lower, stays};
pub(crate) use upstream::{Relay, decimal, put_header};

use self::{
    body::{OutBody, Replayable},
    headers::Directions,
    retry::{Retries, Verdict},
    target::Target,
    upstream::{Upstream, UpstreamBody, UpstreamError},
};
use crate::{
    egress::{AddressRules, Connector, RefusedAddress},
    front::{
        caller::{Keys, consumer_id},
        error::ApiError,
    },
    observe::{
        Metrics,
        metrics::Again,
        requests::{Line, RequestLog},
    },
};

/// The gateway's settings.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How long a request may take until the API's response begins, where the caller does not
    /// say (`x-apideck-timeout`).
    pub timeout: Duration,
    /// How much of a request's body is kept for a second try.
    pub replay_limit: usize,
    /// How often an idempotent request is tried again after a failure of the API.
    pub retries: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(28),
            replay_limit: 256 * 1024,
            retries: 2,
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

/// A request as it came.
struct Call {
    directions: Directions,
    method: Method,
    headers: http::HeaderMap,
    body: Replayable,
    began: Moment,
    deadline: Moment,
}

/// One request on its way.
struct Trip<'a> {
    gateway: &'a Gateway,
    call: &'a Call,
    resolved: Arc<Resolved>,
}

/// An API's answer, with what of its body was read to understand it.
struct Heard {
    response: Response<UpstreamBody>,
    read: Bytes,
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
            upstream: Upstream::new(connector),
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

    /// Answers one request to `/proxy`. `passed`: it was sent already, with this result. `id`: its
    /// name in the log.
    pub(crate) fn handle(
        &self,
        request: Request<CallerBody>,
        passed: Option<Passed>,
        id: HeaderValue,
    ) -> impl Future<Output = Response<GatewayBody>> + Send {
        // Boxed once, so that it need not be copied from one future into the next.
        let mut call = Box::new(self.call(request));
        if let Some(passed) = &passed {
            call.deadline = passed.began + call.began.until(call.deadline);
            call.began = passed.began;
        }
        async move {
            let result = self.forward(&call, passed).await;
            let took = call.began.until(self.vault.clock().now());
            match result {
                Ok(response) => {
                    self.metrics.proxied(Some(response.status()), took);
                    self.note(&call, &id, response.status(), None, took);
                    response
                }
                Err(error) => {
                    self.metrics.proxied(None, took);
                    self.note(&call, &id, error.status(), Some(error.type_name()), took);
                    tracing::info!(
                        status = error.status().as_u16(),
                        kind = error.type_name(),
                        message = error.message(),
                        "request not proxied"
                    );
                    error.into_response().map(GatewayBody::from)
                }
            }
        }
    }

    /// A line in the log of requests.
    fn note(
        &self,
        call: &Call,
        id: &HeaderValue,
        status: StatusCode,
        error: Option<&'static str>,
        took: Duration,
    ) {
        let directions = &call.directions;
        self.log.add(|at| Line {
            at,
            request_id: id.to_str().unwrap_or_default(),
            method: call.method.as_str(),
            url: directions.url.or_empty(),
            application: directions.application.or_empty(),
            consumer: directions.consumer.or_empty(),
            unified_api: directions.unified_api.or_empty(),
            service: directions.service.or_empty(),
            status: status.as_u16(),
            took,
            error,
        });
    }

    fn call(&self, request: Request<CallerBody>) -> Call {
        let began = self.vault.clock().now();
        let (parts, body) = request.into_parts();
        let (mut directions, headers) = Directions::take(parts.headers);
        Call {
            method: directions.method.take().unwrap_or(parts.method),
            headers,
            body: Replayable::new(body, self.config.replay_limit),
            began,
            deadline: began + directions.timeout.unwrap_or(self.config.timeout),
            directions,
        }
    }

    async fn forward(
        &self,
        call: &Call,
        passed: Option<Passed>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let directions = &call.directions;
        let application = directions.application.get()?;
        self.keys
            .check(directions.key.as_ref(), application, call.deadline)
            .await?;
        directions.check()?;
        let url = directions.url.required()?;
        let trip = Trip {
            gateway: self,
            call,
            resolved: self
                .connection(application.unwrap_or_default(), directions)
                .await?,
        };
        trip.run(url, passed).await
    }

    /// The connection that the headers name.
    async fn connection(
        &self,
        application: &str,
        directions: &Directions,
    ) -> Result<Arc<Resolved>, ApiError> {
        let consumer = directions.consumer.required()?;
        consumer_id(consumer)?;
        let service = directions.service.get()?;
        let api = directions.unified_api.get()?;
        let api = api.or_else(|| self.only_api(service?));
        if let (Some(service), Some(api)) = (service, api) {
            if let Some(resolved) = self.vault.resolved(application, consumer, api, service) {
                return Ok(resolved);
            }
            let key = ConnectionKey::new(application, consumer, api, service);
            return Ok(Box::pin(self.vault.resolve(&key)).await?);
        }
        let only =
            Box::pin(self.only_connection(application.into(), consumer.into(), service, api));
        Ok(self.vault.resolve(&only.await?).await?)
    }

    /// The unified API of a service that has only one.
    fn only_api(&self, service: &str) -> Option<&str> {
        let connector = self.vault.catalogue().find(service)?;
        match connector.unified_apis.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The consumer's only connection of a service, or under a unified API.
    async fn only_connection(
        &self,
        application: ApplicationId,
        consumer: ConsumerId,
        service: Option<&str>,
        api: Option<&str>,
    ) -> Result<ConnectionKey, ApiError> {
        if service.is_none() && api.is_none() {
            return Err(ApiError::missing_header("x-apideck-service-id"));
        }
        let all = self
            .vault
            .store()
            .connections(&application, Some(&consumer))
            .await
            .map_err(|e| ApiError::store(&e.to_string()))?;
        let mut fitting = all
            .into_iter()
            .map(|connection| connection.key)
            .filter(|key| {
                service.is_none_or(|service| key.service.as_str() == service)
                    && api.is_none_or(|api| *key.unified_api == *api)
            });
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(ApiError::not_found(format!(
                "Consumer {consumer} has no such connection"
            ))),
            (Some(_), Some(_)) => Err(ApiError::bad_header(
                "x-apideck-service-id and x-apideck-unified-api are both needed: several connections fit",
            )),
        }
    }
}

impl Trip<'_> {
    async fn run(
        &self,
        url: &str,
        passed: Option<Passed>,
    ) -> Result<Response<GatewayBody>, ApiError> {
        if self.call.directions.authorization.is_some() {
            let target = self.target(url, None)?;
            let heard = self.send(&target, None, None).await?;
            return Ok(self.finish(heard));
        }
        let (mut token, mut target, first) = match passed {
            Some(passed) => (passed.token, passed.target, Some(passed.result)),
            None => {
                let vault = &self.gateway.vault;
                let token = vault.token_for(&self.resolved, self.left()).await?;
                let target = self.target(url, Some(&token))?;
                (token, target, None)
            }
        };
        let mut heard = self.send(&target, Some(&token), first).await?;
        let status = heard.response.status().as_u16();
        if self.resolved.connector.api.concerns_token(status)
            && Box::pin(self.says_expired(&mut heard)).await
        {
            let wait = self.left();
            let vault = &self.gateway.vault;
            match Box::pin(vault.rejected(&self.resolved, &token, wait)).await? {
                // The token is younger than any expiry: the API means something else by it.
                None => {}
                Some(newer) if self.call.body.can_replay() => {
                    self.gateway.metrics.proxied_again(Again::Rejected);
                    token = newer;
                    target = self.target(url, Some(&token))?;
                    heard = self.send(&target, Some(&token), None).await?;
                }
                Some(_) => return Err(ApiError::not_replayable(self.gateway.config.replay_limit)),
            }
        } else if status < 500 {
            self.gateway.vault.accepted(&self.resolved, &token);
        }
        if self.call.directions.follow_redirects {
            heard = Box::pin(self.follow(heard, target, &token)).await?;
        }
        Ok(self.finish(heard))
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.gateway.vault.clock()
    }

    /// The deadline on the runtime's clock.
    #[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
    fn deadline(&self) -> Instant {
        Instant::now() + self.left()
    }

    fn left(&self) -> Duration {
        self.clock().now().until(self.call.deadline)
    }

    fn target(&self, url: &str, token: Option<&Token>) -> Result<Target, ApiError> {
        target::resolve(url, &self.resolved, token, &self.gateway.rules)
    }

    /// Sends the request, again where that is safe, until the API answers or the time is up.
    /// `first`: it was sent once already, with this result.
    async fn send(
        &self,
        target: &Target,
        token: Option<&Token>,
        mut first: Option<Result<Response<UpstreamBody>, UpstreamError>>,
    ) -> Result<Heard, ApiError> {
        let mut retries = Retries::new(
            &self.call.method,
            &self.call.headers,
            self.gateway.config.retries,
        );
        loop {
            let result = match first.take() {
                Some(result) => result,
                None => {
                    let upstream = &self.gateway.upstream;
                    let request = self.request(token);
                    upstream.request(target, request, self.deadline()).await
                }
            };
            if let Err(UpstreamError::TimedOut) = result {
                let detail = format!("{} did not answer in time", target.host());
                return Err(ApiError::timed_out(&detail));
            }
            let verdict = retries.judge(&result, self.left(), self.call.body.can_replay());
            match (verdict, result) {
                (Verdict::Again(pause), _) => {
                    self.gateway.metrics.proxied_again(Again::Failed);
                    self.clock().sleep(pause).await;
                }
                (Verdict::Pass, Ok(response)) => {
                    return Ok(Heard {
                        response,
                        read: Bytes::new(),
                    });
                }
                (Verdict::Pass, Err(error)) => return Err(unreachable(target, &error)),
            }
        }
    }

    fn request(&self, token: Option<&Token>) -> Request<OutBody> {
        let mut request = Request::new(self.call.body.read());
        *request.method_mut() = self.call.method.clone();
        *request.headers_mut() = self.call.headers.clone();
        let headers = request.headers_mut();
        headers::add_connector_headers(headers, &self.resolved, token);
        match (&self.call.directions.authorization, token) {
            (Some(own), _) => headers.insert(header::AUTHORIZATION, own.clone()),
            (None, Some(token)) => {
                headers.insert(header::AUTHORIZATION, token.authorization().clone())
            }
            (None, None) => None,
        };
        request
    }

    /// Whether the API rejected the token as expired. Reads a bounded part of an error's body.
    async fn says_expired(&self, heard: &mut Heard) -> bool {
        let status = heard.response.status().as_u16();
        let api = &self.resolved.connector.api;
        if !api.signals.is_empty() {
            let reading = body::peek(heard.response.body_mut());
            heard.read = tokio::time::timeout(self.left(), reading)
                .await
                .unwrap_or_default();
        }
        api.meaning(status, &heard.read) == Meaning::Expired
    }

    /// Follows redirects of safe methods, as long as they stay where the token may go.
    async fn follow(
        &self,
        mut heard: Heard,
        mut at: Target,
        token: &Token,
    ) -> Result<Heard, ApiError> {
        const MOST: usize = 5;
        for _ in 0..MOST {
            let next = match self.call.method {
                Method::GET | Method::HEAD => target::redirect(&heard.response, &at),
                _ => None,
            };
            let next = next.map(|next| target::checked(&next, &self.resolved, &self.gateway.rules));
            match next {
                Some(Ok(next)) => {
                    heard = self.send(&next, Some(token), None).await?;
                    at = next;
                }
                // Elsewhere the caller may go, but not the token.
                Some(Err(_)) | None => break,
            }
        }
        Ok(heard)
    }

    fn finish(&self, heard: Heard) -> Response<GatewayBody> {
        let Heard { response, read } = heard;
        let (mut parts, body) = response.into_parts();
        headers::finish(&mut parts.headers, parts.status);
        tracing::debug!(
            connection = %self.resolved.key,
            method = %self.call.method,
            status = parts.status.as_u16(),
            "proxied"
        );
        Response::from_parts(parts, GatewayBody::stream(read, body))
    }
}

/// In words for the caller. A private address is the request's fault, the rest is the network's.
fn unreachable(target: &Target, error: &UpstreamError) -> ApiError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut last = error.to_string();
    while let Some(present) = cause {
        last = present.to_string();
        if let Some(refused) = present.downcast_ref::<RefusedAddress>() {
            return ApiError::forbidden_host(refused.to_string());
        }
        cause = present.source();
    }
    ApiError::downstream(
        StatusCode::BAD_GATEWAY,
        format!("{} cannot be reached: {last}", target.host()),
    )
}
