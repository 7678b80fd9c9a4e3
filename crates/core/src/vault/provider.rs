//! The talk with a provider: what is sent, how the answer is read, what is revoked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Inner, entry::GrantEntry};
use crate::{
    connector::{Connector, EndpointKind, RevocationScope},
    endpoint::{Context, Endpoint, Template},
    error::TokenError,
    id::{ApplicationId, ConnectorId, GrantId},
    oauth::{
        self, CLIENT_AUTH_SETTING, ClientAuth, ClientCredentials, KeptReply, Subject, TokenReply,
        TokenRequest, TokenResponse, TokenSet,
    },
    refresh::{
        flight::{Fault, Outcome},
        ledger::{FailureKind, GrantRow},
        schedule,
    },
    seal::{Purpose, SealError, fingerprint},
    secret::Secret,
    store::OAuthClient,
    time::StoreTime,
    transport::{Answer, Patience, TransportError},
};

#[derive(Debug)]
pub(super) struct Granted {
    pub(super) tokens: TokenSet,
    pub(super) lifetime: Option<Duration>,
    pub(super) keep_alive: Option<Duration>,
}

/// What an answer means for the flight, and for the gate of its client.
pub(super) struct Judged {
    pub(super) outcome: Outcome<Arc<Granted>>,
    /// The answer as it came, where it may hold what nothing else does.
    pub(super) kept: Option<KeptReply>,
}

fn failed(
    kind: FailureKind,
    fault: Fault,
    message: String,
    retry_after: Option<Duration>,
) -> Outcome<Arc<Granted>> {
    Outcome::Failed {
        kind,
        fault,
        message,
        retry_after,
    }
}

/// A request with what is needed to read its answer.
pub(super) struct Prepared {
    pub(super) request: TokenRequest,
    tokens: TokenSet,
    secrets: Vec<Secret>,
}

/// Whose endpoints and client are meant.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    /// Whose connection's settings are looked up, if they are needed.
    pub(super) grant: Option<&'a GrantId>,
    pub(super) application: &'a ApplicationId,
    pub(super) connector: &'a Connector,
    /// The connection's settings, where the store does not know them any more.
    pub(super) settings: Option<&'a Map<String, Value>>,
}

impl GrantEntry {
    pub(super) fn whose(&self) -> Whose<'_> {
        Whose {
            grant: Some(&self.id),
            application: &self.application,
            connector: &self.connector,
            settings: None,
        }
    }
}

impl Inner {
    /// Builds the request that refreshes a row. Errors are in words for a person; nothing was
    /// sent then.
    pub(super) async fn prepare(
        &self,
        entry: &GrantEntry,
        row: &GrantRow,
    ) -> Result<Prepared, String> {
        let connector = &entry.connector;
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let plain = self
            .unseal(purpose, &row.sealed)
            .map_err(|error| error.to_string())?;
        let tokens = TokenSet::from_plain(&plain).ok_or("the stored tokens are malformed")?;
        let (client, endpoint) = self.client_at(entry.whose(), EndpointKind::Token).await?;
        let extra: Vec<_> = connector
            .token
            .params
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let auth = client.auth;
        let request = match &tokens.refresh_token {
            Some(refresh_token) => {
                oauth::refresh(&endpoint, auth, &client.credentials, refresh_token, &extra)
            }
            None if tokens.client_credentials => oauth::client_credentials(
                &endpoint,
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

    /// The OAuth client of a grant, and one of its endpoints. The one door to a provider: what it
    /// gives out is on the connector's host list.
    pub(super) async fn client_at(
        &self,
        whose: Whose<'_>,
        kind: EndpointKind,
    ) -> Result<(UsableClient, Endpoint), String> {
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
            .map_err(|error| error.to_string())?
            .ok_or_else(|| TokenError::NoClient(connector.id.to_string()).to_string())?;
        let names_settings = connector
            .endpoint_template(kind)
            .is_some_and(Template::names_settings);
        let settings = match settings {
            Some(settings) => connector.settings_text(settings),
            None if names_settings => {
                let connection = match grant {
                    Some(grant) => self.store.connection_of(grant).await,
                    None => Ok(None),
                };
                let connection = connection.map_err(|error| error.to_string())?;
                let settings = connection.map(|connection| connection.settings);
                connector.settings_text(&settings.unwrap_or_default())
            }
            None => BTreeMap::new(),
        };
        let context = Context {
            client: Some(&client.settings),
            settings: Some(&settings),
            token: None,
        };
        let endpoint = connector
            .endpoint(kind, &context)
            .map_err(|error| format!("{} endpoint: {error}", kind.name()))?;
        // What discovery found, or the operator said, of this client's own server.
        let auth = match client.settings.get(CLIENT_AUTH_SETTING) {
            Some(name) => ClientAuth::from_name(name)
                .ok_or_else(|| format!("`{CLIENT_AUTH_SETTING}`: no such method: {name}"))?,
            None => connector.token.client_auth,
        };
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
                auth,
                scopes: client.scopes,
                settings: client.settings,
            },
            endpoint,
        ))
    }

    /// Reads a provider's answer.
    pub(super) fn judge(
        &self,
        entry: &GrantEntry,
        prepared: &Prepared,
        answer: Result<Answer, TransportError>,
        now: StoreTime,
    ) -> Judged {
        let outcome = match answer {
            Ok(answer) => return self.judge_answer(entry, prepared, &answer, now),
            Err(TransportError::TooLate) => Outcome::TooLate,
            Err(TransportError::NotSent(message)) => {
                failed(FailureKind::NotSent, Fault::Endpoint, message, None)
            }
            Err(TransportError::NoAnswer(message)) => {
                failed(FailureKind::Unknown, Fault::Endpoint, message, None)
            }
            Err(TransportError::CutOff { why, so_far }) => {
                return self.judge_part(entry, prepared, why, &so_far, now);
            }
        };
        Judged {
            outcome,
            kept: None,
        }
    }

