//! A grant in memory: its newest snapshot, and the flight that is under way.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, Range},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;

use super::{Inner, pilot};
use crate::{
    connector::Connector,
    error::TokenError,
    id::{ApplicationId, GrantId},
    oauth::TokenSet,
    refresh::{
        ledger::{GrantRow, Need},
        schedule,
    },
    seal::{Purpose, SealError},
    secret::Secret,
    sync::{
        ArcSwap, Guard, Mutex, Notify, OnceLock,
        atomic::{AtomicBool, Ordering},
        lock,
    },
    time::{Moment, StoreTime},
};

/// An access token, ready to be sent.
pub struct Token {
    authorization: HeaderValue,
    /// Where in it the token itself stands.
    text: Range<usize>,
    version: u64,
    expires_at: Option<StoreTime>,
    /// `None` for most: what is kept for each grant should be small.
    extra: Option<Box<Extra>>,
}

/// What some providers send along.
struct Extra {
    metadata: BTreeMap<String, String>,
    scope: Vec<String>,
}

impl Token {
    /// The token's text.
    pub fn secret(&self) -> Secret {
        let text = &self.authorization.as_bytes()[self.text.clone()];
        Secret::new(String::from_utf8_lossy(text))
    }

    /// The value of the `Authorization` header, marked sensitive.
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The grant's version that it belongs to.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the provider sent with it, such as `instance_url`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.extra.as_ref().map_or(&NONE, |extra| &extra.metadata)
    }

    /// Granted scopes; empty where the provider does not say.
    pub fn scope(&self) -> &[String] {
        self.extra.as_ref().map_or(&[], |extra| &extra.scope)
    }

    /// When it expires, on the store's clock.
    pub fn expires_at(&self) -> Option<StoreTime> {
        self.expires_at
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A token that was handed out: it stays what it is, whatever is granted after it.
///
/// To take it and to leave it writes to nothing that other threads read (as long as a thread has
/// no more than eight at a time; then it counts references, as an `Arc` does).
pub struct Held(Guard<Arc<Snapshot>>);

impl Held {
    /// `None` if there is no token in it.
    pub(super) fn of(snapshot: Guard<Arc<Snapshot>>) -> Option<Self> {
        snapshot.token.is_some().then_some(Self(snapshot))
    }
}

impl Deref for Held {
    type Target = Token;

    fn deref(&self) -> &Token {
        let token = self.0.token.as_ref();
        token.expect("nothing is held without a token")
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

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
}

impl Snapshot {
    /// Whether there is a token that is good for more than the margin.
    pub(super) fn fresh(&self, now: Moment) -> bool {
        self.token.is_some()
            && match self.expires {
                None => true,
                // What cannot be refreshed is used to its end.
                Some(expires) if !self.refreshable => now < expires,
                Some(expires) => now + self.margin < expires,
            }
    }

    /// Whether there is a token that lives at all.
    pub(super) fn alive(&self, now: Moment) -> bool {
        self.token.is_some() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether the token lives, or was granted since then with no life at all.
    pub(super) fn good_since(&self, then: Moment, now: Moment) -> bool {
        self.alive(now) || self.refreshed.is_some_and(|at| at >= then)
    }
}

/// One grant in memory.
pub(super) struct GrantEntry {
    pub(super) id: GrantId,
    pub(super) application: ApplicationId,
    pub(super) connector: Arc<Connector>,
    snapshot: ArcSwap<Snapshot>,
    /// The flight under way. Held for a few instructions only.
    slot: Mutex<Option<Waiter>>,
    /// Whether a caller has asked since the last refresh. Written only when it changes, so that
    /// callers on many cores do not fight over its cache line.
    used: AtomicBool,
    /// Whether it has been where changes are looked for since before its row was read.
    trusted: AtomicBool,
    /// Woken when another process may have changed the grant.
    pub(super) changed: Notify,
}

/// How a flight ended, for those who waited.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// The snapshot is newer than what the flight set out from.
    Newer,
    /// It is not.
    Failed {
        error: TokenError,
        retry_at: Option<Moment>,
    },
}

/// Where a flight's landing is made known. Its waiters are woken in the order in which they came;
/// a `watch` channel wakes them in a random order, which a simulation could not repeat.
#[derive(Default)]
struct Board {
    landing: OnceLock<Landing>,
    posted: Notify,
}

impl Board {
    fn post(&self, landing: Landing) {
        // Only the first counts.
        let _ = self.landing.set(landing);
        self.posted.notify_waiters();
    }
}

/// A place in the queue of a flight.
#[derive(Clone)]
pub(super) struct Waiter(Arc<Board>);

impl Waiter {
    pub(super) async fn landed(self) -> Landing {
        let posted = self.0.posted.notified();
        tokio::pin!(posted);
        posted.as_mut().enable();
        if self.0.landing.get().is_none() {
            posted.await;
        }
        let landing = self.0.landing.get();
        landing.expect("set before it is announced").clone()
    }
}

/// The flight's own end of the board. One that is dropped without a landing (a panic) says so.
pub(super) struct Herald(Arc<Board>);

impl Herald {
    fn new() -> (Self, Waiter) {
        let board = Arc::new(Board::default());
        (Self(board.clone()), Waiter(board))
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    pub(super) fn announce(&self, landing: Landing) {
        self.0.post(landing);
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.0.post(Landing::Failed {
            error: TokenError::Store("the refresh task ended unexpectedly".to_owned()),
            retry_at: None,
        });
    }
}

/// What joining found.
pub(super) enum Joined {
    Newer(Held),
    Flight(Waiter),
}

impl GrantEntry {
    pub(super) fn new(row: &GrantRow, connector: Arc<Connector>, snapshot: Snapshot) -> Self {
        Self {
            id: row.id.clone(),
            application: row.application.clone(),
            connector,
            snapshot: ArcSwap::from_pointee(snapshot),
            slot: Mutex::default(),
            used: AtomicBool::new(false),
            trusted: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub(super) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a caller has asked since this was last called.
    pub(super) fn take_use(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether what it holds is as new as what this process has heard of.
    pub(super) fn trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Release);
    }

    /// Takes a newer snapshot; an older one changes nothing.
    fn adopt(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.rcu(|present| {
            if present.version < snapshot.version {
                snapshot.clone()
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

/// The header's value, and where in it the token stands.
fn authorization(
    connector: &Connector,
    token: &Secret,
) -> Result<(HeaderValue, Range<usize>), TokenError> {
    let template = &connector.api.authorization;
    let from = template.find("{token}").unwrap_or(0);
    let text = template.replace("{token}", token.expose());
    // A token that no header can carry can never be used.
    let mut value = HeaderValue::try_from(text).map_err(|_| SealError::Malformed)?;
    value.set_sensitive(true);
    Ok((value, from..from + token.expose().len()))
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
        let plain = self.keyring.open(purpose, &row.sealed)?;
        let tokens = TokenSet::from_plain(&plain).ok_or(SealError::Malformed)?;
        let ours = |time: StoreTime| {
            if time >= at {
                asked + at.until(time)
            } else {
                asked - time.until(at)
            }
        };
        let refreshable = tokens.refreshable();
        let token = match &tokens.access_token {
            Some(access_token) => {
                let (authorization, text) = authorization(connector, access_token)?;
                let extra = Extra {
                    metadata: tokens.metadata,
                    scope: tokens.scope,
                };
                let none = extra.metadata.is_empty() && extra.scope.is_empty();
                Some(Token {
                    authorization,
                    text,
                    version: row.version,
                    expires_at: row.expires_at,
                    extra: (!none).then(|| Box::new(extra)),
                })
            }
            None => None,
        };
        Ok(Snapshot {
            version: row.version,
            token,
            refreshable,
            margin: schedule::margin(self.config.margin, row.lifetime),
            expires: row.expires_at.map(ours),
            refreshed: row.refreshed_at.map(ours),
        })
    }

    /// Brings an entry up to a row that was read from the store.
    pub(super) fn adopt(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
    ) -> Result<(), TokenError> {
        if row.version <= entry.snapshot().version {
            return Ok(());
        }
        let snapshot = self.read(row, &entry.connector, at, asked)?;
        self.plan_ahead(entry, &snapshot);
        entry.adopt(snapshot);
        entry.changed.notify_waiters();
        Ok(())
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
        let stamped = self
            .store
            .grant(&entry.id)
            .await
            .map_err(|error| TokenError::Store(error.0))?;
        match stamped.value {
            Some(row) => self.adopt(entry, &row, stamped.at, asked),
            None => Ok(()),
        }
    }

    /// Joins the flight of a grant, or starts it, unless a newer version is there by now that is
    /// good `enough`.
    pub(super) fn join(
        self: &Arc<Self>,
        entry: &Arc<GrantEntry>,
        need: Need,
        seen: u64,
        enough: impl Fn(&Snapshot) -> bool,
    ) -> Result<Joined, TokenError> {
        let find = |snapshot: Guard<Arc<Snapshot>>| {
            let newer = snapshot.version > seen && enough(&snapshot);
            newer.then(|| Held::of(snapshot)).flatten()
        };
        // Those whom a flight has woken all at once need not queue for the lock.
        if let Some(token) = find(entry.snapshot()) {
            return Ok(Joined::Newer(token));
        }
        let mut slot = lock(&entry.slot);
        // A flight that lands publishes its snapshot before it leaves the slot: under the lock,
        // either the snapshot is newer or the flight is still to be joined.
        let snapshot = entry.snapshot();
        let (version, refreshable) = (snapshot.version, snapshot.refreshable);
        if let Some(token) = find(snapshot) {
            return Ok(Joined::Newer(token));
        }
        if !refreshable {
            return Err(TokenError::NoRefreshToken);
        }
        if let Some(waiter) = &*slot {
            return Ok(Joined::Flight(waiter.clone()));
        }
        // Taken before the question: a drain that begins after the answer waits for this flight.
        let _counted = self.tracker.token();
        if self.tracker.is_closed() {
            return Err(TokenError::ShuttingDown);
        }
        let (herald, waiter) = Herald::new();
        *slot = Some(waiter.clone());
        let newest = version.max(seen);
        self.tracker.spawn(pilot::fly(
            self.clone(),
            entry.clone(),
            need.of(seen, newest),
            newest,
            herald,
        ));
        Ok(Joined::Flight(waiter))
    }
}
