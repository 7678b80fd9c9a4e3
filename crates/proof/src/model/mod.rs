//! The model: two replicas with callers, one grant, one store row, one provider, the network
//! between them, and time. Its transitions call the real [`Flight::step`], the real verbs of
//! [`GrantRow`] and the sandbox provider's real `Family`; only the driver around them
//! (`vault/pilot.rs`, `vault/entry.rs`, `vault/landing.rs`, `vault/spooling.rs`) is mirrored.
//!
//! [`Flight::step`]: tokenward::refresh::flight::Flight::step
//! [`GrantRow`]: tokenward::refresh::ledger::GrantRow

mod act;
mod check;
pub mod cli;
mod mutant;
mod provider;
mod replica;
mod store;
mod world;

use std::time::Duration;

use stateright::{Model, Property};
use tokenward::{
    refresh::{
        distrust::Distrust,
        flight::{Effect, Outcome},
        ledger::FreshGrant,
        replay::ReplayPolicy,
    },
    time::StoreTime,
};
use tokenward_testkit::sandbox::ledger::{Family, Rotation, Terms};

use self::world::{Books, Caller, Doing, LIFETIME, Life, Replica, Snapshot, Tokens};
pub use self::{
    act::{Act, Kind},
    check::{Catch, Report, catch, explore},
    mutant::Mutant,
    world::World,
};

/// A replay policy with the provider that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The refresh token stays.
    Harmless,
    /// Rotated; the old one is good for two more ticks.
    Grace,
    /// Rotated; the old one is refused.
    Refused,
    /// Rotated; the old one revokes everything.
    Revokes,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Harmless, Self::Grace, Self::Refused, Self::Revokes];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Grace => "grace",
            Self::Refused => "refused",
            Self::Revokes => "revokes",
        }
    }

    /// What the engine is told.
    pub fn replay(self) -> ReplayPolicy {
        match self {
            Self::Harmless => ReplayPolicy::Harmless,
            Self::Grace => ReplayPolicy::Grace { seconds: 2 },
            Self::Refused => ReplayPolicy::Refused,
            Self::Revokes => ReplayPolicy::Revokes,
        }
    }

    fn terms(self) -> Terms {
        Terms {
            rotation: match self {
                Self::Harmless => Rotation::Never,
                Self::Grace => Rotation::Grace(Duration::from_secs(2)),
                Self::Refused => Rotation::Refused,
                Self::Revokes => Rotation::Revokes,
            },
            access_ttl: LIFETIME,
            refresh_ttl: None,
            refresh_idle: None,
            refresh_kills_access_token: false,
        }
    }
}

/// A promise that can be broken. Each is a property of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// More refreshes of a version than one and the disturbances that may repeat it.
    TooMany,
    /// Answers granted are not those accounted for, or versions not those committed.
    Books,
    /// A refresh token left without a claim in force, or beside another that is in flight.
    TwoInFlight,
    /// An answer was committed upon another version than the one whose token was used.
    Fence,
    /// A refresh token was sent again although the policy forbids it, or off the record.
    Replay,
    /// A caller got an older token than it was promised, or a process went back.
    Older,
    /// A caller got a token that is not durable.
    Uncommitted,
    /// What was granted to a living process is gone.
    Lost,
    /// A caller is never answered.
    Unanswered,
    /// A caller got an error although nothing had gone wrong.
    NoCause,
    /// Declared dead without the provider's word on the present version's token.
    Condemned,
    /// The provider's word came of our own doing: no answer is missing, no repetition was due.
    LoggedOut,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::TooMany,
        Self::Books,
        Self::TwoInFlight,
        Self::Fence,
        Self::Replay,
        Self::Older,
        Self::Uncommitted,
        Self::Lost,
        Self::Unanswered,
        Self::NoCause,
        Self::Condemned,
        Self::LoggedOut,
    ];

    /// The property that it breaks.
    pub fn property(self) -> &'static str {
        match self {
            Self::TooMany => "I1: one refresh per version, and one more at most per disturbance",
            Self::Books => "I1: refreshes granted = versions committed + accounted for",
            Self::TwoInFlight => "I1: none is sent while another may be in flight",
            Self::Fence => "I1: an answer is committed only upon the version that it was for",
            Self::Replay => "I2: a used refresh token is sent again only as the policy allows",
            Self::Older => "I3: no caller gets an older token than promised, no process goes back",
            Self::Uncommitted => "I3: no caller gets a token that is not durable",
            Self::Lost => "I4: what was granted to a living process is never lost",
            Self::Unanswered => "I5: everybody is answered in the end",
            Self::NoCause => "I5: no error without a cause",
            Self::Condemned => "I6: dead only on the provider's word on the present version",
            Self::LoggedOut => "I6: nobody is logged out while every answer came home",
        }
    }
}

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The policy and its provider.
    pub policy: Policy,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// Processes.
    pub replicas: u8,
    /// Callers of each process.
    pub callers: u8,
    /// How often each of them asks.
    pub asks: u8,
    /// Faults, forced refreshes, 401s, re-authorizations and departures in one run, all told.
    pub disturbances: u8,
    /// Of which kinds.
    pub kinds: &'static [Kind],
    /// How many ticks an exchange takes at most, short of a loss. A claim lasts one.
    pub patience: u8,
    /// How many ticks a process is stopped or the store silent, at most.
    pub halt: u8,
    /// Nobody asks and nothing is disturbed after this tick; what is under way ends.
    pub horizon: u8,
}

