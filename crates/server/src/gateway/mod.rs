//! `/proxy`: a request to an API with the connection's fresh token.
//!
//! The way of a request: authenticate the key, resolve the connection, take the token (from
//! memory when it is fresh), check that it may go where it is asked to, stream both ways. What
//! went wrong here is an Apideck error; what the API answers passes through unchanged.

mod body;
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod retry;
mod target;
mod upstream;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokenward::{
    ConnectionKey, Token, Vault,
    connector::Meaning,
    time::{Clock, Moment},
    vault::Resolved,
};
use url::Url;

pub use body::GatewayBody;

use self::{
    body::{OutBody, Replayable},
    headers::Directions,
    retry::{Retries, Verdict},
    upstream::{Upstream, UpstreamBody, UpstreamError},
};
use crate::{
    api::{ApiError, Caller, Keys},
    egress::{AddressRules, Connector, RefusedAddress},
    observe::{Metrics, metrics::Again},
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
    config: GatewayConfig,
}

/// One request on its way.
struct Trip<'a> {
    gateway: &'a Gateway,
    resolved: Arc<Resolved>,
    directions: Directions,
    method: Method,
    headers: http::HeaderMap,
    body: Replayable,
    deadline: Moment,
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
        config: GatewayConfig,
    ) -> Self {
        let clock = vault.clock().clone();
        Self {
            vault,
            keys,
            upstream: Upstream::new(connector, clock),
            rules,
            metrics,
            config,
        }
    }

    /// The same gateway for another worker: it shares all but the connections to APIs.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            upstream: self.upstream.another(),
            ..self.clone()
        }
    }

    /// Closes connections to APIs that have been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        self.upstream.sweep();
    }

    /// Answers one request to `/proxy`.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<GatewayBody> {
        let began = self.vault.clock().now();
        let result = self.forward(request, began).await;
        let took = began.until(self.vault.clock().now());
        match result {
            Ok(response) => {
                self.metrics.proxied(Some(response.status()), took);
                response
            }
            Err(error) => {
                self.metrics.proxied(None, took);
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

    async fn forward(
        &self,
        request: Request<Incoming>,
        began: Moment,
    ) -> Result<Response<GatewayBody>, ApiError> {
        let (parts, body) = request.into_parts();
        let caller = self.keys.authenticate(&parts.headers).await?;
        let directions = Directions::read(&parts.headers)?;
        let key = self
            .connection(&caller, &directions, &parts.headers)
            .await?;
        let resolved = self.vault.resolve(&key).await?;
        let mut headers = parts.headers;
        headers::strip(&mut headers);
        let trip = Trip {
            gateway: self,
            resolved,
            method: directions.method.clone().unwrap_or(parts.method),
            headers,
            body: Replayable::new(body, self.config.replay_limit),
            deadline: began + directions.timeout.unwrap_or(self.config.timeout),
            directions,
        };
        trip.run().await
    }

    /// The connection that the headers name. Without a service id, the consumer's only one under
    /// the unified API.
    async fn connection(
        &self,
        caller: &Caller,
        directions: &Directions,
        headers: &http::HeaderMap,
    ) -> Result<ConnectionKey, ApiError> {
        let consumer = caller.consumer(headers)?;
        let key = |api: &str, service: &str| {
            ConnectionKey::new(caller.application.clone(), consumer.clone(), api, service)
        };
        if let (Some(service), Some(api)) = (&directions.service, &directions.unified_api) {
            return Ok(key(api, service));
        }
        if directions.service.is_none() && directions.unified_api.is_none() {
            return Err(ApiError::missing_header("x-apideck-service-id"));
        }
        if let Some(service) = &directions.service
            && let Some(connector) = self.vault.catalogue().find(service)
            && let [only] = connector.unified_apis.as_slice()
        {
            return Ok(key(only, service));
        }
        let all = self
            .vault
            .store()
            .connections(&caller.application, Some(&consumer))
            .await
            .map_err(|e| ApiError::store(&e.0))?;
        let mut fitting = all
            .into_iter()
            .map(|connection| connection.key)
            .filter(|key| {
                directions
                    .service
                    .as_deref()
                    .is_none_or(|service| key.service.as_str() == service)
                    && directions
                        .unified_api
                        .as_deref()
                        .is_none_or(|api| *key.unified_api == *api)
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
    async fn run(self) -> Result<Response<GatewayBody>, ApiError> {
        if self.directions.authorization.is_some() {
            let target = self.target(None)?;
            let heard = self.send(&target, None).await?;
            return Ok(self.finish(heard));
        }
        let mut token = self
            .gateway
            .vault
            .token_for(&self.resolved, self.left())
            .await?;
        let mut target = self.target(Some(&token))?;
        let mut heard = self.send(&target, Some(&token)).await?;
        if self.says_expired(&mut heard).await {
            match self
                .gateway
                .vault
                .rejected(&self.resolved, &token, self.left())
                .await?
            {
                // The token is younger than any expiry: the API means something else by it.
                None => {}
                Some(newer) if self.body.can_replay() => {
                    self.gateway.metrics.proxied_again(Again::Rejected);
                    token = newer;
                    target = self.target(Some(&token))?;
                    heard = self.send(&target, Some(&token)).await?;
                }
                Some(_) => return Err(ApiError::not_replayable(self.gateway.config.replay_limit)),
            }
        }
        if self.directions.follow_redirects {
            heard = self.follow(heard, target, &token).await?;
        }
        Ok(self.finish(heard))
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.gateway.vault.clock()
    }

    fn left(&self) -> Duration {
        self.clock().now().until(self.deadline)
    }

    fn target(&self, token: Option<&Token>) -> Result<Url, ApiError> {
        target::resolve(&self.directions.url, &self.resolved, token)
    }

    /// Sends the request, again where that is safe, until the API answers or the time is up.
    async fn send(&self, target: &Url, token: Option<&Token>) -> Result<Heard, ApiError> {
        target::check(target, &self.resolved, &self.gateway.rules)?;
        let mut retries = Retries::new(&self.method, &self.headers, self.gateway.config.retries);
        loop {
            let request = self.request(target, token)?;
            let answer =
                tokio::time::timeout(self.left(), self.gateway.upstream.request(request)).await;
            let Ok(result) = answer else {
                let detail = format!("{} did not answer in time", host(target));
                return Err(ApiError::timed_out(&detail));
            };
            let verdict = retries.judge(&result, self.left(), self.body.can_replay());
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

    fn request(&self, target: &Url, token: Option<&Token>) -> Result<Request<OutBody>, ApiError> {
        let uri = target::uri(target)?;
        let mut request = Request::new(self.body.read());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        headers::add_connector_headers(headers, &self.resolved, token);
        match (&self.directions.authorization, token) {
            (Some(own), _) => headers.insert(header::AUTHORIZATION, own.clone()),
            (None, Some(token)) => {
                headers.insert(header::AUTHORIZATION, token.authorization().clone())
            }
            (None, None) => None,
        };
        Ok(request)
    }

    /// Whether the API rejected the token as expired. Reads a bounded part of an error's body.
    async fn says_expired(&self, heard: &mut Heard) -> bool {
        let status = heard.response.status().as_u16();
        let api = &self.resolved.connector.api;
        if !api.concerns_token(status) {
            return false;
        }
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
        mut at: Url,
        token: &Token,
    ) -> Result<Heard, ApiError> {
        const MOST: usize = 5;
        for _ in 0..MOST {
            let next = match self.method {
                Method::GET | Method::HEAD => target::redirect(&heard.response, &at),
                _ => None,
            };
            match next {
                Some(next) if target::allowed(&next, &self.resolved) => {
                    heard = self.send(&next, Some(token)).await?;
                    at = next;
                }
                // Elsewhere the caller may go, but not the token.
                _ => break,
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
            method = %self.method,
            status = parts.status.as_u16(),
            "proxied"
        );
        Response::from_parts(parts, GatewayBody::stream(read, body))
    }
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// In words for the caller. A private address is the request's fault, the rest is the network's.
fn unreachable(target: &Url, error: &UpstreamError) -> ApiError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut last = error.to_string();
    while let Some(present) = cause {
        last = present.to_string();
        let refused = present
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref()?.downcast_ref::<RefusedAddress>());
        if let Some(refused) = refused {
            return ApiError::forbidden_host(refused.to_string());
        }
        cause = present.source();
    }
    ApiError::downstream(
        StatusCode::BAD_GATEWAY,
        format!("{} cannot be reached: {last}", host(target)),
    )
}
