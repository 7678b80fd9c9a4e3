//! The books of one run: what the provider granted, what the store took, what callers got.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use tokenward::GrantId;
use tokenward_testkit::sandbox::ledger::{Family, Terms};

use super::report::{Counts, Violation};

/// How many events of a grant (and of the cluster) are kept for the report.
const REMEMBERED: usize = 80;

/// Families of tokens by number; the provider's grants.
pub(super) type FamilyId = usize;

/// One authorization at a provider.
#[derive(Debug)]
pub(super) struct FamilyBook {
    pub(super) family: Family,
    pub(super) kind: usize,
    pub(super) connection: usize,
    pub(super) minted: Duration,
    /// The user, or a revocation that we are right to send, has ended it.
    pub(super) ended: bool,
    pub(super) sends: Vec<Send>,
    /// Whether an answer was lost, by a fault or with a replica that died.
    pub(super) incident: bool,
    /// When the store last failed a replica's statement about it, by life.
    pub(super) failed: BTreeMap<usize, Duration>,
    /// Attempts in the present hour, those that did not leave included.
    pub(super) hour: (u64, u32),
    /// When callers last forced a refresh, and how often in the present hour.
    pub(super) forced: (u64, u32),
    pub(super) rejected: Option<Duration>,
    pub(super) grant: Option<GrantId>,
}

/// One presentation of a refresh token.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) at: Duration,
    pub(super) by: usize,
    pub(super) refresh: u32,
    /// The access token that it was granted.
    pub(super) granted: Option<u32>,
    pub(super) refused: bool,
    pub(super) fate: Fate,
    /// When its replica heard what became of it.
    pub(super) heard: Option<Duration>,
    pub(super) committed: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// On its way.
    Open,
    /// A grant that has reached its replica.
    Delivered,
    /// The replica has been told that nothing was granted.
    Refused,
    /// The answer was lost on its way.
    Lost,
    /// Its replica died before it could keep the answer.
    DiedWithHolder,
    Spooled,
    Committed,
    /// The store has something newer.
    Void,
}

/// One grant of the vault.
#[derive(Debug, Default)]
pub(super) struct GrantBook {
    pub(super) number: usize,
    pub(super) family: FamilyId,
    /// (position in the changes, version), oldest first.
    pub(super) versions: Vec<(u64, u64)>,
    pub(super) dead: bool,
    pub(super) deleted: Option<Duration>,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionBook {
    /// Somebody is changing it: people take turns.
    pub(super) busy: bool,
    /// (position in the changes, its grant if it is enabled and has one), oldest first.
    pub(super) states: Vec<(u64, Option<GrantId>)>,
}

/// One life of a replica.
#[derive(Debug, Default)]
pub(super) struct LifeBook {
    pub(super) replica: usize,
    /// All changes up to here are known to it.
    pub(super) known: u64,
    /// What it is told now; known when it asks again.
    pub(super) told: Option<u64>,
    /// What it knew when it started.
    pub(super) born: u64,
    /// Of what changed after its start and up to here it was not told one by one: its copies are compared
    /// with the store when they are used, and served on while that does not answer.
    pub(super) unsure: u64,
    /// When a question to the store was last in vain.
    pub(super) in_vain: Option<Duration>,
    /// Versions that it has committed itself.
    pub(super) own: BTreeMap<GrantId, u64>,
    pub(super) incident: Option<Duration>,
    /// Calls under way: when they must have been answered.
    pub(super) waiting: BTreeMap<u64, Duration>,
}

#[derive(Debug)]
pub(super) struct Books {
    pub(super) families: Vec<FamilyBook>,
    pub(super) grants: BTreeMap<GrantId, GrantBook>,
    pub(super) connections: Vec<ConnectionBook>,
    pub(super) lives: Vec<LifeBook>,
    /// The grant and version of each access token that was committed.
    pub(super) committed: BTreeMap<String, (GrantId, u64)>,
    /// Of each that was durable in a spool, and the version that it is to be.
    pub(super) spooled: BTreeMap<String, (GrantId, u64)>,
    pub(super) counts: Counts,
    pub(super) violations: Vec<Violation>,
    hash: u64,
    /// By grant number; `None`: the cluster.
    recent: BTreeMap<Option<usize>, VecDeque<(Duration, String)>>,
    /// Everything, if wanted.
    pub(super) all: Option<Vec<String>>,
    seen: BTreeSet<(&'static str, Option<usize>)>,
}

impl Books {
    pub(super) fn new(connections: usize, keep_all: bool) -> Self {
        Self {
            families: Vec::new(),
            grants: BTreeMap::new(),
            connections: (0..connections)
                .map(|_| ConnectionBook::default())
                .collect(),
            lives: Vec::new(),
            committed: BTreeMap::new(),
            spooled: BTreeMap::new(),
            counts: Counts::default(),
            violations: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            recent: BTreeMap::new(),
            all: keep_all.then(Vec::new),
            seen: BTreeSet::new(),
        }
    }

