//! How a connection comes to be: the attempt's steps, driven through the ports.
//!
//! What each step decides is in [`authorize`](crate::authorize). Any replica takes any step: what one
//! has begun stands in the store.

mod callback;
mod exchange;
mod save;
mod upkeep;

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use url::Url;

use super::{AdminError, Vault, provider::Whose};
use crate::{
    authorize::{
        AttemptRow, ConfirmRefused, Digest, Initiator, Intent, NamedSecret, Phase, Refused,
        Secrets, Status, Visit,
    },
    connector::{CALLBACK_ISSUER_SETTING, EndpointKind},
    endpoint::Context,
    id::{ApplicationId, AttemptId, ConnectionKey, ConnectorId},
    oauth::{AuthorizationRequest, KeptReply, Pkce},
    seal::{Purpose, random_bytes},
    secret::Secret,
    store::{Connection, Stamped, StoreError, StoreResult},
    time::StoreTime,
};

/// How often a step is tried while others are at the same row.
const TRIES: usize = 8;
/// No URL, and no scopes altogether, are longer.
const LONGEST_URL: usize = 2048;
const MOST_SCOPES: usize = 100;
const LONGEST_SCOPE: usize = 256;
/// No nonce of an application, and no value in a callback, is longer.
const LONGEST_VALUE: usize = 4096;

/// What is to be connected, and how.
#[derive(Clone, Debug)]
pub struct Begin {
    /// What.
    pub connection: ConnectionKey,
    /// Who begins it.
    pub by: Initiator,
    /// Whether another account is to take the present one's place.
    pub switch: bool,
    /// Where the provider sends the browser back to: registered there, and asked for here.
    pub redirect_uri: String,
    /// Where the browser goes in the end. Whoever calls has compared it with what is registered.
    pub return_to: Option<String>,
    /// The application's nonce. With one, what is granted is used only after
    /// [`Vault::confirm`].
    pub nonce: Option<Secret>,
    /// Scopes beside the connector's and the client's.
    pub scopes: Vec<String>,
}

/// An attempt that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its public id, by which [`Vault::attempt`] tells of it.
    pub id: AttemptId,
    /// What lets one browser arrive.
    pub ticket: Secret,
    /// Until when.
    pub expires_at: StoreTime,
}

/// A browser that is to be sent to the provider.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The attempt.
    pub id: AttemptId,
    /// Where to.
    pub url: Url,
    /// The cookie that it is to keep: it is asked for when it comes back.
    pub cookie: Secret,
    /// How long the cookie is worth anything, from now.
    pub cookie_life: std::time::Duration,
}

/// What is known of an attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its public id.
    pub id: AttemptId,
    /// What it is to connect.
    pub connection: ConnectionKey,
    /// Who began it.
    pub begun_by: Initiator,
    /// What it is for.
    pub intent: Intent,
    /// When it was begun.
    pub begun_at: StoreTime,
    /// Where the browser goes in the end.
    pub return_to: Option<String>,
    /// Where it stands.
    pub status: Status,
}

/// A browser that came back from the provider.
#[derive(Clone, Debug)]
pub struct Landed {
    /// Its attempt.
    pub attempt: Attempt,
    /// What the application is to be told, where it has to confirm.
    pub told: Option<Told>,
}

/// What the application is told through the browser, so that it can compare and confirm.
#[derive(Clone, Debug)]
pub struct Told {
    /// The nonce that it gave.
    pub nonce: Secret,
    /// What [`Vault::confirm`] takes.
    pub confirm_token: Secret,
}

/// Why a step of connecting was not taken. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// As with other changes to connections.
    #[error(transparent)]
    Admin(AdminError),
    /// Nobody logs in with this connector.
    #[error("connector `{0}` has no login")]
    NoLogin(ConnectorId),
    /// The application has no OAuth client for the connector.
    #[error("no OAuth client is set for connector `{0}`")]
    NoClient(ConnectorId),
    /// The connector's or the client's values do not fit together.
    #[error("{0}")]
    Configuration(String),
    /// A value is too long, or is not one.
    #[error("`{0}` is not a usable value")]
    Unfit(&'static str),
    /// Too many logins at this connection wait to be confirmed, or are being made.
    #[error("too many logins at this connection are under way; try again in a few minutes")]
    TooMany,
    /// The browser is not let on.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The provider's answer cannot be read.
    #[error("the callback has no usable `{0}`")]
    Malformed(&'static str),
    /// What was granted is not confirmed.
    #[error(transparent)]
    Confirm(#[from] ConfirmRefused),
    /// What was confirmed cannot be used any more.
    #[error("{0}")]
    Failed(crate::authorize::Failure),
    /// The store is down, or others are at the same attempt all the time.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ConnectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<AdminError> for ConnectError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Store(error) => Self::Store(error),
            other => Self::Admin(other),
        }
    }
}