impl Scope {
    /// Two processes with one caller each, and one disturbance of any kind.
    pub fn small(policy: Policy) -> Self {
        Self {
            policy,
            mutant: None,
            replicas: 2,
            callers: 1,
            asks: 1,
            disturbances: 1,
            kinds: Kind::ALL,
            patience: 1,
            halt: 3,
            horizon: 8,
        }
    }

    /// What ordinary tests explore: one disturbance of any kind with one caller a process, and
    /// crashes, departures and reports with two.
    pub fn quick(policy: Policy) -> Vec<Self> {
        let small = Self::small(policy);
        vec![
            Self {
                callers: 2,
                kinds: &[Kind::Crash, Kind::Leave],
                ..small.clone()
            },
            small,
        ]
    }

    /// What `make prove` explores: one disturbance of any kind with two callers a process, two
    /// of any kinds with one, and two of any kinds on a single process whose caller asks thrice.
    pub fn full(policy: Policy) -> Vec<Self> {
        let small = Self::small(policy);
        vec![
            Self {
                callers: 2,
                ..small.clone()
            },
            Self {
                replicas: 1,
                asks: 3,
                disturbances: 2,
                ..small.clone()
            },
            Self {
                disturbances: 2,
                ..small
            },
        ]
    }

    /// One caller who refreshes, loses the answer to the next refresh, and then reports a 401:
    /// where a bug of the engine was found.
    pub fn late_rejection() -> Self {
        Self {
            replicas: 1,
            asks: 3,
            disturbances: 2,
            kinds: &[Kind::Wire, Kind::Report],
            ..Self::small(Policy::Revokes)
        }
    }

    /// As small as a mutant can be caught in.
    pub fn mutated(mutant: Mutant) -> Self {
        let small = Self {
            mutant: Some(mutant),
            disturbances: 2,
            kinds: mutant.kinds(),
            ..Self::small(mutant.policy())
        };
        match mutant {
            Mutant::StaleRejection => Self {
                mutant: Some(mutant),
                ..Self::late_rejection()
            },
            _ => small,
        }
    }

    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Scope {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let now = Duration::ZERO;
        let mut family = Family::new(self.policy.terms());
        let life = Duration::from_secs(2);
        let (access, refresh) = family.issue(life, now);
        let tokens = Tokens {
            family: 0,
            access,
            refresh,
        };
        let row = fresh(tokens, life).into_row("g".into(), "a".into(), "c".into(), StoreTime(0));
        let replica = Replica {
            life: Life::Up,
            snapshot: Some(Snapshot::of(&row)),
            distrust: Distrust::default(),
            air: None,
            spool: Vec::new(),
            callers: vec![
                Caller {
                    asks: self.asks,
                    wait: None,
                };
                self.callers.into()
            ],
        };
        vec![World {
            now: 0,
            row: Some(row),
            store_up: true,
            halted: 0,
            families: vec![family],
            orphans: Vec::new(),
            replicas: vec![replica; self.replicas.into()],
            left: self.disturbances,
            books: Books {
                committed: vec![tokens],
                authorized: 1,
                sent: vec![0],
                rejected: 0,
                granted: 0,
                fruitful: 0,
                superseded: 0,
                void: 0,
                lost: 0,
                open: Vec::new(),
            },
            breach: None,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.breach.is_none() {
            world.acts(self, acts);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        next.act(self, act);
        next.audit(self);
        Some(next.canonical())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($breach:ident),*) => {
                vec![$(Property::always(
                    Breach::$breach.property(),
                    |_: &Self, world: &World| world.breach != Some(Breach::$breach),
                )),*]
            };
        }
        never![
            TooMany,
            Books,
            TwoInFlight,
            Fence,
            Replay,
            Older,
            Uncommitted,
            Lost,
            Unanswered,
            NoCause,
            Condemned,
            LoggedOut
        ]
    }
}

/// A token set as a person's authorization brings it.
fn fresh(tokens: Tokens, life: Duration) -> FreshGrant {
    FreshGrant {
        counted_from: None,
        sealed: tokens.seal(),
        expires_in: Some(life),
        lifetime: Some(LIFETIME),
        keep_alive: None,
        fingerprint: None,
        consent: None,
    }
}
