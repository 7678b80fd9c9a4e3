//! Checks API keys: from memory where a look a moment ago still stands, else in the store.
//!
//! | key | |
//! | --- | --- |
//! | found within [`BELIEVED`], and no key or application has changed since | believed, without I/O |
//! | found before that | looked up again, by one task for all who ask. If the store answers nobody for [`PROMPT`], whatever it was asked, it is away, and the key is believed on, for [`BELIEVED_ALONE`] at most; if it answers others, or says that it is busy, it is slow, and is waited for |
//! | refused within [`REFUSED`] | refused, without I/O |
//! | never found | looked up, by one task for all who ask, and only a few such keys at a time ([`STRANGERS`]), so that strangers cannot fill the line in which refreshes and known keys wait |
//!
//! Of a look-up that began longer than [`BELIEVED`] before a caller came, the caller believes nothing: the key
//! may have been revoked since.
//!
//! A key that expires does so by this process's own clock, whatever the store does. That a key was shown is
//! known from its look-ups, since nobody shows it without one a second; it is written beside all requests
//! ([`uses`](super::uses)).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::HeaderValue;
use subtle::ConstantTimeEq as _;
use tokenward::{
    ApplicationId, Vault,
    store::{ApiKey, Scope, Scopes, Stamped, StoreResult, Tenants},
    time::{Clock, Moment},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::{
    ApiError, bearer, key_digest,
    uses::{Place, Uses},
};

/// How long a key that was found is believed without another look.
const BELIEVED: Duration = Duration::from_secs(1);
/// How long a key that was found goes on being believed while the store answers nobody: a database
/// that is restarted or cut off is no reason to refuse those who are known.
const BELIEVED_ALONE: Duration = Duration::from_secs(300);
/// A store that has answered nobody for this long is away.
const PROMPT: Duration = Duration::from_secs(1);
/// How long a key that was not found is refused without another look.
const REFUSED: Duration = Duration::from_secs(1);
/// Look-ups of keys that were never found, at a time.
const STRANGERS: usize = 4;
/// How many more keys may wait for that.
const WAITING_STRANGERS: usize = 1024;
/// Keys that are remembered, of those found and of those refused.
pub(super) const MOST: usize = 16 * 1024;
/// How long a store that says that it is busy is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long a caller waits that names no deadline.
const PATIENCE: Duration = Duration::from_secs(28);

/// A key is known by its digest.
pub(super) type Digest = [u8; 32];

/// Checks API keys.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

/// Where keys are looked up, and where it is noted that they were shown.
#[async_trait]
pub(super) trait Find: Send + Sync {
    async fn find(&self, digest: &Digest, asker: Asker) -> StoreResult<Option<Stamped<ApiKey>>>;

    /// How many statements it has answered, whoever asked.
    fn answered(&self) -> u64;

    /// How many changes of keys and applications have been heard of.
    fn heard(&self) -> u64;

    /// Notes that keys were shown.
    async fn used(&self, digests: &[Digest]) -> StoreResult<()>;
}

#[async_trait]
impl Find for Vault {
    async fn find(&self, digest: &Digest, asker: Asker) -> StoreResult<Option<Stamped<ApiKey>>> {
        match asker {
            Asker::Known => self.store().known_key(digest).await,
            Asker::Stranger => self.store().key_by_digest(digest).await,
        }
    }

    fn heard(&self) -> u64 {
        self.tenants_heard()
    }

    fn answered(&self) -> u64 {
        Tenants::answered(&**self.store())
    }

    async fn used(&self, digests: &[Digest]) -> StoreResult<()> {
        self.store().keys_used(digests).await
    }
}

/// Who asks for a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The key was found before.
    Known,
    Stranger,
}

struct Inner {
    store: Arc<dyn Find>,
    uses: Uses,
    clock: Arc<dyn Clock>,
    known: papaya::HashMap<Digest, Known>,
    refused: Mutex<HashMap<Digest, Moment>>,
    /// Look-ups under way.
    looking: Mutex<HashMap<Digest, watch::Sender<Option<Found>>>>,
    strangers: Arc<Semaphore>,
    waiting_strangers: Arc<Semaphore>,
    /// How often it has answered here, or said that it was busy.
    answers: AtomicU64,
    /// It has answered nobody for a while.
    away: AtomicBool,
    tasks: TaskTracker,
}

/// What is known of a key.
#[derive(Clone, Debug)]
struct Facts {
    application: ApplicationId,
    scopes: Scopes,
    /// When it stops by itself.
    expires: Option<Moment>,
}

#[derive(Clone)]
struct Known {
    facts: Facts,
    /// When the look-up that found it began.
    found: Moment,
    /// Until when it is believed without another look, if no more is heard of than this.
    until: Moment,
    heard: u64,
}

