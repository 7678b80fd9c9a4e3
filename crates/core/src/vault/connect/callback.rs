//! A browser comes back from the provider.

use std::collections::BTreeMap;

use url::form_urlencoded;

use super::{
    super::Vault, Attempt, ConnectError, LONGEST_VALUE, Landed, TRIES, Told, contended, told,
};
use crate::{
    authorize::{Answered, AttemptRow, CameBack, NamedSecret, Refused, Status, Turn},
    connector::ClaimSource,
    id::{AttemptId, OwnerId},
    oauth::{self, CallbackError},
    secret::Secret,
    store::Stamped,
    time::StoreTime,
};

impl Vault {
    /// A browser comes back from the provider: `place` is the redirect URI at which it arrived, `query`
    /// what it brings, `cookie` finds an attempt's cookie among its own.
    ///
    /// The code is exchanged in a task of its own, which goes on if the caller does not wait. Whoever
    /// comes again, or late, is shown how it ended.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn callback(
        &self,
        place: &str,
        query: &str,
        cookie: impl Fn(&AttemptId) -> Option<Secret>,
    ) -> Result<Landed, ConnectError> {
        let back = Back::read(query)?;
        let named = NamedSecret::read(&back.state).ok_or(Refused::Unknown)?;
        let cookie = cookie(&named.attempt);
        let event = CameBack {
            at: place,
            state: &named.secret,
            cookie: cookie.as_ref(),
            issuer: back.issuer.as_deref(),
            answered: back.answered.clone(),
        };
        let owner = OwnerId::new(uuid::Uuid::now_v7().to_string());
        let ttl = self.inner.config.claim_ttl;
        for _ in 0..TRIES {
            let Stamped { value, at } = self.inner.store.attempt(&named.attempt).await?;
            let row = value.ok_or(Refused::Unknown)?;
            match row.come_back(&event, &owner, ttl, at)? {
                Turn::Receipt => return Ok(self.landed(&row, at)),
                Turn::Wait => return self.wait_for(row).await,
                Turn::End(next) => {
                    if self.inner.store.replace_attempt(*next).await? {
                        tracing::info!(attempt = %row.id, "a login came to nothing at the provider");
                        return self.look(&row).await;
                    }
                }
                Turn::Exchange(next) => {
                    let ours = match self.inner.store.replace_attempt((*next).clone()).await {
                        Ok(ours) => ours,
                        // Whether it took effect is not known. Nothing was sent yet.
                        Err(error) => match self.inner.store.attempt(&row.id).await {
                            Ok(read) => read.value.is_some_and(|it| it.is_exchanged_by(&owner)),
                            Err(_) => return Err(error.into()),
                        },
                    };
                    if ours {
                        let Some(code) = &back.code else {
                            return Err(ConnectError::Malformed("code"));
                        };
                        return self.fly(*next, owner, code.clone(), query).await;
                    }
                }
            }
        }
        Err(contended().into())
    }

    /// Exchanges the code, and waits for that as long as callers wait.
    async fn fly(
        &self,
        row: AttemptRow,
        owner: OwnerId,
        code: Secret,
        query: &str,
    ) -> Result<Landed, ConnectError> {
        let params = self.callback_params(&row, query);
        let (vault, flown) = (self.clone(), row.clone());
        let flight = self.inner.tracker.spawn(async move {
            vault.exchange(flown, owner, code, params).await;
        });
        tokio::select! {
            biased;
            _ = flight => {}
            () = self.inner.clock.sleep(self.inner.config.wait) => {}
        }
        self.look(&row).await
    }

    /// Somebody exchanges the code: how it ends, if that is soon.
    async fn wait_for(&self, row: AttemptRow) -> Result<Landed, ConnectError> {
        let clock = &self.inner.clock;
        let deadline = clock.now() + self.inner.config.wait;
        loop {
            let landed = self.look(&row).await?;
            if landed.attempt.status != Status::Working || clock.now() >= deadline {
                return Ok(landed);
            }
            clock.sleep(self.inner.config.claim_poll * 10).await;
        }
    }

    /// An attempt as it stands now. If the store does not say: as it was.
    async fn look(&self, row: &AttemptRow) -> Result<Landed, ConnectError> {
        match self.inner.store.attempts_at(&row.connection).await {
            Ok(Stamped { value, at }) => {
                let now = value.into_iter().find(|it| it.id == row.id);
                // The connection was deleted meanwhile, and the attempt with it.
                let now = now.ok_or(Refused::Unknown)?;
                Ok(self.landed(&now, at))
            }
            Err(error) => {
                tracing::warn!(attempt = %row.id, %error, "how a login stands is not known: the store does not answer");
                let attempt = Attempt {
                    status: Status::Working,
                    ..told(row.clone(), row.begun_at)
                };
                Ok(Landed {
                    attempt,
                    told: None,
                })
            }
        }
    }

    fn landed(&self, row: &AttemptRow, at: StoreTime) -> Landed {
        let attempt = told(row.clone(), at);
        let told = match attempt.status {
            Status::Unconfirmed { .. } => self.open_secrets(row).ok().and_then(|secrets| {
                Some(Told {
                    nonce: secrets.nonce?,
                    confirm_token: secrets.held?.confirm?,
                })
            }),
            _ => None,
        };
        Landed { attempt, told }
    }

    fn callback_params(&self, row: &AttemptRow, query: &str) -> BTreeMap<String, String> {
        let Ok(connector) = self.connector_of(&row.connection) else {
            return BTreeMap::new();
        };
        let wanted: Vec<&str> = connector
            .identity
            .claims()
            .filter(|claim| claim.from == ClaimSource::Callback)
            .map(|claim| claim.field.as_str())
            .collect();
        let mut params: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if wanted.contains(&&*name) {
                params
                    .entry(name.into_owned())
                    .or_default()
                    .push(value.into_owned());
            }
        }
        // What is given twice says nothing.
        let once = params.into_iter().filter(|(_, values)| values.len() == 1);
        once.filter_map(|(name, mut values)| Some((name, values.pop()?)))
            .collect()
    }
}

/// What a browser brings from the provider.
struct Back {
    state: String,
    issuer: Option<String>,
    answered: Answered,
    code: Option<Secret>,
}

impl Back {
    fn read(query: &str) -> Result<Self, ConnectError> {
        if query.len() > 4 * LONGEST_VALUE {
            return Err(ConnectError::Malformed("query"));
        }
        match oauth::read_callback(query, "code") {
            Ok(back) => Ok(Self {
                state: back.state,
                issuer: back.issuer,
                answered: Answered::Code,
                code: Some(back.code),
            }),
            Err(CallbackError::Refused {
                error,
                description,
                state,
                issuer,
            }) => Ok(Self {
                state: state.ok_or(ConnectError::Malformed("state"))?,
                issuer,
                answered: Answered::Error { error, description },
                code: None,
            }),
            Err(CallbackError::Malformed(what)) => Err(ConnectError::Malformed(what)),
        }
    }
}
