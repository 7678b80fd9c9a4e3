//! The driver of one flight: performs the effects that [`Flight::step`] asks for, one at a time.
//!
//! It decides nothing about the protocol. It is a task of its own: callers wait for it, none owns
//! it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    Inner,
    entry::{GrantEntry, Landing},
    lock,
    resolve::settings_as_text,
};
use crate::{
    connector::{Connector, Context, RevocationScope, Template},
    error::TokenError,
    id::{ApplicationId, ConnectorId, GrantId, OwnerId},
    oauth::{self, ClientCredentials, TokenReply, TokenRequest, TokenSet},
    observe::{FlightOutcome, Signal},
    refresh::{
        flight::{Effect, Ending, Event, Flight, Outcome, Plan, Stored},
        gate::{Admission, Gate},
        ledger::{
            ClaimReply, ClaimRequest, CommitRequest, FailureKind, GrantRow, Need, SettleRequest,
            Standing,
        },
        schedule,
    },
    seal::{Purpose, fingerprint},
    secret::Secret,
    store::{Stamped, StoreError, StoreResult},
    time::{Moment, StoreTime},
    transport::{Answer, Patience, TransportError},
};

/// A granted token set and what goes with it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) tokens: TokenSet,
    pub(super) lifetime: Option<Duration>,
    pub(super) keep_alive: Option<Duration>,
}

/// Flies until the flight is over, then lets everybody know.
pub(super) async fn fly(
    inner: Arc<Inner>,
    entry: Arc<GrantEntry>,
    need: Need,
    seen: u64,
    sender: watch::Sender<Option<Landing>>,
) {
    // Whatever happens, even a panic: the slot is left, so that the next caller starts anew.
    let guard = SlotGuard(&entry);
    inner.observer.observe(&Signal::FlightBegan);
    let began = inner.clock.now();
    let pilot = Pilot::new(&inner, &entry, need, seen);
    let (ending, asked) = pilot.fly(seen).await;
    let (landing, outcome) = inner.land(&entry, ending, asked);
    drop(guard);
    inner.observer.observe(&Signal::FlightEnded {
        outcome,
        took: began.until(inner.clock.now()),
        waiters: sender.receiver_count(),
    });
    sender.send_replace(Some(landing));
}

struct SlotGuard<'a>(&'a GrantEntry);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.0.clear_slot();
    }
}

struct Pilot<'a> {
    inner: &'a Inner,
    entry: &'a Arc<GrantEntry>,
    plan: Plan,
    owner: OwnerId,
    /// Our time before the newest store statement was asked, and the store's time of its reply.
    asked: Moment,
    stamp: StoreTime,
    /// The spool entry that this flight has made.
    spooled: Option<String>,
}

impl<'a> Pilot<'a> {
    fn new(inner: &'a Inner, entry: &'a Arc<GrantEntry>, need: Need, seen: u64) -> Self {
        let number = inner.flights.fetch_add(1, Ordering::Relaxed);
        Self {
            inner,
            entry,
            plan: Plan {
                seen,
                need,
                policy: entry.connector.refresh.replay,
                claim_ttl: inner.config.claim_ttl,
                poll: inner.config.claim_poll,
                chance: inner.chance.fraction(),
            },
            owner: OwnerId::new(format!("{}-{number}", inner.name)),
            asked: inner.clock.now(),
            stamp: StoreTime(0),
            spooled: None,
        }
    }

