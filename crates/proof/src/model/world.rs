//! The state of the model: a store's row, a provider, replicas with their callers, and time.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
    time::Duration,
};

use tokenward::{
    id::OwnerId,
    refresh::{
        distrust::Distrust,
        flight::{Effect, Flight, Outcome, Plan},
        ledger::{CommitRequest, GrantRow, Need},
        schedule,
    },
    time::{Moment, StoreTime},
};
use tokenward_testkit::sandbox::ledger::{AccessId, Family, RefreshId};

use super::{Breach, Scope};

/// What a provider grants, as numbers: which authorization, which tokens of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens {
    /// The authorization's number.
    pub family: u8,
    /// The access token.
    pub access: AccessId,
    /// The refresh token.
    pub refresh: RefreshId,
}

impl Tokens {
    /// As a sealed token set. The model has no secrets, so the seal is left out.
    pub fn seal(self) -> Vec<u8> {
        let small = |n: u32| u8::try_from(n).expect("few tokens");
        vec![self.family, small(self.access.0), small(self.refresh.0)]
    }

    /// From a sealed token set.
    pub fn open(sealed: &[u8]) -> Self {
        let &[family, access, refresh] = sealed else {
            unreachable!("sealed by `seal`")
        };
        Self {
            family,
            access: AccessId(access.into()),
            refresh: RefreshId(refresh.into()),
        }
    }
}

/// One moment of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The one clock of store, processes and provider, in ticks.
    pub now: u8,
    /// The store's row; `None` after a delete.
    pub row: Option<GrantRow>,
    /// Whether the store answers.
    pub store_up: bool,
    /// For how many ticks a process has been stopped or the store silent.
    pub halted: u8,
    /// The provider's authorizations of this grant, the real sandbox's rules.
    pub families: Vec<Family>,
    /// Requests whose senders have gone or given up, and that may still arrive.
    pub orphans: Vec<Request>,
    /// The processes, in canonical order: they are interchangeable.
    pub replicas: Vec<Replica>,
    /// How many more disturbances (faults, forced refreshes, 401s, re-authorizations, ...).
    pub left: u8,
    /// What the judge remembers.
    pub books: Books,
    /// The first promise that was broken. Nothing is explored beyond it.
    pub breach: Option<Breach>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    /// Running, stopped or dead.
    pub life: Life,
    /// The newest version in memory.
    pub snapshot: Option<Snapshot>,
    /// What a rejected token is answered with.
    pub distrust: Distrust,
    /// The one flight under way.
    pub air: Option<Air>,
    /// What survives a crash beside the store.
    pub spool: Vec<Letter>,
    /// Its callers, in canonical order.
    pub callers: Vec<Caller>,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It runs, and does what it can before the clock ticks.
    Up,
    /// It is stopped for as long as it pleases (SIGSTOP, a starved runtime).
    Paused,
    /// It crashed.
    Down,
}

/// A version in memory, as `vault/entry.rs` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// Its tokens.
    pub tokens: Tokens,
    /// When the access token expires.
    pub expires: Moment,
    /// When a refresh committed it.
    pub refreshed: Option<Moment>,
    /// The margin for its lifetime.
    pub margin: Duration,
    /// Whether it is durable in the spool only.
    pub ahead: bool,
}

impl Snapshot {
    /// Reads a row.
    pub fn of(row: &GrantRow) -> Self {
        let ours = |at: StoreTime| Moment(StoreTime(0).until(at));
        Self {
            version: row.version,
            tokens: Tokens::open(&row.sealed),
            expires: ours(row.expires_at.expect("tokens of the model expire")),
            refreshed: row.refreshed_at.map(ours),
            margin: schedule::margin(MARGIN, row.lifetime),
            ahead: false,
        }
    }

    /// Whether it has more than the margin left.
    pub fn fresh(&self, now: Moment) -> bool {
        now + self.margin < self.expires
    }

    /// Whether it lives at all.
    pub fn alive(&self, now: Moment) -> bool {
        now < self.expires
    }
}

/// A flight under way, with what its driver knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Air {
    /// The real state machine.
    pub flight: Flight<Tokens>,
    /// What it was told.
    pub plan: Plan,
    /// Its name in claims.
    pub owner: u8,
    /// What it waits for.
    pub doing: Doing,
    /// What it sent last.
    pub request: Option<Request>,
    /// For how many ticks that has been on the wire.
    pub waited: u8,
    /// Its newest claim's number.
    pub epoch: u64,
    /// Judge: until when that claim was good.
    pub until: StoreTime,
    /// Judge: what it was granted and has to bring home.
    pub holds: Option<Tokens>,
    /// Judge: whether the provider refused it, and which version's token that was.
    pub refused: Option<u64>,
    /// Whether it has an entry in the spool.
    pub spooled: bool,
}