/// What a look-up found; `Err`: the store did not answer.
type Found = Result<Answer, Unanswered>;

/// What is known of a key, if it is one.
#[derive(Clone)]
struct Answer {
    facts: Option<Facts>,
    /// When the store was asked.
    asked: Moment,
}

impl Answer {
    /// Whether it is new enough for a caller that came then.
    fn counts_for(&self, came: Moment) -> bool {
        came < self.asked + BELIEVED
    }
}

#[derive(Clone)]
struct Unanswered {
    why: String,
    /// The store works, and has no time.
    slow: bool,
}

/// Who says which application calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming<'a> {
    /// `x-apideck-app-id`, which must be there.
    Header(Option<&'a str>),
    /// The key. If `x-apideck-app-id` is there, it must say the same.
    Key(Option<&'a str>),
}

impl<'a> Naming<'a> {
    fn name(self) -> Option<&'a str> {
        let (Self::Header(name) | Self::Key(name)) = self;
        name
    }
}

/// Why a key that was found does not do.
#[derive(Debug)]
enum Not {
    /// It is another application's.
    Theirs,
    /// It has expired.
    Anymore,
    /// It lacks this scope.
    For(Scope),
}

impl Facts {
    /// `asked`: when the look-up began, which is before the store's answer was true: a key stops a little
    /// early, never late.
    fn of(found: Stamped<ApiKey>, asked: Moment) -> Self {
        let Stamped { value: key, at } = found;
        Self {
            application: key.application,
            scopes: key.scopes,
            expires: key.expires_at.map(|expires| asked + at.until(expires)),
        }
    }