    async fn fly(mut self, seen: u64) -> (Ending, Moment) {
        tracing::debug!(grant = %self.entry.id, seen, need = ?self.plan.need, "refresh flight begins");
        let mut flight = Flight::new(self.plan.clone());
        let mut event = Event::Begin;
        loop {
            let (next, effect) = flight.step(event, self.inner.clock.now());
            flight = next;
            event = match effect {
                Effect::Look => {
                    Event::Looked(self.stored(self.inner.store.grant(&self.entry.id)).await)
                }
                Effect::Admit => Event::Admitted(self.admit()),
                Effect::Claim => {
                    let request = ClaimRequest {
                        grant: self.entry.id.clone(),
                        seen: self.plan.seen,
                        owner: self.owner.clone(),
                        ttl: self.plan.claim_ttl,
                        need: self.plan.need,
                        policy: self.plan.policy,
                    };
                    let stored = self.stored(self.inner.store.claim(request)).await;
                    if !matches!(stored, Stored::Ok(ClaimReply::Claimed(_), _)) {
                        self.gate(Gate::unused);
                    }
                    Event::Claimed(stored)
                }
                Effect::Send { row, not_after } => {
                    Event::Answered(self.send(&row, not_after).await)
                }
                Effect::Commit { row, granted } => {
                    let request = self.commit_request(&row, &granted);
                    let stored = self.stored(self.inner.store.commit(request)).await;
                    if let Stored::Down(why) = &stored {
                        tracing::error!(grant = %row.id, %why, "a granted token could not be saved; it is kept and tried again");
                    }
                    Event::Committed(stored)
                }
                Effect::Spool { row, granted } => {
                    self.spool(&row, &granted).await;
                    Event::Spooled
                }
                Effect::Settle { row, verdict } => {
                    let request = SettleRequest {
                        grant: row.id.clone(),
                        base: row.version,
                        epoch: row.epoch,
                        verdict,
                    };
                    Event::Settled(self.stored(self.inner.store.settle(request)).await)
                }
                Effect::Revoke {
                    granted,
                    reauthorized,
                } => {
                    self.inner
                        .revoke_void(self.entry.whose(), &granted.tokens, reauthorized)
                        .await;
                    Event::Revoked
                }
                Effect::Sleep(pause) => {
                    tokio::select! {
                        () = self.inner.clock.sleep(pause) => {}
                        () = self.entry.changed.notified() => {}
                    }
                    Event::Woken
                }
                Effect::Finish(ending) => {
                    self.unspool().await;
                    return (ending, self.asked);
                }
            };
        }
    }

    async fn stored<R>(
        &mut self,
        verb: impl Future<Output = StoreResult<Stamped<R>>>,
    ) -> Stored<R> {
        self.asked = self.inner.clock.now();
        match verb.await {
            Ok(stamped) => {
                self.stamp = stamped.at;
                Stored::Ok(stamped.value, stamped.at)
            }
            Err(StoreError(why)) => Stored::Down(why),
        }
    }

    fn gate<R>(&self, ask: impl FnOnce(&mut Gate) -> R) -> R {
        let key = (
            self.entry.application.clone(),
            self.entry.connector.id.clone(),
        );
        let mut gates = lock(&self.inner.gates);
        ask(gates
            .entry(key)
            .or_insert_with(|| Gate::new(self.entry.connector.gate_limits())))
    }

    fn admit(&self) -> Admission {
        let now = self.inner.clock.now();
        self.gate(|gate| gate.admit(now))
    }

    /// Uses the refresh token, extending the claim while the provider thinks.
    async fn send(&self, row: &GrantRow, not_after: Moment) -> Outcome<Arc<Granted>> {
        let prepared = match self.inner.prepare(self.entry, row).await {
            Ok(prepared) => prepared,
            Err(message) => {
                self.gate(Gate::unused);
                return Outcome::Failed {
                    kind: FailureKind::Configuration,
                    message,
                    retry_after: None,
                };
            }
        };
        let Inner {
            config,
            clock,
            transport,
            store,
            observer,
            ..
        } = self.inner;
        let patience = Patience {
            connect: config.connect_timeout.min(config.claim_ttl / 2),
            answer: config.answer_timeout,
            not_after: Some(not_after),
        };
        let exchange = transport.exchange(prepared.request.clone(), patience);
        tokio::pin!(exchange);
        let mut lost = false;
        let answer = loop {
            tokio::select! {
                answer = &mut exchange => break answer,
                () = clock.sleep(config.claim_ttl / 3) => {}
            }
            // A claim that is lost, or cannot be extended, is no reason to hang up: the answer
            // that is under way may be the only living token, and is adopted while no other
            // version is committed.
            if let Ok(false) = store.extend(&row.id, row.epoch, config.claim_ttl).await
                && !lost
            {
                lost = true;
                tracing::warn!(grant = %row.id, "the claim was taken over while waiting for the provider");
                observer.observe(&Signal::ClaimLost { grant: &row.id });
            }
        };
        let now = clock.now();
        let store_now = self.stamp + self.asked.until(now);
        let outcome = self.inner.judge(self.entry, &prepared, answer, store_now);
        match &outcome {
            Outcome::Granted(_) | Outcome::Refused { .. } => self.gate(Gate::well),
            Outcome::Failed {
                kind, retry_after, ..
            } => self.gate(|gate| gate.ill(*kind, *retry_after, now)),
            Outcome::TooLate => self.gate(Gate::unused),
        }
        outcome
    }