/// A row as it stood at a time.
fn told(row: AttemptRow, at: StoreTime) -> Attempt {
    let status = row.status(at);
    Attempt {
        id: row.id,
        connection: row.connection,
        begun_by: row.begun_by,
        intent: row.intent,
        begun_at: row.begun_at,
        return_to: row.return_to,
        status,
    }
}

pub(super) fn contended() -> StoreError {
    StoreError::Busy("others are at the same attempt".to_owned())
}

fn purpose(row: &AttemptRow) -> Purpose<'_> {
    Purpose::Attempt {
        attempt: &row.id,
        connection: &row.connection,
    }
}

fn is_web_url(text: &str) -> bool {
    text.len() <= LONGEST_URL
        && Url::parse(text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none()
        })
}

/// A scope-token of RFC 6749 section 3.3.
fn is_scope(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    (1..=LONGEST_SCOPE).contains(&text.len()) && text.bytes().all(plain)
}

impl Vault {
    /// Begins an attempt to authorize a connection.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn begin(&self, begin: Begin) -> Result<Begun, ConnectError> {
        let inner = &self.inner;
        let key = &begin.connection;
        let connector = self.connector_of(key)?;
        let Some(authorization) = &connector.authorization else {
            return Err(ConnectError::NoLogin(key.service.clone()));
        };
        if !is_web_url(&begin.redirect_uri) {
            return Err(ConnectError::Unfit("redirect_uri"));
        }
        if begin.return_to.as_deref().is_some_and(|to| !is_web_url(to)) {
            return Err(ConnectError::Unfit("return_to"));
        }
        let nonce = begin.nonce.as_ref();
        if nonce.is_some_and(|it| it.is_empty() || it.expose().len() > LONGEST_VALUE) {
            return Err(ConnectError::Unfit("nonce"));
        }
        if begin.scopes.len() > MOST_SCOPES || !begin.scopes.iter().all(|it| is_scope(it)) {
            return Err(ConnectError::Unfit("scope"));
        }
        let client = inner.store.client(&key.application, &key.service).await?;
        let client = client.ok_or_else(|| ConnectError::NoClient(key.service.clone()))?;
        let present = inner.store.connection(key).await?;
        let intent = match present.and_then(|connection| connection.grant) {
            Some(_) if begin.switch => Intent::Switch,
            Some(_) => Intent::Reauthorize,
            None => Intent::Connect,
        };
        let (mut asked, mut seen) = (Vec::new(), BTreeSet::new());
        let all = [
            &authorization.scopes,
            &connector.identity.scopes,
            &client.scopes,
            &begin.scopes,
        ];
        asked.extend(
            all.into_iter()
                .flatten()
                .filter(|it| seen.insert(*it))
                .cloned(),
        );
        let id = AttemptId::new(URL_SAFE_NO_PAD.encode(random_bytes::<16>()));
        let ticket = NamedSecret::new(&id, random_bytes());
        let mut row = AttemptRow {
            id,
            connection: begin.connection,
            begun_by: begin.by,
            intent,
            redirect_uri: begin.redirect_uri,
            return_to: begin.return_to,
            two_step: begin.nonce.is_some(),
            asked,
            ticket: ticket.digest(),
            visit: None,
            begun_at: StoreTime::default(),
            expires_at: StoreTime::default(),
            phase: Phase::Open,
            sealed: Vec::new(),
            revision: 0,
        };
        let secrets = Secrets {
            nonce: begin.nonce,
            ..Secrets::default()
        };
        row.sealed = self.seal(&row, &secrets);
        let begun = inner.store.begin_attempt(row).await?;
        let Stamped { value: row, .. } = begun.ok_or(ConnectError::TooMany)?;
        Ok(Begun {
            id: row.id,
            ticket: ticket.secret,
            expires_at: row.expires_at,
        })
    }

    /// A browser arrives with the ticket; `cookie` is what it has of this attempt, if it was here
    /// before. It is bound to the attempt, and to be sent on.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn arrive(
        &self,
        ticket: &str,
        cookie: impl Fn(&AttemptId) -> Option<Secret>,
    ) -> Result<Arrived, ConnectError> {
        let ticket = NamedSecret::read(ticket).ok_or(Refused::Unknown)?;
        let cookie = cookie(&ticket.attempt);
        for _ in 0..TRIES {
            let Stamped { value, at } = self.inner.store.attempt(&ticket.attempt).await?;
            let row = value.ok_or(Refused::Unknown)?;
            row.admit(&ticket.secret, cookie.as_ref(), at)?;
            let prepared = self.prepare_visit(&row, cookie.as_ref()).await?;
            let sealed = self.seal(&row, &prepared.secrets);
            let next = row.visited(prepared.visit, sealed);
            let cookie_life = at.until(next.expires_at) + crate::authorize::RECEIPT_KEPT;
            if self.inner.store.replace_attempt(next).await? {
                return Ok(Arrived {
                    id: row.id,
                    url: prepared.url,
                    cookie: prepared.cookie,
                    cookie_life,
                });
            }
        }
        Err(contended().into())
    }

    /// What a browser takes along to the provider, and what is kept of it.
    async fn prepare_visit(
        &self,
        row: &AttemptRow,
        cookie: Option<&Secret>,
    ) -> Result<Prepared, ConnectError> {
        let key = &row.connection;
        let connector = self.connector_of(key)?;
        let Some(authorization) = &connector.authorization else {
            return Err(ConnectError::NoLogin(key.service.clone()));
        };
        let connection = self.inner.store.connection(key).await?;
        let settings = connection.as_ref().map(|it| it.settings.clone());
        let settings = settings.unwrap_or_default();
        let whose = Whose {
            grant: None,
            application: &key.application,
            connector,
            settings: Some(&settings),
        };
        let (client, endpoint) = self
            .inner
            .client_at(whose, EndpointKind::Authorization)
            .await
            .map_err(ConnectError::Configuration)?;
        let settings = connector.settings_text(&settings);
        let context = Context {
            client: Some(&client.settings),
            settings: Some(&settings),
            token: None,
        };
        let issuer = connector.identity.issuer.as_ref();
        let issuer = issuer.and_then(|issuer| issuer.fill(&context).ok());
        let stated = client.settings.get(CALLBACK_ISSUER_SETTING);
        let random = |bytes: [u8; 32]| Secret::new(URL_SAFE_NO_PAD.encode(bytes));
        let pkce = authorization.pkce.then(|| Pkce::new(random_bytes()));
        let openid = row.asked.iter().any(|scope| scope == "openid");
        let id_token_nonce = openid.then(|| random(random_bytes()));
        let state = NamedSecret::new(&row.id, random_bytes());
        let known = |it: &&Secret| row.visit.as_ref().is_some_and(|v| v.browser.is_of(it));
        let cookie = cookie.filter(known).cloned();
        let cookie = cookie.unwrap_or_else(|| random(random_bytes()));
        let mut extra: Vec<_> = authorization.params.clone().into_iter().collect();
        if let Some(nonce) = &id_token_nonce {
            extra.push(("nonce".to_owned(), nonce.expose().to_owned()));
        }
        if row.intent == Intent::Reauthorize
            && let Some(name) = self.known_name(connection.as_ref()).await?
        {
            extra.push(("login_hint".to_owned(), name));
        }
        let request = AuthorizationRequest {
            endpoint: &endpoint,
            client_id: &client.credentials.id,
            redirect_uri: &row.redirect_uri,
            state: state.secret.expose(),
            scopes: &row.asked,
            scope_separator: &authorization.scope_separator,
            code_challenge: pkce.as_ref().map(|pkce| pkce.challenge.as_str()),
            extra: &extra,
        };
        Ok(Prepared {
            url: request.url(),
            visit: Visit {
                browser: Digest::of(&cookie),
                state: state.digest(),
                issuer_required: issuer.is_some()
                    && (connector.identity.callback_issuer
                        || stated.is_some_and(|stated| stated == "true")),
                issuer,
            },
            cookie,
            secrets: Secrets {
                verifier: pkce.map(|pkce| pkce.verifier),
                id_token_nonce,
                ..self.open_secrets(row)?.kept()
            },
        })
    }

    /// What the connection's account is called.
    async fn known_name(&self, connection: Option<&Connection>) -> StoreResult<Option<String>> {
        let Some(grant) = connection.and_then(|connection| connection.grant.as_ref()) else {
            return Ok(None);
        };
        let row = self.inner.store.grant(grant).await?.value;
        Ok(row
            .and_then(|row| row.consent)
            .and_then(|consent| consent.identity.name))
    }

    /// The application says that the login is its customer's: from now on the connection uses what was
    /// granted. Once, and for this connection only.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn confirm(
        &self,
        key: &ConnectionKey,
        token: &str,
    ) -> Result<Connection, ConnectError> {
        let token = NamedSecret::read(token).ok_or(ConfirmRefused::Unknown)?;
        let (vault, key) = (self.clone(), key.clone());
        // As with all that changes a connection: it goes on if nobody waits.
        let confirmed = self
            .inner
            .tracker
            .spawn(async move { vault.confirm_held(&key, &token).await });
        let ended = || StoreError::Away("the task that saw to it ended unexpectedly".to_owned());
        confirmed.await.map_err(|_| ended())?
    }

    async fn confirm_held(
        &self,
        key: &ConnectionKey,
        token: &NamedSecret,
    ) -> Result<Connection, ConnectError> {
        for _ in 0..TRIES {
            let Stamped { value, at } = self.inner.store.attempt(&token.attempt).await?;
            let row = value.ok_or(ConfirmRefused::Unknown)?;
            row.confirm(key, &token.secret, at)?;
            let held = self.open_secrets(&row)?.held;
            let held = held.ok_or(ConfirmRefused::Unknown)?;
            match self.connect(&row, &held, at).await? {
                save::Landing::Connected(connection) => return Ok(*connection),
                save::Landing::Moved => {}
                save::Landing::Failed(why) => {
                    self.give_up(&row, why.clone(), &held, at).await;
                    return Err(ConnectError::Failed(why));
                }
            }
        }
        Err(contended().into())
    }

    /// How an attempt of an application stands.
    ///
    /// # Errors
    ///
    /// If the store is down.
    pub async fn attempt(
        &self,
        application: &ApplicationId,
        id: &AttemptId,
    ) -> StoreResult<Option<Attempt>> {
        let Stamped { value, at } = self.inner.store.attempt(id).await?;
        let own = value.filter(|row| row.connection.application == *application);
        Ok(own.map(|row| told(row, at)))
    }

    /// Whether a login at a connection waits to be confirmed.
    ///
    /// # Errors
    ///
    /// If the store is down.
    pub async fn unconfirmed(&self, key: &ConnectionKey) -> StoreResult<bool> {
        let Stamped { value, at } = self.inner.store.attempts_at(key).await?;
        let waits = |row: &AttemptRow| matches!(row.status(at), Status::Unconfirmed { .. });
        Ok(value.iter().any(waits))
    }

    /// The answer of a token endpoint that could not be read, if one is kept with an attempt.
    pub fn unread_login(&self, row: &AttemptRow) -> Option<KeptReply> {
        self.open_secrets(row).ok()?.unread
    }

    fn seal(&self, row: &AttemptRow, secrets: &Secrets) -> Vec<u8> {
        let plain = secrets.to_plain();
        self.inner.keyring().seal(purpose(row), &plain)
    }

    fn open_secrets(&self, row: &AttemptRow) -> Result<Secrets, ConnectError> {
        let opened = self.inner.unseal(purpose(row), &row.sealed);
        let opened = opened.map_err(|error| error.to_string());
        opened
            .and_then(|plain| {
                Secrets::from_plain(&plain).ok_or_else(|| "it is malformed".to_owned())
            })
            .map_err(|why| {
                ConnectError::Configuration(format!("a login cannot go on: what is sealed: {why}"))
            })
    }
}

struct Prepared {
    url: Url,
    visit: Visit,
    cookie: Secret,
    secrets: Secrets,
}
