//! The exchange of a code: a flight of its own, which no browser cancels.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::super::{
    Vault,
    provider::{UsableClient, Whose},
};
use crate::{
    authorize::{
        AttemptRow, Consent, Failure, Held, IdTokenCheck, Identity, Phase, Secrets, Sources,
        read_id_token,
    },
    connector::{ClaimSource, Connector, EndpointKind},
    endpoint::Context,
    id::{ConnectionKey, GrantId, OwnerId},
    oauth::{self, KeptReply, TokenReply, TokenSet},
    refresh::{flight::Fault, gate::Gate},
    secret::Secret,
    store::Stamped,
    time::StoreTime,
    transport::{Answer, Patience, TransportError},
};

/// How often a code is tried to be sent while it certainly was not, and after which pauses.
const SENDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Everything that an exchange takes.
struct Exchange<'a> {
    row: &'a AttemptRow,
    secrets: &'a Secrets,
    connector: &'a Connector,
    settings: &'a Map<String, Value>,
    client: UsableClient,
    /// The callback's parameters that tell something.
    params: BTreeMap<String, String>,
    /// When it began, on the store's clock.
    since: StoreTime,
    /// What the connection had then.
    base: Option<(GrantId, u64)>,
}

/// Why nothing was granted, and what came instead, if that may hold what nothing else does.
struct Nothing {
    why: Failure,
    kept: Option<Box<KeptReply>>,
}

impl From<Failure> for Nothing {
    fn from(why: Failure) -> Self {
        Self { why, kept: None }
    }
}

impl Vault {
    /// Sends the code, once, and sees to what comes of it.
    pub(super) async fn exchange(
        &self,
        row: AttemptRow,
        owner: OwnerId,
        code: Secret,
        params: BTreeMap<String, String>,
    ) {
        let keep_claim = self.keep_attempt(&row, &owner);
        // A claim that is taken for dead is no reason to hang up: nobody else has the code.
        let granted = tokio::select! {
            biased;
            granted = self.redeem(&row, &code, params) => granted,
            () = keep_claim => unreachable!("a claim is kept for as long as it takes"),
        };
        match granted {
            Ok(held) => self.save(&row, &owner, held).await,
            Err(Nothing { why, kept }) => {
                tracing::warn!(attempt = %row.id, connector = %row.connection.service, %why, "a login failed");
                self.record_failure(&row, &owner, why, kept.map(|kept| *kept))
                    .await;
            }
        }
    }

    /// Shows others that the exchange goes on.
    async fn keep_attempt(&self, row: &AttemptRow, owner: &OwnerId) {
        let inner = &self.inner;
        let ttl = inner.config.claim_ttl;
        loop {
            inner.clock.sleep(ttl / 3).await;
            let Ok(Stamped { value, at }) = inner.store.attempts_at(&row.connection).await else {
                continue;
            };
            let present = value.into_iter().find(|it| it.id == row.id);
            match present.and_then(|it| it.extended(owner, ttl, at)) {
                Some(extended) => {
                    let _ = inner.store.replace_attempt(extended).await;
                }
                None => return std::future::pending().await,
            }
        }
    }

    async fn redeem(
        &self,
        row: &AttemptRow,
        code: &Secret,
        params: BTreeMap<String, String>,
    ) -> Result<Held, Nothing> {
        let configuration = |why: String| Nothing::from(Failure::Configuration(why));
        let key = &row.connection;
        let connector = self
            .connector_of(key)
            .map_err(|it| configuration(it.to_string()))?;
        let connection = self.inner.store.connection(key).await;
        let connection = connection.map_err(|it| Failure::Unreachable(it.to_string()))?;
        let settings = connection.map(|it| it.settings).unwrap_or_default();
        let used = self.used(key).await;
        let used = used.map_err(|it| Failure::Unreachable(it.to_string()))?;
        let base = used.map(|used| (used.id, used.authorized_version));
        let whose = Whose {
            grant: None,
            application: &key.application,
            connector,
            settings: Some(&settings),
        };
        let at = self.inner.client_at(whose, EndpointKind::Token).await;
        let (client, endpoint) = at.map_err(configuration)?;
        let secrets = self
            .open_secrets(row)
            .map_err(|it| configuration(it.to_string()))?;
        let Phase::Exchanging { since, .. } = row.phase else {
            return Err(configuration("the code is not ours".to_owned()));
        };
        let extra: Vec<_> = connector.token.params.clone().into_iter().collect();
        let request = oauth::code_exchange(
            &endpoint,
            client.auth,
            &client.credentials,
            code,
            &row.redirect_uri,
            secrets.verifier.as_ref(),
            &extra,
        );
        let answer = self.send(row, connector, &request).await?;
        let exchange = Exchange {
            row,
            secrets: &secrets,
            connector,
            settings: &settings,
            client,
            params,
            since,
            base,
        };
        self.read_answer(&exchange, code, &answer).await
    }

