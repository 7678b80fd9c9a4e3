//! The steps of an attempt: (row, event, time) to the row to write.

use std::time::Duration;

use super::attempt::{AttemptRow, CONFIRM_WITHIN, Digest, Failure, Outcome, Phase, Status, Visit};
use crate::{
    id::{ConnectionKey, OwnerId},
    secret::Secret,
    time::StoreTime,
};

/// Why a browser is not let on. Nothing was changed, and nothing of the attempt may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such attempt, or the secret is not its own.
    #[error("this login is not known here; it may have expired long ago")]
    Unknown,
    /// It was begun in another browser.
    #[error("this login was begun in another browser")]
    OtherBrowser,
    /// It came back elsewhere than it was sent to: to another application's or service's place.
    #[error("this login was begun for another application or service")]
    OtherPlace,
    /// It is not open any more.
    #[error("this link was used already, or has expired")]
    Over,
}

/// A browser with the provider's answer.
#[derive(Clone, Debug)]
pub struct CameBack<'a> {
    /// The redirect URI at which it arrived.
    pub at: &'a str,
    /// The state that it brings.
    pub state: &'a Secret,
    /// The attempt's cookie, if it has it.
    pub cookie: Option<&'a Secret>,
    /// `iss` (RFC 9207).
    pub issuer: Option<&'a str>,
    /// What the provider has answered.
    pub answered: Answered,
}

/// What a provider has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A code.
    Code,
    /// An error.
    Error {
        /// The error code.
        error: String,
        /// The provider's words.
        description: Option<String>,
    },
}

/// What is to be done for a browser that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// If this row can be written: the code is ours to exchange, once.
    Exchange(Box<AttemptRow>),
    /// If this row can be written: it is over.
    End(Box<AttemptRow>),
    /// Somebody is at it.
    Wait,
    /// There is nothing left to do: [`AttemptRow::status`] says how it stands.
    Receipt,
}

/// Why what was granted is not confirmed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmRefused {
    /// The token is none, or another connection's.
    #[error("the confirm token is not known, or belongs to another connection")]
    Unknown,
    /// It was used.
    #[error("the confirm token was used already")]
    Used,
    /// It is too late.
    #[error("the confirm token has expired")]
    Expired,
}

/// What the upkeep does about a row whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// What it holds is given up: the row to write.
    GiveUp(Box<AttemptRow>),
    /// It is forgotten.
    Forget,
}

