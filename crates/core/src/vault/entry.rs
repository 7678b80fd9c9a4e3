//! A grant in memory: its newest snapshot, and the flight that is under way.

use std::{sync::Arc, time::Duration};

use super::{Inner, join::Waiter, token::Token};
use crate::{
    connector::Connector,
    error::TokenError,
    id::{ApplicationId, GrantId},
    oauth::TokenSet,
    refresh::{distrust::Distrust, ledger::GrantRow, schedule},
    seal::{Purpose, SealError},
    sync::{
        ArcSwap, Guard, Mutex, Notify,
        atomic::{AtomicBool, AtomicU8, Ordering},
        lock,
    },
    time::{Moment, StoreTime},
};

/// What is known of a grant's newest version.
pub(super) struct Snapshot {
    pub(super) version: u64,
    pub(super) token: Option<Token>,
    pub(super) refreshable: bool,
    /// The margin for this token's lifetime.
    pub(super) margin: Duration,
    pub(super) expires: Option<Moment>,
    /// When a refresh committed it; `None` for an imported one.
    pub(super) refreshed: Option<Moment>,
    /// Whether it is durable in the spool only: the store has not taken it yet.
    ahead: bool,
    /// The newest version that this process has heard of.
    heard: u64,
    /// Until when it is served without a question, and at all. Zero: it is not.
    fresh_until: Moment,
    alive_until: Moment,
}

impl Snapshot {
    fn new(
        row: &GrantRow,
        tokens: TokenSet,
        connector: &Connector,
        margin: Duration,
        ours: impl Fn(StoreTime) -> Moment,
    ) -> Result<Self, TokenError> {
        let refreshable = tokens.refreshable();
        let token = Token::of(row, tokens, connector)?;
        let margin = schedule::margin(margin, row.lifetime);
        let expires = row.expires_at.map(&ours);
        let alive_until = match &token {
            None => Moment(Duration::ZERO),
            Some(_) => expires.unwrap_or(Moment(Duration::MAX)),
        };
        let fresh_until = match expires {
            // What cannot be refreshed is used to its end.
            Some(_) if refreshable => alive_until - margin,
            _ => alive_until,
        };
        Ok(Self {
            version: row.version,
            token,
            refreshable,
            margin,
            expires,
            refreshed: row.refreshed_at.map(ours),
            ahead: false,
            heard: row.version,
            fresh_until,
            alive_until,
        })
    }

    /// The same version, which is served to nobody from now on.
    fn withdrawn(&self, heard: u64) -> Arc<Self> {
        Arc::new(Self {
            version: self.version,
            token: self.token.as_ref().map(Token::again),
            refreshable: self.refreshable,
            margin: self.margin,
            expires: self.expires,
            refreshed: self.refreshed,
            ahead: self.ahead,
            heard,
            fresh_until: Moment(Duration::ZERO),
            alive_until: Moment(Duration::ZERO),
        })
    }

    /// Whether there is a token that is good for more than the margin.
    pub(super) fn fresh(&self, now: Moment) -> bool {
        now < self.fresh_until
    }

    /// Whether there is a token that lives at all.
    pub(super) fn alive(&self, now: Moment) -> bool {
        now < self.alive_until
    }

    /// Whether `version`, as the store has it, is news. What is ahead of the store gives way to
    /// the store's word on the same version.
    pub(super) fn older_than(&self, version: u64) -> bool {
        self.version < version || self.ahead && self.version == version
    }

    /// Whether it was granted with so little life that it is as good as a refresh can make it.
    pub(super) fn fleeting(&self) -> bool {
        match (self.refreshed, self.expires) {
            (Some(from), Some(end)) => schedule::fleeting(from.until(end)),
            _ => false,
        }
    }

    /// Whether the token lives, or was granted since then with no life at all.
    pub(super) fn good_since(&self, then: Moment, now: Moment) -> bool {
        self.alive(now) || self.refreshed.is_some_and(|at| at >= then)
    }

    /// Whether a newer version is known to exist that could not be read.
    pub(super) fn replaced(&self) -> bool {
        self.version < self.heard
    }
}

/// One grant in memory.
pub(super) struct GrantEntry {
    pub(super) id: GrantId,
    pub(super) application: ApplicationId,
    pub(super) connector: Arc<Connector>,
    snapshot: ArcSwap<Snapshot>,
    /// The flight under way. Held for a few instructions only.
    pub(super) slot: Mutex<Option<Waiter>>,
    /// [`ASKED`] and [`RECENT`]. Written only when it changes, so that callers on many cores do
    /// not fight over its cache line.
    used: AtomicU8,
    /// Whether it has been where changes are looked for since before its row was read.
    trusted: AtomicBool,
    /// Woken when another process may have changed the grant.
    pub(super) changed: Notify,
    /// `None` for most: what is kept for each grant should be small.
    pub(super) distrust: Mutex<Option<Box<Distrust>>>,
    /// Whether there is a [`Distrust`], for those who must not wait for a lock.
    pub(super) distrusted: AtomicBool,
}

/// A caller has asked since the last refresh.
const ASKED: u8 = 1;
/// A caller has asked since the cache was last looked through.
const RECENT: u8 = 2;