    /// Sends it; again only while it is certain that nothing has left.
    async fn send(
        &self,
        row: &AttemptRow,
        connector: &Connector,
        request: &oauth::TokenRequest,
    ) -> Result<Answer, Nothing> {
        let config = &self.inner.config;
        let stated = connector.token.answer_timeout();
        let patience = Patience {
            connect: config.connect_timeout,
            answer: stated.unwrap_or(config.answer_timeout),
            not_after: None,
            last_look: None,
        };
        let mut sends = 0;
        loop {
            sends += 1;
            let sent = self
                .inner
                .transport
                .exchange(request.clone(), patience.clone())
                .await;
            match sent {
                Ok(answer) => return Ok(answer),
                Err(TransportError::NoAnswer(why)) => {
                    self.inner
                        .gate_ill(&row.connection, connector, Fault::Endpoint, None);
                    return Err(Failure::Lost(why).into());
                }
                Err(TransportError::CutOff { why, so_far }) => {
                    self.inner
                        .gate_ill(&row.connection, connector, Fault::Endpoint, None);
                    let Answer {
                        status,
                        headers,
                        body,
                    } = &*so_far;
                    return Err(Nothing {
                        why: Failure::Lost(why),
                        kept: KeptReply::of_cut_off(*status, headers, body).map(Box::new),
                    });
                }
                Err(TransportError::NotSent(why)) if sends >= SENDS => {
                    self.inner
                        .gate_ill(&row.connection, connector, Fault::Endpoint, None);
                    return Err(Failure::Unreachable(why).into());
                }
                Err(error @ (TransportError::NotSent(_) | TransportError::TooLate)) => {
                    tracing::warn!(attempt = %row.id, %error, "a code was not sent yet");
                    self.inner.clock.sleep(PAUSE * 2_u32.pow(sends)).await;
                }
            }
        }
    }

    async fn read_answer(
        &self,
        exchange: &Exchange<'_>,
        code: &Secret,
        answer: &Answer,
    ) -> Result<Held, Nothing> {
        let connector = exchange.connector;
        let dialect = &connector.token.dialect;
        let secrets = [
            Some(code),
            exchange.secrets.verifier.as_ref(),
            exchange.client.credentials.secret.as_ref(),
        ];
        let secrets: Vec<_> = secrets.into_iter().flatten().collect();
        let reply = oauth::read_token_reply(
            answer.status,
            &answer.headers,
            &answer.body,
            dialect,
            &secrets,
            exchange.since.0,
        );
        let kept =
            KeptReply::of(&reply, answer.status, &answer.headers, &answer.body).map(Box::new);
        let key = &exchange.row.connection;
        let nothing = |why| Err(Nothing { why, kept });
        let response = match reply {
            TokenReply::Granted(response) => response,
            TokenReply::Refused(refusal) => return nothing(Failure::Refused(refusal.to_string())),
            TokenReply::Throttled {
                refusal,
                retry_after,
            } => {
                self.inner
                    .gate_ill(key, connector, Fault::Endpoint, retry_after);
                return nothing(Failure::Refused(refusal.to_string()));
            }
            TokenReply::Misconfigured { refusal, .. } => {
                return nothing(Failure::Configuration(refusal.to_string()));
            }
            TokenReply::Unreadable { why } => return nothing(Failure::Lost(why)),
        };
        for note in &response.notes {
            tracing::warn!(attempt = %exchange.row.id, connector = %connector.id, note, "an odd token reply");
        }
        let now = self.inner.clock.now();
        if self
            .inner
            .gate_of(&key.application, connector, |gate: &mut Gate| {
                gate.well(now)
            })
        {
            self.inner.recovered.notify_waiters();
        }
        let asked = exchange.row.asked.clone();
        let granted = match response.scope.is_empty() {
            // RFC 6749 section 5.1: what is not said is what was asked for.
            true => asked.clone(),
            false => response.scope.clone(),
        };
        let rest = response.refresh_expires_in.or(connector.idle_lifetime());
        let said = response.expires_in;
        let tokens = TokenSet::empty().succeeded_by(response);
        let lifetime = match tokens.access_token {
            Some(_) => connector.lifetime(said, tokens.refreshable()),
            None => Some(Duration::ZERO),
        };
        let identity = match self.identify(exchange, &answer.body, &tokens).await {
            Ok(identity) => identity,
            Err(why) => {
                self.revoke_granted(key, &tokens).await;
                return Err(why.into());
            }
        };
        Ok(Held {
            tokens,
            lifetime,
            rest,
            consent: Consent {
                at: exchange.since,
                identity,
                asked,
                granted,
            },
            base: exchange.base.clone(),
            confirm: None,
        })
    }