    fn commit_request(&self, row: &GrantRow, granted: &Granted) -> CommitRequest {
        let version = row.version + 1;
        CommitRequest {
            grant: row.id.clone(),
            base: row.version,
            epoch: row.epoch,
            sent_at: row
                .attempt
                .as_ref()
                .map_or(row.expires_at.unwrap_or(StoreTime(0)), |a| a.last_at),
            sealed: self.inner.keyring.seal(
                Purpose::TokenSet {
                    grant: &row.id,
                    version,
                },
                &granted.tokens.to_plain(),
            ),
            lifetime: granted.lifetime,
            keep_alive: granted.keep_alive,
            fingerprint: self
                .inner
                .fingerprint(&row.application, &row.connector, &granted.tokens),
        }
    }

    async fn spool(&mut self, row: &GrantRow, granted: &Granted) {
        let request = self.commit_request(row, granted);
        let name = format!("{}-{}-{}", row.id, row.version, row.epoch);
        lock(&self.inner.spooling).insert(name.clone());
        self.spooled = Some(name.clone());
        match self
            .inner
            .spool
            .put(&name, &self.inner.spool_bytes(row, &request, granted))
            .await
        {
            Ok(()) => {
                tracing::warn!(grant = %row.id, "the store is down; the granted token waits in the spool");
            }
            Err(why) => {
                tracing::error!(grant = %row.id, %why, "the store is down and the spool cannot be written; the granted token is only in memory");
            }
        }
        self.inner.note_spool_depth().await;
    }

    async fn unspool(&self) {
        if let Some(name) = &self.spooled {
            if let Err(why) = self.inner.spool.remove(name).await {
                tracing::warn!(%why, "a spool entry that is not needed any more is left behind");
            }
            lock(&self.inner.spooling).remove(name);
            self.inner.note_spool_depth().await;
        }
    }
}

/// A request with what is needed to read its answer.
struct Prepared {
    request: TokenRequest,
    tokens: TokenSet,
    secrets: Vec<Secret>,
}

/// Whose endpoints and client are meant.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) grant: &'a GrantId,
    pub(super) application: &'a ApplicationId,
    pub(super) connector: &'a Connector,
    /// The connection's settings, where the store does not know them any more.
    pub(super) settings: Option<&'a Map<String, Value>>,
}

impl GrantEntry {
    fn whose(&self) -> Whose<'_> {
        Whose {
            grant: &self.id,
            application: &self.application,
            connector: &self.connector,
            settings: None,
        }
    }
}

