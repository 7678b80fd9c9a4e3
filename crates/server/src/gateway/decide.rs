//! What is decided about a request before anything of it is sent: who asks, for which connection, with which
//! token, and where it goes. What was decided travels with the request, and is not decided again.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method};
use tokenward::{
    ApplicationId, ConnectionKey, ConsumerId, Token, TokenError,
    store::Scope,
    time::Moment,
    vault::{Held, Resolved},
};

use super::{
    Gateway,
    directions::{Directions, Wanted},
    rules::Direction,
    target::{self, Asked, Target},
    trip::Begun,
};
use crate::front::{caller::consumer_id, error::ApiError};

/// A decided request.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(super) resolved: Arc<Resolved>,
    pub(super) credential: Credential,
    pub(super) target: Target,
    pub(super) method: Method,
    pub(super) follow_redirects: bool,
    pub(super) time: Time,
}

/// What a request is authorized with.
#[derive(Debug)]
pub(super) enum Credential {
    /// The vault's token.
    Token(Held),
    /// What the caller gave instead.
    Own(HeaderValue),
}

impl Credential {
    pub(super) fn token(&self) -> Option<&Token> {
        match self {
            Self::Token(token) => Some(token),
            Self::Own(_) => None,
        }
    }

    /// The value of `Authorization`.
    pub(super) fn header(&self) -> &HeaderValue {
        match self {
            Self::Token(token) => token.authorization(),
            Self::Own(own) => own,
        }
    }
}

/// When a request came, and until when its answer must begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) began: Moment,
    pub(super) deadline: Moment,
    /// The deadline is the gateway's own: an upload that moves puts it off by this.
    pub(super) patience: Option<Duration>,
}

impl Gateway {
    /// Decides about a request that came at `began`, asking whom it takes, within the caller's time. Where that
    /// takes a refresh, a connection to the API may be on its way already.
    pub(super) async fn decide(
        &self,
        directions: &Directions<'_>,
        method: &Method,
        began: Moment,
    ) -> Result<(Decided, Begun), ApiError> {
        // A direction that makes no sense is told later, to those who may know.
        let wanted = directions.wanted();
        let time = self.time(began, wanted.as_ref().ok().and_then(|w| w.timeout));
        let deciding = Box::pin(self.decide_in_time(directions, wanted, method, time));
        tokio::select! {
            biased;
            decided = deciding => decided,
            () = self.vault.clock().sleep(self.left(&time)) => {
                Err(ApiError::timed_out("The vault did not answer in time"))
            }
        }
    }

    async fn decide_in_time(
        &self,
        directions: &Directions<'_>,
        wanted: Result<Wanted<'_>, ApiError>,
        method: &Method,
        time: Time,
    ) -> Result<(Decided, Begun), ApiError> {
        let application = directions.text(Direction::Application);
        let key = directions.key().map(HeaderValue::from_bytes);
        let key = key.and_then(Result::ok);
        let naming = directions.naming(application.as_deref());
        let application = self
            .keys
            .check(key.as_ref(), naming, Scope::Proxy, time.deadline)
            .await?;
        let mut wanted = wanted?;
        let resolved = self.connection(&application, &wanted, &time).await?;
        complete(&resolved)?;
        let asked = wanted.asked.clone();
        let at = |token: Option<&Token>| target::resolve(&asked, &resolved, token, &self.rules);
        let mut begun = Begun::Not;
        let (credential, target) = match wanted.authorization.take() {
            Some(own) => (Credential::Own(own), at(None)?),
            None => {
                let token = match self.vault.fresh(&resolved) {
                    Some(token) => token,
                    None => {
                        let token;
                        (token, begun) = self.refreshed(&asked, &resolved, &time).await?;
                        token
                    }
                };
                let target = at(Some(&token))?;
                (Credential::Token(token), target)
            }
        };
        let decided = Decided::new(wanted, resolved, credential, target, method, time);
        Ok((decided, begun))
    }

    /// A token that is not fresh in memory, and a connection to where it is to go that may have been begun
    /// meanwhile.
    async fn refreshed(
        &self,
        asked: &Asked<'_>,
        resolved: &Resolved,
        time: &Time,
    ) -> Result<(Held, Begun), ApiError> {
        // Where it cannot go anyhow, no token is refreshed for it.
        let target = target::foreseen(asked, resolved, &self.rules)?;
        let token = self.vault.token_for(resolved, self.left(time));
        let Some(target) = target else {
            return Ok((token.await?, Begun::Not));
        };
        let deadline = self.runtime_deadline(time);
        let waiting = self.upstream.preconnect_while(&target, deadline, token);
        let (token, preconnect) = waiting.await;
        Ok((token?, preconnect.map_or(Begun::Not, Begun::Connecting)))
    }