/// What a flight waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// An effect that has not been performed yet.
    Effect(Effect<Tokens>),
    /// `not_after` was checked; the first byte has not left.
    Checked(Box<GrantRow>),
    /// The request is on its way.
    Sent(Request),
    /// The answer is on its way.
    Answer(Outcome<Tokens>),
}

/// A refresh token on its way to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The version that it belongs to.
    pub base: u64,
    /// The tokens of that version.
    pub tokens: Tokens,
}

/// An entry of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Letter {
    /// The version whose refresh token was used.
    pub base: u64,
    /// The claim under which it was used.
    pub epoch: u64,
    /// When it was sent.
    pub sent_at: StoreTime,
    /// What was granted.
    pub tokens: Tokens,
}

impl Letter {
    /// What the store is asked with it.
    pub fn request(self) -> CommitRequest {
        CommitRequest {
            grant: "g".into(),
            base: self.base,
            epoch: self.epoch,
            sent_at: self.sent_at,
            sealed: self.tokens.seal(),
            lifetime: Some(LIFETIME),
            keep_alive: None,
            fingerprint: None,
        }
    }
}

/// A caller of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// How often it may still ask.
    pub asks: u8,
    /// What it waits for.
    pub wait: Option<Wait>,
}

/// A caller's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wait {
    /// Why it asks.
    pub need: Why,
    /// The version that is not good enough.
    pub seen: u64,
    /// The version below which no answer may lie: what its process knew when it asked; for a
    /// forced refresh one more than what was committed then; for a 401 one more than rejected.
    pub floor: u64,
    /// How many flights it has waited for.
    pub laps: u8,
    /// Whether the present flight was begun by it.
    pub began: bool,
    /// The version that the first look after its question found.
    pub looked: Option<u64>,
    /// Whether a newer version is known to have been committed after its question.
    pub after: bool,
}

/// [`Need`], ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// [`Need::Stale`].
    Stale,
    /// [`Need::Forced`].
    Forced,
    /// [`Need::Rejected`].
    Rejected,
}

impl Why {
    /// As the protocol's word.
    pub fn need(self) -> Need {
        match self {
            Self::Stale => Need::Stale,
            Self::Forced => Need::Forced,
            Self::Rejected => Need::Rejected,
        }
    }
}

/// What the judge remembers beside the state itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Books {
    /// The tokens of each version, from version 1 on.
    pub committed: Vec<Tokens>,
    /// How many versions people authorized.
    pub authorized: u8,
    /// How often each version's refresh token has left.
    pub sent: Vec<u8>,
    /// Versions that the API rejected, as bits.
    pub rejected: u8,
    /// Answers granted by the provider.
    pub granted: u8,
    /// Those that became a version.
    pub fruitful: u8,
    /// Those whose place a sibling has taken.
    pub superseded: u8,
    /// Those that a re-authorization or a delete made void.
    pub void: u8,
    /// Those that never reached a process, or died with it before they could be spooled.
    pub lost: u8,
    /// Those on their way: in flight, in memory, in the spool.
    pub open: Vec<Tokens>,
}

/// The configured margin, in time. The lifetime is so chosen that it is not cut.
pub(super) const MARGIN: Duration = Duration::from_secs(2);
/// The life of an access token.
pub(super) const LIFETIME: Duration = Duration::from_secs(8);
/// A claim's length.
pub(super) const CLAIM: Duration = Duration::from_secs(1);

impl World {
    /// The processes' time.
    pub fn moment(&self) -> Moment {
        Moment(Duration::from_secs(self.now.into()))
    }

    /// The store's time.
    pub fn store_time(&self) -> StoreTime {
        StoreTime(i64::from(self.now) * 1000)
    }

    /// How many disturbances there were.
    pub fn disturbed(&self, scope: &Scope) -> u8 {
        scope.disturbances - self.left
    }

    /// Notes the first breach.
    pub fn blame(&mut self, breach: Breach) {
        self.breach.get_or_insert(breach);
    }

    /// A name for a new flight that nobody bears: neither a flight nor the claim.
    pub fn free_owner(&self) -> u8 {
        (0..)
            .find(|n| {
                let claimed = self
                    .row
                    .as_ref()
                    .and_then(|row| row.claim.as_ref())
                    .is_some_and(|claim| claim.owner == owner_id(*n));
                let flying = self
                    .replicas
                    .iter()
                    .any(|replica| replica.air.as_ref().is_some_and(|air| air.owner == *n));
                !claimed && !flying
            })
            .expect("an endless range")
    }

    /// Sorts what is interchangeable.
    pub fn canonical(mut self) -> Self {
        for replica in &mut self.replicas {
            replica.callers.sort_unstable();
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.replicas
            .sort_by_cached_key(|replica| hasher.hash_one(replica));
        self.orphans.sort_unstable();
        self.books.open.sort_unstable();
        self
    }
}

/// A flight's name in claims.
pub(super) fn owner_id(n: u8) -> OwnerId {
    OwnerId::new(match n {
        0 => "a",
        1 => "b",
        2 => "c",
        _ => "d",
    })
}
