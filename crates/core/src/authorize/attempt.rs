//! The attempt's row.

use std::{fmt, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq as _;

use super::identity::Identity;
use crate::{
    id::{AttemptId, ConnectionKey, OwnerId},
    secret::Secret,
    time::StoreTime,
};

/// How long a browser may take, from the beginning to the code.
pub const OPEN_FOR: Duration = Duration::from_secs(30 * 60);
/// How long what was granted waits to be confirmed.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How long an attempt's end can be read afterwards.
pub const RECEIPT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// SHA-256 of a secret with 256 random bits, so that nothing slower is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A secret's digest.
    pub fn of(secret: &Secret) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.expose().as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Whether it is this secret's. Compared in constant time.
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0[..6]))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| de::Error::custom("not a digest"))
    }
}

/// Who began an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initiator {
    /// An application, with its key.
    Api,
    /// A customer, on the vault page or through a link that the application gave out.
    Page,
    /// The operator's command.
    Cli,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// A first login.
    Connect,
    /// The same account once more.
    Reauthorize,
    /// Another account in the place of the present one.
    Switch,
}

/// One authorization attempt, as the store keeps it. Nothing in it is secret in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttemptRow {
    /// Its public name.
    pub id: AttemptId,
    /// What is to be connected.
    pub connection: ConnectionKey,
    /// Who began it.
    pub begun_by: Initiator,
    /// What it is for.
    pub intent: Intent,
    /// The redirect URI, exactly as it is in both requests.
    pub redirect_uri: String,
    /// Where the browser goes in the end, exactly; `None`: to a page of ours.
    pub return_to: Option<String>,
    /// Whether what is granted is used only after the application has confirmed it.
    pub two_step: bool,
    /// Scopes that are asked for.
    pub asked: Vec<String>,
    /// Digest of the ticket, which lets a browser arrive.
    pub ticket: Digest,
    /// The browser that has arrived.
    pub visit: Option<Visit>,
    /// When it was begun.
    pub begun_at: StoreTime,
    /// Until when a code is taken.
    pub expires_at: StoreTime,
    /// How far it has come.
    pub phase: Phase,
    /// [`Secrets`](super::Secrets), sealed.
    #[serde(skip)]
    pub sealed: Vec<u8>,
    /// Grows with every write: what a write compares.
    #[serde(skip)]
    pub revision: u64,
}

/// A browser that was sent to the provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Visit {
    /// Digest of the cookie that the browser was given.
    pub browser: Digest,
    /// Digest of the state that was sent to the provider.
    pub state: Digest,
    /// Who may answer (RFC 9207), if that is known.
    pub issuer: Option<String>,
    /// Whether the answer must say who it comes from.
    pub issuer_required: bool,
}

/// How far an attempt has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A browser is waited for: to come, or to come back.
    Open,
    /// One process exchanges the code. Nobody else ever sends it.
    Exchanging {
        /// Which flight.
        owner: OwnerId,
        /// When it began, which is before the code was sent.
        since: StoreTime,
        /// Until when it may be expected to live.
        until: StoreTime,
    },
    /// What was granted is sealed with the row, and used by nobody.
    Unconfirmed {
        /// Digest of the confirm token.
        token: Digest,
        /// Until when.
        until: StoreTime,
    },
    /// It is over.
    Ended {
        /// Since when.
        at: StoreTime,
        /// How.
        outcome: Outcome,
    },
}

/// How an attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The connection uses what was granted.
    Connected,
    /// It does not. What was there before is as it was.
    Failed(Failure),
}