impl GrantEntry {
    pub(super) fn new(row: &GrantRow, connector: Arc<Connector>, snapshot: Snapshot) -> Self {
        Self {
            id: row.id.clone(),
            application: row.application.clone(),
            connector,
            snapshot: ArcSwap::from_pointee(snapshot),
            slot: Mutex::default(),
            // Somebody has just asked for it.
            used: AtomicU8::new(RECENT),
            trusted: AtomicBool::new(false),
            changed: Notify::new(),
            distrust: Mutex::default(),
            distrusted: AtomicBool::new(false),
        }
    }

    pub(super) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub(super) fn note_use(&self) {
        if self.used.load(Ordering::Relaxed) != ASKED | RECENT {
            self.used.store(ASKED | RECENT, Ordering::Relaxed);
        }
    }

    /// Whether a caller has asked since this was last called.
    pub(super) fn take_use(&self) -> bool {
        self.used.fetch_and(!ASKED, Ordering::Relaxed) & ASKED != 0
    }

    /// Whether a caller has asked since the cache was last looked through.
    pub(super) fn take_recent(&self) -> bool {
        self.used.fetch_and(!RECENT, Ordering::Relaxed) & RECENT != 0
    }

    /// Whether a flight is under way.
    pub(super) fn flying(&self) -> bool {
        lock(&self.slot).is_some()
    }

    /// Whether what it holds is as new as what this process has heard of.
    pub(super) fn trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Release);
    }

    /// What happened to it may have gone unheard: whoever needs it compares it with the store.
    pub(super) fn doubt(&self) {
        self.trusted.store(false, Ordering::Release);
    }

    /// Takes a newer snapshot; an older one changes nothing.
    fn adopt(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.rcu(|present| {
            if present.older_than(snapshot.version) {
                if snapshot.version < present.heard {
                    snapshot.withdrawn(present.heard)
                } else {
                    snapshot.clone()
                }
            } else {
                present.clone()
            }
        });
    }

    /// A newer version exists and could not be read: what is here is served to nobody. Whether
    /// that is news.
    pub(super) fn replaced_by(&self, version: u64) -> bool {
        let mut news = false;
        self.snapshot.rcu(|present| {
            news = present.heard < version;
            if news {
                present.withdrawn(version)
            } else {
                present.clone()
            }
        });
        news
    }

    /// The token of this version is served to nobody any more.
    pub(super) fn withdraw(&self, version: u64) {
        self.snapshot.rcu(|present| {
            if present.version == version {
                present.withdrawn(present.heard)
            } else {
                present.clone()
            }
        });
    }

    /// Ends the flight: the next who asks starts a new one.
    pub(super) fn clear_slot(&self) {
        lock(&self.slot).take();
    }
}

impl Inner {
    /// Reads a row's tokens into a snapshot. `asked` is our time before the row was asked for,
    /// so that an expiry is never taken for later than it is.
    pub(super) fn read(
        &self,
        row: &GrantRow,
        connector: &Connector,
        at: StoreTime,
        asked: Moment,
    ) -> Result<Snapshot, TokenError> {
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let plain = self.unseal(purpose, &row.sealed)?;
        let tokens = TokenSet::from_plain(&plain).ok_or(SealError::Malformed)?;
        let ours = |time: StoreTime| {
            if time >= at {
                asked + at.until(time)
            } else {
                asked - time.until(at)
            }
        };
        Snapshot::new(row, tokens, connector, self.config.margin, ours)
    }

    /// Brings an entry up to a row that was read from the store.
    pub(super) fn adopt(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
    ) -> Result<(), TokenError> {
        if !entry.snapshot().older_than(row.version) {
            return Ok(());
        }
        let snapshot = match self.read(row, &entry.connector, at, asked) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                entry.replaced_by(row.version);
                return Err(error);
            }
        };
        self.plan_ahead(entry, &snapshot);
        entry.adopt(snapshot);
        entry.changed.notify_waiters();
        Ok(())
    }

    /// Takes what is durable in the spool, and what the row will be with it. Whether it is the newest
    /// that is known: a person may have authorized the grant anew meanwhile.
    pub(super) fn adopt_ahead(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
    ) -> Result<bool, TokenError> {
        let in_use = self.grants.pin().get(&entry.id).cloned();
        let mut newest = true;
        for entry in std::iter::once(entry).chain(&in_use) {
            if entry.snapshot().version < row.version {
                entry.adopt(Snapshot {
                    ahead: true,
                    ..self.read(row, &entry.connector, at, asked)?
                });
            }
            let present = entry.snapshot();
            newest &= present.ahead && present.version == row.version;
        }
        Ok(newest)
    }

    /// As [`adopt`](Self::adopt), and in the copy that is in use: all copies may have been
    /// forgotten and read again while a flight was under way, which then lands at an entry that
    /// nobody asks any more.
    pub(super) fn adopt_everywhere(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
    ) -> Result<(), TokenError> {
        self.adopt(entry, row, at, asked)?;
        let in_use = || self.grants.pin().get(&entry.id).cloned();
        if in_use().is_some_and(|present| Arc::ptr_eq(&present, entry)) {
            return Ok(());
        }
        // Who is about to keep what was read before is told to look again.
        self.hear();
        in_use().map_or(Ok(()), |present| self.adopt(&present, row, at, asked))
    }

    /// Reads an entry's row anew.
    pub(super) async fn reload(&self, entry: &Arc<GrantEntry>) -> Result<(), TokenError> {
        let asked = self.clock.now();
        let stamped = self.store.grant(&entry.id).await?;
        match stamped.value {
            Some(row) => self.adopt(entry, &row, stamped.at, asked),
            None => Ok(()),
        }
    }
}