impl Inner {
    /// Builds the request that refreshes a row. Errors are in words for a person; nothing was
    /// sent then.
    async fn prepare(&self, entry: &GrantEntry, row: &GrantRow) -> Result<Prepared, String> {
        let connector = &entry.connector;
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let plain = self
            .keyring
            .open(purpose, &row.sealed)
            .map_err(|error| error.to_string())?;
        let tokens = TokenSet::from_plain(&plain).ok_or("the stored tokens are malformed")?;
        let (client, url) = self.client_at(entry.whose(), &connector.token.url).await?;
        if !connector.token.hosts.is_empty()
            && !connector
                .token
                .hosts
                .iter()
                .any(|host| host.matches(&url, &Context::default()))
        {
            return Err(format!(
                "token endpoint host {} is not on the connector's list",
                url.host_str().unwrap_or("")
            ));
        }
        let extra: Vec<_> = connector
            .token
            .params
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let auth = connector.token.client_auth;
        let request = match &tokens.refresh_token {
            Some(refresh_token) => {
                oauth::refresh(&url, auth, &client.credentials, refresh_token, &extra)
            }
            None if tokens.client_credentials => oauth::client_credentials(
                &url,
                auth,
                &client.credentials,
                &client.scopes.join(" "),
                &extra,
            ),
            None => return Err("there is no refresh token".to_owned()),
        };
        let secrets = [
            &tokens.refresh_token,
            &tokens.access_token,
            &client.credentials.secret,
        ];
        let secrets = secrets.into_iter().flatten().cloned().collect();
        Ok(Prepared {
            request,
            tokens,
            secrets,
        })
    }

    /// The OAuth client of a grant, and one of its endpoints.
    async fn client_at(
        &self,
        whose: Whose<'_>,
        endpoint: &Template,
    ) -> Result<(UsableClient, url::Url), String> {
        let Whose {
            grant,
            application,
            connector,
            settings,
        } = whose;
        let client = self
            .store
            .client(application, &connector.id)
            .await
            .map_err(|error| error.0)?
            .ok_or_else(|| TokenError::NoClient(connector.id.to_string()).to_string())?;
        let settings = match settings {
            Some(settings) => settings_as_text(connector, settings),
            None if endpoint.names_settings() => {
                let connection = self
                    .store
                    .connection_of(grant)
                    .await
                    .map_err(|error| error.0)?;
                settings_as_text(
                    connector,
                    &connection
                        .map(|connection| connection.settings)
                        .unwrap_or_default(),
                )
            }
            None => BTreeMap::new(),
        };
        let context = Context {
            client: Some(&client.settings),
            settings: Some(&settings),
            token: None,
        };
        let url = endpoint
            .fill_url(&context)
            .map_err(|error| format!("endpoint `{endpoint}`: {error}"))?;
        let secret = match &client.sealed_secret {
            Some(sealed) => Some(
                self.open_client_secret(&client, sealed)
                    .map_err(|error| error.to_string())?,
            ),
            None => None,
        };
        let credentials = ClientCredentials {
            id: client.client_id,
            secret,
        };
        Ok((
            UsableClient {
                credentials,
                scopes: client.scopes,
            },
            url,
        ))
    }

    /// Reads a provider's answer (DESIGN 3.4).
    fn judge(
        &self,
        entry: &GrantEntry,
        prepared: &Prepared,
        answer: Result<Answer, TransportError>,
        now: StoreTime,
    ) -> Outcome<Arc<Granted>> {
        let connector = &entry.connector;
        let answer = match answer {
            Ok(answer) => answer,
            Err(TransportError::TooLate) => return Outcome::TooLate,
            Err(TransportError::NotSent(message)) => {
                return Outcome::Failed {
                    kind: FailureKind::NotSent,
                    message,
                    retry_after: None,
                };
            }
            Err(TransportError::NoAnswer(message)) => {
                return Outcome::Failed {
                    kind: FailureKind::Unknown,
                    message,
                    retry_after: None,
                };
            }
        };
        let secrets: Vec<&Secret> = prepared.secrets.iter().collect();
        let reply = oauth::read_token_reply(
            answer.status,
            &answer.headers,
            &answer.body,
            &connector.token.dialect,
            &secrets,
            now.0,
        );
        match reply {
            TokenReply::Granted(response) => {
                let rest = response.refresh_expires_in.or(connector.idle_lifetime());
                let tokens_lifetime = response.expires_in;
                let tokens = prepared.tokens.succeeded_by(response);
                Outcome::Granted(Arc::new(Granted {
                    lifetime: tokens_lifetime
                        .or_else(|| connector.assumed_lifetime(tokens.refreshable())),
                    keep_alive: rest
                        .filter(|_| tokens.refresh_token.is_some())
                        .map(|rest| schedule::keep_alive(rest, self.chance.fraction())),
                    tokens,
                }))
            }
            // Without a refresh token there is no grant to be dead: the client was refused.
            TokenReply::Refused(refusal) if prepared.tokens.refresh_token.is_none() => {
                Outcome::Failed {
                    kind: FailureKind::Configuration,
                    message: refusal.to_string(),
                    retry_after: None,
                }
            }
            TokenReply::Refused(refusal) => Outcome::Refused {
                reason: refusal.to_string(),
            },
            TokenReply::Throttled {
                refusal,
                retry_after,
            } => Outcome::Failed {
                kind: FailureKind::Throttled,
                message: refusal.to_string(),
                retry_after,
            },
            TokenReply::Misconfigured(refusal) => Outcome::Failed {
                kind: FailureKind::Configuration,
                message: refusal.to_string(),
                retry_after: None,
            },
            TokenReply::Unreadable { why } => Outcome::Failed {
                kind: FailureKind::Unknown,
                message: why,
                retry_after: None,
            },
        }
    }

