//! What a provider decides about the tokens of one grant. Pure: the time is an argument and
//! tokens are numbers, so a simulator or a model checker can drive the same rules without HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;

/// What happens to a refresh token when it is used, and to one that is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// The refresh token stays as it is, and replies leave it out.
    Never,
    /// Replaced on use. The replaced one may be used again for this long after its first use,
    /// and each use gives a new pair; siblings stay good. Afterwards it is `invalid_grant`.
    #[serde(rename = "grace_ms")]
    Grace(#[serde(with = "millis")] Duration),
    /// Replaced on use. Using it again is `invalid_grant` and changes nothing else.
    Refused,
    /// Replaced on use. Using it again is `invalid_grant` and revokes the whole family.
    Revokes,
}

/// The rules under which a grant was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The rotation and reuse policy.
    pub rotation: Rotation,
    /// The life of each access token.
    pub access_ttl: Duration,
    /// The life of each refresh token from its issue; `None` is for ever.
    pub refresh_ttl: Option<Duration>,
    /// The life of each refresh token since its issue or last use; `None` is for ever.
    pub refresh_idle: Option<Duration>,
    /// Whether a refresh kills the access tokens issued before it.
    pub refresh_kills_access_token: bool,
}

/// A refresh token of a family, in the order of issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshId(pub u32);

/// An access token of a family, in the order of issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessId(pub u32);

/// The answer to a presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// New tokens.
    Granted {
        /// The new access token.
        access: AccessId,
        /// The new refresh token, unless the presented one stays.
        refresh: Option<RefreshId>,
        /// The presented token had been replaced before, and the grace allowed it.
        replay: bool,
    },
    /// `invalid_grant`.
    Refused {
        /// Why.
        reason: Refusal,
        /// The presented token had been replaced before.
        replay: bool,
        /// This very presentation revoked the family.
        revoked_family: bool,
    },
}

/// Why a refresh token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The family has no such token.
    Unknown,
    /// It was replaced, and the policy does not let it be used again (any more).
    Replaced,
    /// It outlived its lifetime, absolute or idle.
    Expired,
    /// The family was revoked.
    Revoked,
}

/// All the tokens that descend from one authorization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Family {
    terms: Terms,
    refresh: Vec<RefreshToken>,
    access: Vec<AccessToken>,
    revoked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RefreshToken {
    issued_at: Duration,
    last_used: Duration,
    replaced_at: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AccessToken {
    expires_at: Duration,
    dead: bool,
}

impl Family {
    /// A family without tokens.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            refresh: Vec::new(),
            access: Vec::new(),
            revoked: false,
        }
    }

    /// The first pair, as a user's authorization gives it. The access token lives for `life`,
    /// which may be shorter than the terms say.
    pub fn issue(&mut self, life: Duration, now: Duration) -> (AccessId, RefreshId) {
        (self.add_access(life, now), self.add_refresh(now))
    }

    /// An access token alone, as `client_credentials` gives it.
    pub fn issue_access(&mut self, now: Duration) -> AccessId {
        self.add_access(self.terms.access_ttl, now)
    }

    /// A refresh token is presented. With `rotate` false the provider keeps the presented token
    /// good and leaves it out of the reply, whatever the policy for rotation.
    pub fn refresh(&mut self, presented: RefreshId, rotate: bool, now: Duration) -> Decision {
        let Some(token) = self.refresh.get(presented.0 as usize) else {
            return refused(Refusal::Unknown, false);
        };
        let replay = token.replaced_at.is_some();
        if self.revoked {
            return refused(Refusal::Revoked, replay);
        }
        if let Some(replaced_at) = token.replaced_at {
            match self.terms.rotation {
                Rotation::Grace(grace) if now < replaced_at.saturating_add(grace) => {}
                Rotation::Revokes => {
                    self.revoked = true;
                    return Decision::Refused {
                        reason: Refusal::Replaced,
                        replay,
                        revoked_family: true,
                    };
                }
                Rotation::Never | Rotation::Grace(_) | Rotation::Refused => {
                    return refused(Refusal::Replaced, replay);
                }
            }
        }
        if self.refresh_expired(token, now) {
            return refused(Refusal::Expired, replay);
        }

        if self.terms.refresh_kills_access_token {
            self.kill_access_tokens();
        }
        let rotate = rotate && self.terms.rotation != Rotation::Never;
        let token = &mut self.refresh[presented.0 as usize];
        token.last_used = now;
        if rotate {
            // The grace runs from the first use, not from the latest.
            token.replaced_at.get_or_insert(now);
        }
        Decision::Granted {
            access: self.issue_access(now),
            refresh: rotate.then(|| self.add_refresh(now)),
            replay,
        }
    }

    /// Whether an access token is accepted by the API at this time.
    pub fn access_is_live(&self, id: AccessId, now: Duration) -> bool {
        !self.revoked
            && self
                .access
                .get(id.0 as usize)
                .is_some_and(|token| !token.dead && now < token.expires_at)
    }

    /// Whether a refresh token would be granted if it were presented at this time.
    pub fn refresh_is_live(&self, id: RefreshId, now: Duration) -> bool {
        matches!(
            self.clone().refresh(id, true, now),
            Decision::Granted { .. }
        )
    }

    /// When an access token ends, whether or not it was killed before.
    pub fn access_expiry(&self, id: AccessId) -> Option<Duration> {
        Some(self.access.get(id.0 as usize)?.expires_at)
    }

    /// Kills one access token.
    pub fn revoke_access(&mut self, id: AccessId) {
        if let Some(token) = self.access.get_mut(id.0 as usize) {
            token.dead = true;
        }
    }

    /// Kills every access token, as if they had expired. Refresh tokens stay.
    pub fn kill_access_tokens(&mut self) {
        for token in &mut self.access {
            token.dead = true;
        }
    }

    /// Kills everything. False if it was revoked already.
    pub fn revoke(&mut self) -> bool {
        !std::mem::replace(&mut self.revoked, true)
    }

    /// Whether the family was revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// The terms of the grant.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    fn refresh_expired(&self, token: &RefreshToken, now: Duration) -> bool {
        let past = |since: Duration, limit: Option<Duration>| {
            limit.is_some_and(|limit| now >= since.saturating_add(limit))
        };
        past(token.issued_at, self.terms.refresh_ttl)
            || past(token.last_used, self.terms.refresh_idle)
    }

    fn add_refresh(&mut self, now: Duration) -> RefreshId {
        let id = RefreshId(serial(self.refresh.len()));
        self.refresh.push(RefreshToken {
            issued_at: now,
            last_used: now,
            replaced_at: None,
        });
        id
    }

    fn add_access(&mut self, life: Duration, now: Duration) -> AccessId {
        let id = AccessId(serial(self.access.len()));
        self.access.push(AccessToken {
            expires_at: now.saturating_add(life),
            dead: false,
        });
        id
    }
}

fn refused(reason: Refusal, replay: bool) -> Decision {
    Decision::Refused {
        reason,
        replay,
        revoked_family: false,
    }
}

fn serial(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than 2^32 tokens in a family")
}