    /// Whether it does for this.
    fn admit(&self, naming: Naming<'_>, scope: Scope, now: Moment) -> Result<(), Not> {
        let its = match naming {
            Naming::Header(named) => named == Some(self.application.as_str()),
            Naming::Key(named) => named.is_none_or(|named| named == self.application.as_str()),
        };
        if !its {
            Err(Not::Theirs)
        } else if self.expires.is_some_and(|expires| now >= expires) {
            Err(Not::Anymore)
        } else if !self.scopes.contains(scope) {
            Err(Not::For(scope))
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Keys of a vault. Its upkeep hears of those that are revoked.
    pub fn new(vault: Vault) -> Self {
        let clock = vault.clock().clone();
        Self::found_in(Arc::new(vault), clock)
    }

    fn found_in(store: Arc<dyn Find>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            uses: Uses::default(),
            store,
            clock,
            known: papaya::HashMap::default(),
            refused: Mutex::default(),
            looking: Mutex::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            waiting_strangers: Arc::new(Semaphore::new(WAITING_STRANGERS)),
            answers: AtomicU64::new(0),
            away: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        }))
    }

    /// The deadline of a caller who names none.
    pub(super) fn patience(&self) -> Moment {
        self.0.clock.now() + PATIENCE
    }

    /// Whose key an `Authorization` header is known to hold, without asking anybody, if it does for that. The
    /// id is lent: to count references to it would be a write that all threads make. Never inlined, so that
    /// `bench/instructions.py` finds what it costs.
    #[inline(never)]
    pub(crate) fn known<T>(
        &self,
        authorization: &[u8],
        naming: Naming<'_>,
        scope: Scope,
        then: impl FnOnce(&str) -> T,
    ) -> Option<T> {
        let digest = key_digest(bearer(authorization)?);
        let known = self.0.known.pin();
        let known = known.get(&digest)?;
        let now = self.0.clock.now();
        let good = self.0.believes(known, now) && known.facts.admit(naming, scope, now).is_ok();
        good.then(|| then(known.facts.application.as_str()))
    }

    /// Whose key an `Authorization` header holds, if it does for what it is shown for; answered by the
    /// deadline.
    ///
    /// # Errors
    ///
    /// 401 if it is no valid key, in the same words for a key of nobody and a key of another application; 400
    /// without an application; 403 if it lacks the scope; 503 or 504 if it cannot be said.
    pub(crate) async fn check(
        &self,
        key: Option<&HeaderValue>,
        naming: Naming<'_>,
        scope: Scope,
        deadline: Moment,
    ) -> Result<ApplicationId, ApiError> {
        let key = key.ok_or_else(|| ApiError::unauthorized("Missing authentication"))?;
        let bearer = bearer(key.as_bytes()).ok_or_else(|| {
            ApiError::unauthorized("The Authorization header is not `Bearer` and an API key")
        })?;
        if let Naming::Header(None) = naming {
            return Err(ApiError::missing_header(super::APP_ID));
        }
        let digest = key_digest(bearer);
        let facts = match self.0.believed(&digest) {
            Some(facts) => Some(facts),
            // Boxed, so that the many who are known carry no room for it.
            None => Box::pin(self.look_up(digest, deadline)).await?,
        };
        let stranger = || {
            ApiError::unauthorized(match naming.name() {
                Some(_) => "The API key is not one of the application that x-apideck-app-id names",
                None => "The API key is unknown",
            })
        };
        let facts = facts.ok_or_else(stranger)?;
        let now = self.0.clock.now();
        match facts.admit(naming, scope, now) {
            Ok(()) => Ok(facts.application),
            Err(Not::Theirs) => Err(stranger()),
            Err(Not::Anymore) => Err(ApiError::expired_key()),
            Err(Not::For(scope)) => Err(ApiError::missing_scope(scope, facts.scopes)),
        }
    }

    /// What is known of a key, within the deadline.
    async fn look_up(&self, digest: Digest, deadline: Moment) -> Result<Option<Facts>, ApiError> {
        let inner = &*self.0;
        let left = inner.clock.now().until(deadline);
        let found = async {
            match inner.known(&digest) {
                Some(known) => self.look_again(digest, known).await,
                None => self.look_for_stranger(digest).await,
            }
        };
        tokio::select! {
            biased;
            found = found => found,
            () = inner.clock.sleep(left) => Err(ApiError::timed_out(
                "The API key could not be checked in time: the vault's store is slow",
            )),
        }
    }

    /// Looks a key up again that was found before.
    async fn look_again(&self, digest: Digest, known: Known) -> Result<Option<Facts>, ApiError> {
        let inner = &*self.0;
        let came = inner.clock.now();
        let mut looking = self.looking(digest, Asker::Known)?;
        while !inner.away.load(Ordering::SeqCst) {
            let answered = inner.answered();
            tokio::select! {
                biased;
                found = end_of(&mut looking) => match found {
                    Ok(answer) if answer.counts_for(came) => return Ok(answer.facts),
                    Ok(_) => looking = self.looking(digest, Asker::Known)?,
                    // Slow is not away, and not even a look-up that failed makes it so.
                    Err(Unanswered { slow: true, .. }) => {
                        inner.clock.sleep(BUSY_PAUSE).await;
                        looking = self.looking(digest, Asker::Known)?;
                    }
                    Err(_) => break,
                },
                // Others may have been answered meanwhile.
                () = inner.clock.sleep(PROMPT) => if inner.answered() == answered {
                    inner.away.store(true, Ordering::SeqCst);
                },
            }
        }
        // The look-up goes on, and what it finds counts as soon as it is there.
        inner.believe_on(digest, &known);
        Ok(Some(known.facts))
    }

    /// Looks a key up that was never found.
    async fn look_for_stranger(&self, digest: Digest) -> Result<Option<Facts>, ApiError> {
        let inner = &*self.0;
        let came = inner.clock.now();
        while !inner.is_refused(&digest) {
            let mut looking = self.looking(digest, Asker::Stranger)?;
            match end_of(&mut looking).await {
                Ok(answer) if answer.counts_for(came) => return Ok(answer.facts),
                Ok(_) => {}
                Err(Unanswered { why, .. }) => return Err(ApiError::store(&why)),
            }
        }
        Ok(None)
    }

    /// The look-up of a key that is under way, or a new one. It is a task of its own, so that nobody
    /// who leaves ends it for the others, and a stranger who leaves does not make room for more.
    ///
    /// # Errors
    ///
    /// Too many strangers wait for a turn.
    fn looking(
        &self,
        digest: Digest,
        asker: Asker,
    ) -> Result<watch::Receiver<Option<Found>>, ApiError> {
        let mut looking = locked(&self.0.looking);
        if let Some(under_way) = looking.get(&digest) {
            return Ok(under_way.subscribe());
        }
        let turn = self.turn(asker)?;
        let (tell, told) = watch::channel(None);
        looking.insert(digest, tell.clone());
        let mut over = Over {
            inner: self.0.clone(),
            digest,
            removed: false,
        };
        self.0.tasks.spawn(async move {
            let turn = match turn {
                Turn::NotNeeded => None,
                Turn::Taken(turn) => Some(turn),
                Turn::Queued(place) => {
                    let Some(turn) = over.wait_for_turn(&tell).await else {
                        return;
                    };
                    drop(place);
                    Some(turn)
                }
            };
            let found = over.inner.ask(digest, asker).await;
            drop(turn);
            drop(over);
            // Nobody may want to know any more.
            let _ = tell.send(Some(found));
        });
        Ok(told)
    }

    fn turn(&self, asker: Asker) -> Result<Turn, ApiError> {
        if asker == Asker::Known {
            return Ok(Turn::NotNeeded);
        }
        if let Ok(turn) = self.0.strangers.clone().try_acquire_owned() {
            return Ok(Turn::Taken(turn));
        }
        let place = self.0.waiting_strangers.clone().try_acquire_owned();
        place
            .map(Turn::Queued)
            .map_err(|_| ApiError::busy("Too many unknown API keys are being checked"))
    }
}