    /// Revokes an answer that came too late to be of use, where that harms nobody.
    pub(super) async fn revoke_void(
        &self,
        whose: Whose<'_>,
        tokens: &TokenSet,
        reauthorized: bool,
    ) {
        let Whose {
            grant, connector, ..
        } = whose;
        let (Some(revocation), Some(token)) = (&connector.revocation, &tokens.refresh_token) else {
            return;
        };
        if reauthorized && revocation.scope == RevocationScope::User {
            tracing::info!(%grant, "a void answer is not revoked: the new authorization would end with it");
            return;
        }
        let result = match self.client_at(whose, &revocation.url).await {
            Ok((client, url)) => {
                let request = oauth::revoke(
                    &url,
                    connector.token.client_auth,
                    &client.credentials,
                    token,
                );
                self.exchange_quietly(request).await
            }
            Err(why) => Err(why),
        };
        match result {
            Ok(()) => {
                tracing::info!(%grant, "tokens of a grant that has ended were revoked at the provider");
            }
            Err(why) => {
                tracing::warn!(%grant, %why, "tokens of a grant that has ended could not be revoked");
            }
        }
    }

    pub(super) async fn exchange_quietly(&self, request: TokenRequest) -> Result<(), String> {
        let patience = Patience {
            connect: self.config.connect_timeout,
            answer: self.config.connect_timeout,
            not_after: None,
        };
        let answer = self
            .transport
            .exchange(request, patience)
            .await
            .map_err(|error| error.to_string())?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(format!("HTTP {}", answer.status))
        }
    }

    /// Draws the conclusions of a flight: the snapshot, the log, the next look.
    fn land(
        &self,
        entry: &Arc<GrantEntry>,
        ending: Ending,
        asked: Moment,
    ) -> (Landing, FlightOutcome) {
        let grant = &entry.id;
        let failed = |error, retry_at| Landing::Failed { error, retry_at };
        let ours = |at: StoreTime, then| asked + at.until(then);
        match ending {
            Ending::Refreshed { row, at, recovered } => {
                tracing::info!(grant = %grant, connector = %row.connector, version = row.version, "refreshed");
                if recovered {
                    tracing::info!(grant = %grant, "refreshing works again");
                    self.observer.observe(&Signal::Recovered { grant });
                }
                (self.newer(entry, &row, at, asked), FlightOutcome::Refreshed)
            }
            Ending::Adopted { row, at } => {
                (self.newer(entry, &row, at, asked), FlightOutcome::Adopted)
            }
            Ending::Failed { row, at, first } => {
                let Some(trouble) = row.trouble else {
                    let error = TokenError::Store("a failure was not recorded".to_owned());
                    return (failed(error, None), FlightOutcome::StoreDown);
                };
                if first {
                    tracing::warn!(grant = %grant, connector = %row.connector, why = trouble.message, "refresh failed; it will be tried again");
                    self.observer.observe(&Signal::Pending {
                        grant,
                        message: &trouble.message,
                    });
                }
                let retry_at = ours(at, trouble.retry_at);
                self.look_again_at(retry_at, entry, row.version);
                let kind = trouble.kind;
                let error = TokenError::Failed {
                    kind,
                    message: trouble.message,
                    retry_at: trouble.retry_at,
                };
                (failed(error, Some(retry_at)), FlightOutcome::Failed(kind))
            }
            Ending::Deferred { row, at, until } => {
                let retry_at = ours(at, until);
                self.look_again_at(retry_at, entry, row.version);
                let lost = row.attempt.and_then(|attempt| attempt.lost);
                let (lost_at, why) = lost.map_or((at, String::new()), |lost| (lost.at, lost.why));
                let error = TokenError::AnswerLost {
                    lost_at,
                    why,
                    retry_at: until,
                };
                (failed(error, Some(retry_at)), FlightOutcome::Deferred)
            }
            Ending::Dead { row, first, .. } => {
                let Standing::Dead { at, reason } = row.standing else {
                    let error = TokenError::Store("a death was not recorded".to_owned());
                    return (failed(error, None), FlightOutcome::StoreDown);
                };
                if first {
                    tracing::error!(grant = %grant, connector = %row.connector, reason, "the provider ended the grant; it must be authorized anew");
                    self.observer.observe(&Signal::Died {
                        grant,
                        reason: &reason,
                    });
                }
                (
                    failed(TokenError::Dead { at, reason }, None),
                    FlightOutcome::Dead,
                )
            }
            Ending::GateShut { until } => {
                self.look_again_at(until, entry, entry.snapshot().version);
                let wait = self.clock.now().until(until);
                let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                (
                    failed(TokenError::Paused { retry_in_ms }, Some(until)),
                    FlightOutcome::GateShut,
                )
            }
            Ending::Missing => {
                // The connection was deleted, or linked to another grant, by somebody else.
                self.grants.pin().remove(grant);
                self.connections
                    .pin()
                    .retain(|_, resolved| resolved.grant.id != *grant);
                (
                    failed(TokenError::NotAuthorized(grant.to_string()), None),
                    FlightOutcome::Missing,
                )
            }
            Ending::StoreDown(why) => {
                tracing::error!(grant = %grant, %why, "the store is down; nothing was refreshed");
                (
                    failed(TokenError::Store(why), None),
                    FlightOutcome::StoreDown,
                )
            }
        }
    }

    fn newer(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
    ) -> Landing {
        match self.adopt(entry, row, at, asked) {
            Ok(()) => Landing::Newer,
            Err(error) => {
                tracing::error!(grant = %entry.id, %error, "a newer version cannot be read");
                Landing::Failed {
                    error,
                    retry_at: None,
                }
            }
        }
    }

    pub(super) fn fingerprint(
        &self,
        application: &ApplicationId,
        connector: &ConnectorId,
        tokens: &TokenSet,
    ) -> Option<[u8; 32]> {
        let token = tokens.refresh_token.as_ref()?;
        Some(fingerprint(
            &self.pepper,
            &[application.as_str(), connector.as_str()],
            token,
        ))
    }

    pub(super) fn open_client_secret(
        &self,
        client: &crate::store::OAuthClient,
        sealed: &[u8],
    ) -> Result<Secret, crate::seal::SealError> {
        let purpose = Purpose::ClientSecret {
            application: client.application.as_str(),
            connector: client.connector.as_str(),
        };
        let plain: Zeroizing<Vec<u8>> = self.keyring.open(purpose, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| crate::seal::SealError::Malformed)?;
        Ok(Secret::new(text))
    }
}

struct UsableClient {
    credentials: ClientCredentials,
    scopes: Vec<String>,
}