/// Why an attempt has failed. Texts are for people, and scrubbed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The provider, or the person there, said no.
    #[error("the provider answered {error}{}", .description.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Denied {
        /// The error code of RFC 6749 section 4.1.2.1.
        error: String,
        /// The provider's words.
        description: Option<String>,
    },
    /// The answer came from another provider than the one that was asked.
    #[error("the answer did not come from the provider that was asked")]
    OtherIssuer,
    /// The token endpoint refused the code.
    #[error("the provider refused the code: {0}")]
    Refused(String),
    /// The token endpoint refused the client or the request.
    #[error("the provider refused the application: {0}")]
    Configuration(String),
    /// The code was not sent.
    #[error("the provider could not be reached: {0}")]
    Unreachable(String),
    /// The code was sent, and what became of it is not known.
    #[error("the provider's answer was lost: {0}")]
    Lost(String),
    /// Another account came back than the connection's.
    #[error("another account was chosen than the one that is connected")]
    OtherAccount {
        /// The account that is connected.
        kept: Box<Identity>,
        /// The one that came back.
        came: Box<Identity>,
    },
    /// It could not be told whether it is the connection's account.
    #[error("the provider did not say which account was chosen")]
    UntoldAccount,
    /// The id token is not for us.
    #[error("the provider's id token cannot be trusted: {0}")]
    IdToken(String),
    /// The connection was authorized by a later login.
    #[error("a later login has taken its place")]
    Superseded,
    /// No code came in time.
    #[error("it has expired")]
    Expired,
    /// What was granted was not confirmed in time.
    #[error("the application did not confirm it in time")]
    NotConfirmed,
}

/// Where an attempt stands at a time: what is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// A browser is waited for.
    Waiting,
    /// The code is being exchanged.
    Working,
    /// It is to be confirmed.
    Unconfirmed {
        /// Until when.
        until: StoreTime,
    },
    /// Done.
    Connected {
        /// Since when.
        at: StoreTime,
    },
    /// It came to nothing.
    Failed {
        /// Since when.
        at: StoreTime,
        /// Why.
        why: Failure,
    },
}

impl AttemptRow {
    /// So many are kept of each connection.
    pub const KEPT: usize = 16;

    /// Stamps a new row with the store's time.
    pub fn begin(&mut self, now: StoreTime) {
        self.begun_at = now;
        self.expires_at = now + OPEN_FOR;
        self.phase = Phase::Open;
        self.revision = 1;
    }

    /// Where it stands. What has run out needs no statement to be over.
    pub fn status(&self, now: StoreTime) -> Status {
        let over = |at, why| Status::Failed { at, why };
        match &self.phase {
            Phase::Open if now < self.expires_at => Status::Waiting,
            Phase::Open => over(self.expires_at, Failure::Expired),
            Phase::Exchanging { until, .. } if now < *until => Status::Working,
            Phase::Exchanging { until, .. } => {
                let why = "the process that exchanged the code has ended";
                over(*until, Failure::Lost(why.to_owned()))
            }
            Phase::Unconfirmed { until, .. } if now < *until => {
                Status::Unconfirmed { until: *until }
            }
            Phase::Unconfirmed { until, .. } => over(*until, Failure::NotConfirmed),
            Phase::Ended { at, outcome } => match outcome {
                Outcome::Connected => Status::Connected { at: *at },
                Outcome::Failed(why) => over(*at, why.clone()),
            },
        }
    }

    /// When the upkeep is to look at it.
    pub fn due_at(&self) -> StoreTime {
        match &self.phase {
            Phase::Open => self.expires_at + RECEIPT_KEPT,
            Phase::Exchanging { until, .. } => *until + RECEIPT_KEPT,
            Phase::Unconfirmed { until, .. } => *until,
            Phase::Ended { at, .. } => self.expires_at.max(*at) + RECEIPT_KEPT,
        }
    }

    /// What has to go so that there is room for one more attempt at a connection; `None`: too many
    /// of them hold a login that somebody has made.
    ///
    /// Whoever has a link can begin attempts without end. They push out each other, and receipts,
    /// but nothing that a provider has granted, or is about to.
    pub fn surplus(present: &[Self], now: StoreTime) -> Option<Vec<AttemptId>> {
        let excess = (present.len() + 1).saturating_sub(Self::KEPT);
        let mut others: Vec<&Self> = present
            .iter()
            .filter(|row| {
                let status = row.status(now);
                let held = matches!(row.phase, Phase::Unconfirmed { .. });
                !held && status != Status::Working
            })
            .collect();
        // What is over goes before what is open, the old before the new.
        others.sort_by_key(|row| (row.status(now) == Status::Waiting, row.begun_at));
        (others.len() >= excess).then(|| {
            let surplus = others.into_iter().take(excess);
            surplus.map(|row| row.id.clone()).collect()
        })
    }
}