impl AttemptRow {
    /// Whether a browser that arrives with the ticket is sent on. The first one is bound to the attempt:
    /// it may come again, and is then given another state; no other may.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn admit(
        &self,
        ticket: &Secret,
        cookie: Option<&Secret>,
        now: StoreTime,
    ) -> Result<(), Refused> {
        if !self.ticket.is_of(ticket) {
            return Err(Refused::Unknown);
        }
        if let Some(bound) = &self.visit
            && !cookie.is_some_and(|cookie| bound.browser.is_of(cookie))
        {
            return Err(Refused::OtherBrowser);
        }
        match self.status(now) {
            Status::Waiting => Ok(()),
            _ => Err(Refused::Over),
        }
    }

    /// A browser that was admitted is sent on.
    #[must_use]
    pub fn visited(&self, visit: Visit, sealed: Vec<u8>) -> Self {
        Self {
            visit: Some(visit),
            sealed,
            ..self.clone()
        }
    }

    /// A browser comes back from the provider. Who it is and where it came is settled before anything
    /// else: a stranger changes nothing and is told nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn come_back(
        &self,
        event: &CameBack<'_>,
        owner: &OwnerId,
        ttl: Duration,
        now: StoreTime,
    ) -> Result<Turn, Refused> {
        let visit = self.visit.as_ref().ok_or(Refused::Unknown)?;
        if !visit.state.is_of(event.state) {
            return Err(Refused::Unknown);
        }
        if !event.cookie.is_some_and(|it| visit.browser.is_of(it)) {
            return Err(Refused::OtherBrowser);
        }
        if event.at != self.redirect_uri {
            return Err(Refused::OtherPlace);
        }
        match self.status(now) {
            Status::Waiting => {}
            Status::Working => return Ok(Turn::Wait),
            _ => return Ok(Turn::Receipt),
        }
        let end = |why| Ok(Turn::End(Box::new(self.failed(why, now))));
        let vouched = match (&visit.issuer, event.issuer) {
            (Some(expected), Some(said)) => expected == said,
            // Without either there is nothing to compare: the place is the attempt's own.
            (None, _) => true,
            (Some(_), None) => !visit.issuer_required,
        };
        if !vouched {
            return end(Failure::OtherIssuer);
        }
        match &event.answered {
            Answered::Error { error, description } => end(Failure::Denied {
                error: error.clone(),
                description: description.clone(),
            }),
            Answered::Code => Ok(Turn::Exchange(Box::new(Self {
                phase: Phase::Exchanging {
                    owner: owner.clone(),
                    since: now,
                    until: now + ttl,
                },
                ..self.clone()
            }))),
        }
    }

    /// Whether this is the flight that exchanges the code.
    pub fn is_exchanged_by(&self, who: &OwnerId) -> bool {
        matches!(&self.phase, Phase::Exchanging { owner, .. } if owner == who)
    }

    /// The flight lives. One that was taken for dead may still come home: nobody else has the code.
    #[must_use]
    pub fn extended(&self, who: &OwnerId, ttl: Duration, now: StoreTime) -> Option<Self> {
        match &self.phase {
            Phase::Exchanging { owner, since, .. } if owner == who => Some(Self {
                phase: Phase::Exchanging {
                    owner: owner.clone(),
                    since: *since,
                    until: now + ttl,
                },
                ..self.clone()
            }),
            _ => None,
        }
    }

    /// What was granted is held back until it is confirmed.
    #[must_use]
    pub fn held(&self, token: Digest, sealed: Vec<u8>, now: StoreTime) -> Self {
        Self {
            phase: Phase::Unconfirmed {
                token,
                until: now + CONFIRM_WITHIN,
            },
            sealed,
            ..self.clone()
        }
    }

    /// It is over, and has failed. What the exchange needed, or what was granted, goes.
    #[must_use]
    pub fn failed(&self, why: Failure, now: StoreTime) -> Self {
        self.ended(Outcome::Failed(why), now)
    }

    /// It is over, and the connection uses what was granted.
    #[must_use]
    pub fn connected(&self, now: StoreTime) -> Self {
        self.ended(Outcome::Connected, now)
    }

    fn ended(&self, outcome: Outcome, at: StoreTime) -> Self {
        Self {
            phase: Phase::Ended { at, outcome },
            sealed: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether the application's word counts: for this connection, in time, and for the first time.
    ///
    /// # Errors
    ///
    /// [`ConfirmRefused`].
    pub fn confirm(
        &self,
        connection: &ConnectionKey,
        token: &Secret,
        now: StoreTime,
    ) -> Result<(), ConfirmRefused> {
        if self.connection != *connection {
            return Err(ConfirmRefused::Unknown);
        }
        match &self.phase {
            Phase::Unconfirmed { token: known, .. } if !known.is_of(token) => {
                Err(ConfirmRefused::Unknown)
            }
            Phase::Unconfirmed { until, .. } if now < *until => Ok(()),
            Phase::Unconfirmed { .. } => Err(ConfirmRefused::Expired),
            Phase::Ended {
                outcome: Outcome::Connected,
                ..
            } => Err(ConfirmRefused::Used),
            Phase::Ended {
                outcome: Outcome::Failed(Failure::NotConfirmed),
                ..
            } => Err(ConfirmRefused::Expired),
            _ => Err(ConfirmRefused::Unknown),
        }
    }

    /// What is to be done about it now, without anybody's asking.
    pub fn due(&self, now: StoreTime) -> Due {
        if now < self.due_at() {
            return Due::Nothing;
        }
        match &self.phase {
            Phase::Unconfirmed { until, .. } => {
                Due::GiveUp(Box::new(self.failed(Failure::NotConfirmed, *until)))
            }
            _ => Due::Forget,
        }
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