    /// Whose account it is, as the connector says.
    async fn identify(
        &self,
        exchange: &Exchange<'_>,
        body: &[u8],
        tokens: &TokenSet,
    ) -> Result<Identity, Failure> {
        let rules = &exchange.connector.identity;
        let claims = match oauth::read_id_token_field(body, &exchange.connector.token.dialect) {
            // One that was not asked for and is not read need not be right.
            Some(token) if rules.reads(ClaimSource::IdToken) => {
                let visit = exchange.row.visit.as_ref();
                let check = IdTokenCheck {
                    issuer: visit.and_then(|visit| visit.issuer.as_deref()),
                    client_id: &exchange.client.credentials.id,
                    nonce: exchange.secrets.id_token_nonce.as_ref(),
                    now: exchange.since,
                };
                let claims = read_id_token(&token, &check);
                Some(claims.map_err(|why| Failure::IdToken(why.to_owned()))?)
            }
            _ => None,
        };
        let userinfo = match (&tokens.access_token, rules.reads(ClaimSource::Userinfo)) {
            (Some(token), true) => self.userinfo(exchange, token, tokens).await,
            _ => None,
        };
        let same = |claims: &Map<String, Value>| {
            let said = |it: &Map<String, Value>| it.get("sub").cloned();
            userinfo
                .as_ref()
                .is_none_or(|info| said(info) == said(claims))
        };
        // OpenID Connect Core section 5.3.2.
        if claims.as_ref().is_some_and(|claims| !same(claims)) {
            let why = "the userinfo endpoint tells of somebody else";
            return Err(Failure::IdToken(why.to_owned()));
        }
        let sources = Sources {
            id_token: claims.as_ref(),
            userinfo: userinfo.as_ref(),
            reply: &tokens.metadata,
            callback: &exchange.params,
        };
        Ok(Identity::read(rules, &sources))
    }

    /// Asks who has logged in. No answer is no reason to lose the login: what is not told is judged
    /// with the rest.
    async fn userinfo(
        &self,
        exchange: &Exchange<'_>,
        token: &Secret,
        tokens: &TokenSet,
    ) -> Option<Map<String, Value>> {
        let settings = exchange.connector.settings_text(exchange.settings);
        let context = Context {
            client: Some(&exchange.client.settings),
            settings: Some(&settings),
            token: Some(&tokens.metadata),
        };
        let asked = async {
            let endpoint = exchange
                .connector
                .endpoint(EndpointKind::Userinfo, &context)
                .map_err(|error| error.to_string())?;
            let request = oauth::userinfo(&endpoint, token);
            let patience = Patience {
                connect: self.inner.config.connect_timeout,
                answer: self.inner.config.connect_timeout,
                not_after: None,
                last_look: None,
            };
            let answer = self.inner.transport.exchange(request, patience).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if !answer.status.is_success() {
                return Err(format!("HTTP {}", answer.status));
            }
            serde_json::from_slice(&answer.body).map_err(|_| "it is no JSON object".to_owned())
        };
        match asked.await {
            Ok(claims) => Some(claims),
            Err(why) => {
                tracing::warn!(attempt = %exchange.row.id, why, "who has logged in was not told");
                None
            }
        }
    }

    /// Revokes what is not kept, where that harms nobody.
    pub(super) async fn revoke_granted(&self, key: &ConnectionKey, tokens: &TokenSet) {
        let Ok(connector) = self.connector_of(key) else {
            return;
        };
        let connection = self.inner.store.connection(key).await.ok().flatten();
        let settings = connection.map(|it| it.settings).unwrap_or_default();
        let whose = Whose {
            grant: None,
            application: &key.application,
            connector,
            settings: Some(&settings),
        };
        self.inner.revoke_void(whose, tokens, true).await;
    }
}