    /// As [`decide`](Self::decide), if all that it takes is known without asking anybody. `None`: it is not,
    /// or the request is to be refused.
    pub(super) fn decide_at_once(
        &self,
        directions: &Directions<'_>,
        method: &Method,
        began: Moment,
    ) -> Option<Decided> {
        let wanted = directions.wanted().ok()?;
        if wanted.authorization.is_some() || wanted.follow_redirects {
            return None;
        }
        let service = wanted.service.as_deref()?;
        let api = wanted.unified_api.as_deref();
        let api = api.or_else(|| self.only_api(service))?;
        let application = directions.text(Direction::Application);
        let naming = directions.naming(application.as_deref());
        let find = |application: &str| {
            self.vault
                .resolved(application, &wanted.consumer, api, service)
        };
        let key = directions.key()?;
        let resolved = self.keys.known(key, naming, Scope::Proxy, find)??;
        complete(&resolved).ok()?;
        let token = self.vault.fresh(&resolved)?;
        let target = target::resolve(&wanted.asked, &resolved, Some(&token), &self.rules).ok()?;
        let time = self.time(began, wanted.timeout);
        let credential = Credential::Token(token);
        Some(Decided::new(
            wanted, resolved, credential, target, method, time,
        ))
    }

    fn time(&self, began: Moment, asked: Option<Duration>) -> Time {
        Time {
            began,
            deadline: began + asked.unwrap_or(self.config.timeout),
            patience: asked.is_none().then_some(self.config.timeout),
        }
    }

    pub(super) fn left(&self, time: &Time) -> Duration {
        self.vault.clock().now().until(time.deadline)
    }

    /// The connection that the directions name.
    async fn connection(
        &self,
        application: &ApplicationId,
        wanted: &Wanted<'_>,
        time: &Time,
    ) -> Result<Arc<Resolved>, ApiError> {
        let consumer = &*wanted.consumer;
        consumer_id(consumer)?;
        let service = wanted.service.as_deref();
        let api = wanted.unified_api.as_deref();
        let api = api.or_else(|| self.only_api(service?));
        let key = match (service, api) {
            (Some(service), Some(api)) => {
                let name = application.as_str();
                if let Some(resolved) = self.vault.resolved(name, consumer, api, service) {
                    return Ok(resolved);
                }
                ConnectionKey::new(application.clone(), consumer, api, service)
            }
            _ => {
                let only = self.only_connection(application.clone(), consumer.into(), service, api);
                let left = self.left(time);
                let late = |_| TokenError::DeadlineExceeded {
                    waited_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                };
                tokio::time::timeout(left, only).await.map_err(late)??
            }
        };
        Ok(self.vault.resolve_within(&key, self.left(time)).await?)
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
            return Err(ApiError::missing_header(Direction::Service.name()));
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

/// Whether the connection has all settings that its connector requires: without them the API would be asked
/// about another tenant, or about none.
fn complete(resolved: &Resolved) -> Result<(), ApiError> {
    let mut missing = resolved.connector.missing_required(resolved.settings());
    match missing.next() {
        None => Ok(()),
        Some(name) => Err(ApiError::missing_setting(name)),
    }
}

impl Decided {
    fn new(
        wanted: Wanted<'_>,
        resolved: Arc<Resolved>,
        credential: Credential,
        target: Target,
        method: &Method,
        time: Time,
    ) -> Self {
        Self {
            resolved,
            credential,
            target,
            method: wanted.method.unwrap_or_else(|| method.clone()),
            follow_redirects: wanted.follow_redirects,
            time,
        }
    }

    /// The same request with a newer token. `asked`: as the caller gave it, for that token may lead elsewhere
    /// (`instance_url`).
    pub(super) fn renew(
        &mut self,
        gateway: &Gateway,
        asked: &Asked<'_>,
        token: Held,
    ) -> Result<(), ApiError> {
        self.target = target::resolve(asked, &self.resolved, Some(&token), &gateway.rules)?;
        self.credential = Credential::Token(token);
        Ok(())
    }
}