    fn judge_answer(
        &self,
        entry: &GrantEntry,
        prepared: &Prepared,
        answer: &Answer,
        now: StoreTime,
    ) -> Judged {
        let secrets: Vec<&Secret> = prepared.secrets.iter().collect();
        let reply = oauth::read_token_reply(
            answer.status,
            &answer.headers,
            &answer.body,
            &entry.connector.token.dialect,
            &secrets,
            now.0,
        );
        let kept = KeptReply::of(&reply, answer.status, &answer.headers, &answer.body);
        Judged {
            outcome: self.judge_reply(entry, prepared, reply),
            kept,
        }
    }

    /// What has arrived of an answer may hold whole tokens; if not, it is kept.
    fn judge_part(
        &self,
        entry: &GrantEntry,
        prepared: &Prepared,
        why: String,
        so_far: &Answer,
        now: StoreTime,
    ) -> Judged {
        let kept = KeptReply::of_cut_off(so_far.status, &so_far.headers, &so_far.body);
        let dialect = &entry.connector.token.dialect;
        match kept.as_ref().map(|kept| kept.read(dialect, now.0)) {
            Some(reply @ TokenReply::Granted(_)) => {
                tracing::warn!(grant = %entry.id, %why, "an answer was cut off after its tokens");
                Judged {
                    outcome: self.judge_reply(entry, prepared, reply),
                    kept: None,
                }
            }
            _ => Judged {
                outcome: failed(FailureKind::Unknown, Fault::Endpoint, why, None),
                kept,
            },
        }
    }

    fn judge_reply(
        &self,
        entry: &GrantEntry,
        prepared: &Prepared,
        reply: TokenReply,
    ) -> Outcome<Arc<Granted>> {
        match reply {
            TokenReply::Granted(response) => {
                Outcome::Granted(Arc::new(self.granted(entry, prepared, response)))
            }
            // Without a refresh token there is no grant to be dead: the client was refused.
            TokenReply::Refused(refusal) if prepared.tokens.refresh_token.is_none() => failed(
                FailureKind::Configuration,
                Fault::Client,
                refusal.to_string(),
                None,
            ),
            TokenReply::Refused(refusal) => Outcome::Refused {
                reason: refusal.to_string(),
            },
            TokenReply::Throttled {
                refusal,
                retry_after,
            } => failed(
                FailureKind::Throttled,
                Fault::Endpoint,
                refusal.to_string(),
                retry_after,
            ),
            TokenReply::Misconfigured { refusal, subject } => {
                let fault = match subject {
                    Subject::Client => Fault::Client,
                    Subject::Endpoint => Fault::Endpoint,
                    Subject::Grant => Fault::Grant,
                };
                failed(FailureKind::Configuration, fault, refusal.to_string(), None)
            }
            TokenReply::Unreadable { why } => {
                failed(FailureKind::Unknown, Fault::Endpoint, why, None)
            }
        }
    }

    fn granted(&self, entry: &GrantEntry, prepared: &Prepared, response: TokenResponse) -> Granted {
        for note in &response.notes {
            tracing::warn!(grant = %entry.id, connector = %entry.connector.id, note, "an odd token reply");
        }
        let connector = &entry.connector;
        let rest = response.refresh_expires_in.or(connector.idle_lifetime());
        let said = response.expires_in;
        let tokens = prepared.tokens.succeeded_by(response);
        let lifetime = match tokens.access_token {
            Some(_) => connector.lifetime(said, tokens.refreshable()),
            // There is nothing to use: the next who asks refreshes.
            None => Some(Duration::ZERO),
        };
        Granted {
            lifetime,
            keep_alive: rest
                .filter(|_| tokens.refresh_token.is_some())
                .map(|rest| schedule::keep_alive(rest, self.chance.fraction())),
            tokens,
        }
    }

    /// Revokes tokens of a grant that is no more, where that harms nobody. `late`: they came with
    /// an answer after the grant had been deleted or authorized anew.
    pub(super) async fn revoke_void(&self, whose: Whose<'_>, tokens: &TokenSet, late: bool) {
        let Whose {
            grant, connector, ..
        } = whose;
        let grant = grant.map_or("of a login", GrantId::as_str);
        let (Some(revocation), Some(token)) = (&connector.revocation, &tokens.refresh_token) else {
            return;
        };
        // The user may have authorized anew meanwhile, also under another grant.
        if late && revocation.scope == RevocationScope::User {
            tracing::info!(%grant, "a void answer is not revoked: a new authorization would end with it");
            return;
        }
        let result = match self.client_at(whose, EndpointKind::Revocation).await {
            Ok((client, endpoint)) => {
                let request = oauth::revoke(&endpoint, client.auth, &client.credentials, token);
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
            last_look: None,
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
        client: &OAuthClient,
        sealed: &[u8],
    ) -> Result<Secret, SealError> {
        let purpose = Purpose::ClientSecret {
            application: client.application.as_str(),
            connector: client.connector.as_str(),
        };
        let plain: Zeroizing<Vec<u8>> = self.unseal(purpose, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| SealError::Malformed)?;
        Ok(Secret::new(text))
    }
}

/// An OAuth client, opened.
pub(super) struct UsableClient {
    pub(super) credentials: ClientCredentials,
    pub(super) auth: ClientAuth,
    pub(super) scopes: Vec<String>,
    pub(super) settings: BTreeMap<String, String>,
}
