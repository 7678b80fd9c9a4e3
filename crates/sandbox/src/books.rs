//! What the provider saw and did: the judge of every promise about it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use tokio::sync::broadcast;

use super::{
    ledger::{AccessId, RefreshId},
    millis,
};

/// A grant at the sandbox, `g1`, `g2`, ... It is not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GrantId(pub u64);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl FromStr for GrantId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix('g')
            .and_then(|number| number.parse().ok())
            .map(Self)
            .ok_or_else(|| format!("not a grant of the sandbox: {text:?}"))
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for GrantId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The books: counts in total and per grant. What cannot be told to a grant (an unknown token,
/// a failed client authentication) is in the total alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Everything.
    pub total: Counts,
    /// The same per grant.
    pub grants: BTreeMap<GrantId, Counts>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Requests at the token endpoint, of every kind and however they ended.
    pub token_requests: u64,
    /// Those with `grant_type=refresh_token`.
    pub refresh_requests: u64,
    /// Refreshes granted, whether or not the answer arrived.
    pub refreshes_granted: u64,
    /// Refreshes answered with `invalid_grant`.
    pub refreshes_refused: u64,
    /// Replaced refresh tokens presented, and granted within the grace.
    pub replays_allowed: u64,
    /// Replaced refresh tokens presented, and refused.
    pub replays_refused: u64,
    /// Families revoked because a replaced refresh token or a spent code was presented.
    pub family_revocations: u64,
    /// Granted token requests whose tokens the client cannot have got: no answer, or another.
    pub answers_lost: u64,
    /// Codes exchanged.
    pub code_exchanges: u64,
    /// Access tokens granted for `client_credentials`.
    pub client_credentials: u64,
    /// Token requests refused for another reason than a refresh token: `invalid_client`,
    /// `invalid_request`, a bad code, ...
    pub other_refusals: u64,
    /// Token requests that met an injected fault.
    pub faults: u64,
    /// Requests that are hanging now.
    pub hanging: u64,
    /// Requests at the revocation endpoint.
    pub revocations: u64,
    /// Requests at the introspection endpoint.
    pub introspections: u64,
    /// API calls answered with anything but 401.
    pub api_accepted: u64,
    /// API calls answered with 401.
    pub api_refused: u64,
    /// The most refresh requests for one grant that were open at one time, counting those whose
    /// client was still connected.
    pub peak_concurrent_refreshes: u64,
}

impl Books {
    /// The counts of one grant; zeros for a grant that did nothing.
    pub fn grant(&self, id: GrantId) -> Counts {
        self.grants.get(&id).copied().unwrap_or_default()
    }

    /// Applies a change to the total and to the grant.
    pub(super) fn count(&mut self, grant: Option<GrantId>, change: impl Fn(&mut Counts)) {
        change(&mut self.total);
        if let Some(grant) = grant {
            change(self.grants.entry(grant).or_default());
        }
    }
}

/// Something that happened, for the demo to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// Milliseconds since the sandbox started.
    pub at_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The token request that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// The grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// The refresh token presented, by its number in the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<RefreshId>,
    /// The access token that was issued, or that the API refused, by its number in the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessId>,
    /// The refresh token that was issued; none if the presented one stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<RefreshId>,
    /// What the client called itself: `via` in the query of the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// More about it, never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A grant came to be.
    Issued,
    /// A token request arrived.
    Seen,
    /// It met a fault.
    Fault,
    /// It hangs.
    Hanging,
    /// Hung requests were let go on.
    Released,
    /// Tokens were issued for it.
    Granted,
    /// The client cannot have got the tokens that were issued.
    Lost,
    /// It was refused.
    Refused,
    /// It presented a refresh token that had been replaced.
    Replay,
    /// The family or a token was revoked.
    Revoked,
    /// It was answered.
    Answered,
    /// The connection ended without an answer, by a fault or by the client.
    Dropped,
    /// The access tokens of a grant were killed on command.
    Expired,
    /// An API call got 401.
    ApiRefused,
}

impl fmt::Display for TimelineEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} ms  ", self.at_ms)?;
        if let Some(request) = self.request {
            write!(f, "request {request} ")?;
        }
        if let Some(grant) = self.grant {
            write!(f, "{grant} ")?;
        }
        write!(f, "{:?}", self.kind)?;
        if let Some(RefreshId(token)) = self.token {
            write!(f, " refresh token {token}")?;
        }
        if let Some(AccessId(access)) = self.access {
            write!(f, " for access token {access}")?;
        }
        if let Some(RefreshId(issued)) = self.issued {
            write!(f, " and refresh token {issued}")?;
        }
        if let Some(via) = &self.via {
            write!(f, " by {via}")?;
        }
        if let Some(note) = &self.note {
            write!(f, ": {note}")?;
        }
        Ok(())
    }
}

/// The latest events, oldest first, for those who ask later and those who follow.
#[derive(Debug)]
pub(super) struct Timeline {
    events: VecDeque<TimelineEvent>,
    limit: usize,
    followers: broadcast::Sender<TimelineEvent>,
}

impl Timeline {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            events: VecDeque::new(),
            limit,
            followers: broadcast::Sender::new(4096),
        }
    }

    pub(super) fn add(&mut self, now: Duration, event: Note) {
        if self.events.len() >= self.limit {
            self.events.pop_front();
        }
        let Note {
            kind,
            request,
            grant,
            token,
            access,
            issued,
            via,
            note,
        } = event;
        let event = TimelineEvent {
            at_ms: millis::as_millis(now),
            kind,
            request,
            grant,
            token,
            access,
            issued,
            via,
            note,
        };
        // Nobody need follow.
        let _ = self.followers.send(event.clone());
        self.events.push_back(event);
    }

    pub(super) fn follow(&self) -> broadcast::Receiver<TimelineEvent> {
        self.followers.subscribe()
    }

    pub(super) fn to_vec(&self) -> Vec<TimelineEvent> {
        self.events.iter().cloned().collect()
    }
}

/// An event before it has a time.
#[derive(Debug)]
pub(super) struct Note {
    kind: EventKind,
    request: Option<u64>,
    grant: Option<GrantId>,
    token: Option<RefreshId>,
    access: Option<AccessId>,
    issued: Option<RefreshId>,
    via: Option<String>,
    note: Option<String>,
}

impl Note {
    pub(super) fn new(kind: EventKind, grant: Option<GrantId>) -> Self {
        Self {
            kind,
            request: None,
            grant,
            token: None,
            access: None,
            issued: None,
            via: None,
            note: None,
        }
    }

    pub(super) fn request(mut self, request: u64) -> Self {
        self.request = Some(request);
        self
    }

    pub(super) fn token(mut self, token: Option<RefreshId>) -> Self {
        self.token = token;
        self
    }

    pub(super) fn granted(mut self, access: AccessId, refresh: Option<RefreshId>) -> Self {
        self.access = Some(access);
        self.issued = refresh;
        self
    }

    pub(super) fn access(mut self, access: Option<AccessId>) -> Self {
        self.access = access;
        self
    }

    pub(super) fn via(mut self, via: Option<String>) -> Self {
        self.via = via;
        self
    }

    pub(super) fn text(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}