    /// Writes an event down.
    pub(super) fn note(&mut self, at: Duration, grant: Option<usize>, what: fmt::Arguments<'_>) {
        let subject = grant.map_or("--".to_owned(), |number| format!("g{number}"));
        let text = format!("{} {subject:>5} {what}", stamp(at));
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(all) = &mut self.all {
            all.push(text.clone());
        }
        let recent = self.recent.entry(grant).or_default();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((at, text));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The number of a grant, given at its first mention.
    pub(super) fn number(&self, grant: &GrantId) -> Option<usize> {
        self.grants.get(grant).map(|book| book.number)
    }

    /// Breaks the promise: once per property and grant, with the trace.
    pub(super) fn violated(
        &mut self,
        at: Duration,
        property: &'static str,
        grant: Option<usize>,
        what: fmt::Arguments<'_>,
    ) {
        self.note(at, grant, format_args!("VIOLATION of {property}: {what}"));
        if !self.seen.insert((property, grant)) || self.violations.len() >= 20 {
            return;
        }
        let mut trace: Vec<_> = self
            .recent
            .iter()
            .filter(|(subject, _)| subject.is_none() || **subject == grant)
            .flat_map(|(_, events)| events.iter().cloned())
            .collect();
        trace.sort_by_key(|(at, _)| *at);
        let skip = trace.len().saturating_sub(REMEMBERED);
        self.violations.push(Violation {
            property,
            what: what.to_string(),
            trace: trace.into_iter().skip(skip).map(|(_, text)| text).collect(),
        });
    }

    pub(super) fn mint(
        &mut self,
        kind: usize,
        connection: usize,
        terms: Terms,
        now: Duration,
    ) -> FamilyId {
        let mut family = Family::new(terms);
        family.issue(terms.access_ttl, now);
        self.families.push(FamilyBook {
            family,
            kind,
            connection,
            minted: now,
            ended: false,
            sends: Vec::new(),
            incident: false,
            failed: BTreeMap::new(),
            hour: (0, 0),
            forced: (0, 0),
            rejected: None,
            grant: None,
        });
        self.families.len() - 1
    }

    pub(super) fn grant_of_family(&self, family: FamilyId) -> Option<usize> {
        let grant = self.families.get(family)?.grant.as_ref()?;
        self.number(grant)
    }

    /// The store failed a replica's statement about a grant.
    pub(super) fn failed(&mut self, grant: &GrantId, life: usize, now: Duration) {
        if let Some(book) = self.grants.get(grant) {
            let family = book.family;
            self.families[family].failed.insert(life, now);
        }
    }

    /// A replica dies, or stops: whatever it had under way is an incident.
    pub(super) fn life_incident(&mut self, life: usize, now: Duration, dies: bool) {
        self.lives[life].incident = Some(now);
        if dies {
            self.lives[life].waiting.clear();
        }
        for family in &mut self.families {
            for send in family.sends.iter_mut().rev().take(8) {
                if send.by == life && matches!(send.fate, Fate::Open | Fate::Delivered) {
                    if dies {
                        send.fate = Fate::DiedWithHolder;
                    }
                    family.incident = true;
                }
                // What only its spool holds nobody else can see until it is back.
                family.incident |= send.by == life && send.fate == Fate::Spooled;
            }
        }
    }
}

/// `1d 02:03:04.005678`.
pub(super) fn stamp(at: Duration) -> String {
    let s = at.as_secs();
    format!(
        "{}d {:02}:{:02}:{:02}.{:06}",
        s / 86400,
        s / 3600 % 24,
        s / 60 % 60,
        s % 60,
        at.subsec_micros()
    )
}

/// The text of a token, and back: the provider's tokens are numbers.
pub(super) fn token_text(sort: &str, family: FamilyId, number: u32) -> String {
    format!("{sort}-{family}-{number}")
}

pub(super) fn read_token(text: &str) -> Option<(FamilyId, u32)> {
    let (family, number) = text.get(3..)?.split_once('-')?;
    Some((family.parse().ok()?, number.parse().ok()?))
}