/// When a look-up may begin.
enum Turn {
    NotNeeded,
    Taken(OwnedSemaphorePermit),
    /// A place in the queue for a turn.
    Queued(OwnedSemaphorePermit),
}

/// Ends a look-up, also one whose worker has ended in the middle of it.
struct Over {
    inner: Arc<Inner>,
    digest: Digest,
    removed: bool,
}

impl Over {
    /// A stranger's turn; `None` if all who asked have left before.
    async fn wait_for_turn(
        &mut self,
        tell: &watch::Sender<Option<Found>>,
    ) -> Option<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(self.inner.strangers.clone().acquire_owned());
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return turn.ok(),
                () = tell.closed() => {
                    // Under the lock: nobody else can join it now.
                    let mut looking = locked(&self.inner.looking);
                    if tell.receiver_count() == 0 {
                        looking.remove(&self.digest);
                        self.removed = true;
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if !self.removed {
            locked(&self.inner.looking).remove(&self.digest);
        }
    }
}

impl Inner {
    /// What is known of a key that was looked up a moment ago.
    fn believed(&self, digest: &Digest) -> Option<Facts> {
        let known = self.known.pin();
        let known = known.get(digest)?;
        self.believes(known, self.clock.now())
            .then(|| known.facts.clone())
    }

    /// Whether nobody need be asked about a key.
    fn believes(&self, known: &Known, now: Moment) -> bool {
        now < known.until && known.heard == self.store.heard()
    }

    /// A key that was found not too long ago.
    fn known(&self, digest: &Digest) -> Option<Known> {
        let known = self.known.pin().get(digest).cloned()?;
        (self.clock.now() < known.found + BELIEVED_ALONE).then_some(known)
    }

    fn is_refused(&self, digest: &Digest) -> bool {
        locked(&self.refused)
            .get(digest)
            .is_some_and(|until| self.clock.now() < *until)
    }

    /// How much the store has done for anybody: while that grows, it is not away.
    fn answered(&self) -> u64 {
        let here = self.answers.load(Ordering::SeqCst);
        here.wrapping_add(self.store.answered())
    }

    /// Asks the store, and remembers its answer.
    async fn ask(&self, digest: Digest, asker: Asker) -> Found {
        // Before the look: what changes during it is heard of after it.
        let (asked, heard) = (self.clock.now(), self.store.heard());
        let found = self.store.find(&digest, asker).await;
        let found = found.map_err(|error| {
            let slow = error.is_slow();
            if slow {
                self.answers.fetch_add(1, Ordering::SeqCst);
            }
            let why = error.to_string();
            Unanswered { why, slow }
        })?;
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.away.store(false, Ordering::SeqCst);
        let found = found.filter(|found| bool::from(found.value.digest.ct_eq(&digest)));
        let facts = found.map(|found| Facts::of(found, asked));
        match &facts {
            Some(facts) => {
                let place = Place {
                    store: &self.store,
                    clock: &self.clock,
                    tasks: &self.tasks,
                };
                self.uses.note(digest, &place);
                let known = Known {
                    facts: facts.clone(),
                    found: asked,
                    until: asked + BELIEVED,
                    heard,
                };
                self.remember(digest, known);
            }
            None => {
                self.known.pin().remove(&digest);
                self.refuse(digest);
            }
        }
        Ok(Answer { facts, asked })
    }

    /// Believes a key for a moment more, unless somebody has learnt better meanwhile.
    fn believe_on(&self, digest: Digest, known: &Known) {
        let (until, heard) = (self.clock.now() + BELIEVED, self.store.heard());
        self.known.pin().update(digest, |present| {
            let mut present = present.clone();
            if present.found == known.found {
                (present.until, present.heard) = (until, heard);
            }
            present
        });
    }

    fn remember(&self, digest: Digest, found: Known) {
        let known = self.known.pin();
        if known.len() >= MOST {
            let now = self.clock.now();
            known.retain(|_, known| now < known.until);
        }
        if known.len() < MOST {
            known.insert(digest, found);
        }
    }

    fn refuse(&self, digest: Digest) {
        let now = self.clock.now();
        let mut refused = locked(&self.refused);
        if refused.len() >= MOST {
            refused.retain(|_, until| now < *until);
        }
        if refused.len() < MOST {
            refused.insert(digest, now + REFUSED);
        }
    }
}

/// Waits for a look-up's end.
async fn end_of(looking: &mut watch::Receiver<Option<Found>>) -> Found {
    match looking.wait_for(Option::is_some).await {
        Ok(found) => found.clone().expect("it is there"),
        Err(_) => Err(Unanswered {
            why: "the look-up of the API key was cut off".to_owned(),
            slow: false,
        }),
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
