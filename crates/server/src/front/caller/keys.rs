//! Checks API keys: from memory where a look a moment ago still stands, else in the store.
//!
//! | key | |
//! | --- | --- |
//! | found within [`BELIEVED`] | believed, without I/O |
//! | found before that | looked up again, by one task for all who ask. If the store answers nobody for [`PROMPT`], whatever it was asked, it is away, and the key is believed on, for [`BELIEVED_ALONE`] at most; if it answers others, or says that it is busy, it is slow, and is waited for |
//! | refused within [`REFUSED`] | refused, without I/O |
//! | never found | looked up, by one task for all who ask, and only a few such keys at a time ([`STRANGERS`]), so that strangers cannot fill the line in which refreshes and known keys wait |
//!
//! Of a look-up that began longer than [`BELIEVED`] before a caller came, the caller believes nothing: the key
//! may have been revoked since.

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
    ApplicationId,
    store::{ApiKey, Store, StoreResult, Tenants},
    time::{Clock, Moment},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::{ApiError, bearer, key_digest};

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
const MOST: usize = 16 * 1024;
/// How long a store that says that it is busy is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long a caller waits that names no deadline.
const PATIENCE: Duration = Duration::from_secs(28);

/// A key is known by its digest.
type Digest = [u8; 32];

/// Checks API keys.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

/// Where keys are looked up.
#[async_trait]
trait Find: Send + Sync {
    async fn find(&self, digest: &Digest, asker: Asker) -> StoreResult<Option<ApiKey>>;

    /// How many statements it has answered, whoever asked.
    fn answered(&self) -> u64;
}

#[async_trait]
impl Find for Arc<dyn Store> {
    async fn find(&self, digest: &Digest, asker: Asker) -> StoreResult<Option<ApiKey>> {
        match asker {
            Asker::Known => self.known_key(digest).await,
            Asker::Stranger => self.key_by_digest(digest).await,
        }
    }

    fn answered(&self) -> u64 {
        Tenants::answered(&**self)
    }
}

/// Who asks for a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// The key was found before.
    Known,
    Stranger,
}

struct Inner {
    store: Box<dyn Find>,
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

#[derive(Clone)]
struct Known {
    application: ApplicationId,
    /// When the look-up that found it began.
    found: Moment,
    /// Until when it is believed without another look.
    until: Moment,
}

/// What a look-up found; `Err`: the store did not answer.
type Found = Result<Answer, Unanswered>;

/// Whose key it is, if it is one.
#[derive(Clone)]
struct Answer {
    application: Option<ApplicationId>,
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

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Keys of a store.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self::found_in(Box::new(store), clock)
    }

    fn found_in(store: Box<dyn Find>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
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

    /// Whether an `Authorization` header is known, without asking anybody, to hold a valid key of
    /// the named application. Never inlined, so that `bench/instructions.py` finds what it costs.
    #[inline(never)]
    pub(crate) fn knows(&self, authorization: &[u8], named: &str) -> bool {
        bearer(authorization)
            .and_then(|key| self.0.known_to_be_of(&key_digest(key), named))
            .unwrap_or(false)
    }

    /// Whether an `Authorization` header holds a valid key of the named application; answered by
    /// the deadline.
    ///
    /// # Errors
    ///
    /// 401 if not, in the same words for a key of nobody and a key of another application; 400
    /// without an application; 503 or 504 if it cannot be said.
    pub(crate) async fn check(
        &self,
        key: Option<&HeaderValue>,
        named: Option<&str>,
        deadline: Moment,
    ) -> Result<(), ApiError> {
        let key = key.ok_or_else(|| ApiError::unauthorized("Missing authentication"))?;
        let bearer = bearer(key.as_bytes()).ok_or_else(|| {
            ApiError::unauthorized("The Authorization header is not `Bearer` and an API key")
        })?;
        let named = named.ok_or_else(|| ApiError::missing_header(super::APP_ID))?;
        let digest = key_digest(bearer);
        let belongs = match self.0.known_to_be_of(&digest, named) {
            Some(belongs) => belongs,
            // Boxed, so that the many who are known carry no room for it.
            None => Box::pin(self.look_up(digest, deadline))
                .await?
                .is_some_and(|application| application.as_str() == named),
        };
        if belongs {
            return Ok(());
        }
        Err(ApiError::unauthorized(
            "The API key is not one of the application that x-apideck-app-id names",
        ))
    }

    /// Whose key it is, within the deadline.
    async fn look_up(
        &self,
        digest: Digest,
        deadline: Moment,
    ) -> Result<Option<ApplicationId>, ApiError> {
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
    async fn look_again(
        &self,
        digest: Digest,
        known: Known,
    ) -> Result<Option<ApplicationId>, ApiError> {
        let inner = &*self.0;
        let came = inner.clock.now();
        let mut looking = self.looking(digest, Asker::Known)?;
        while !inner.away.load(Ordering::SeqCst) {
            let answered = inner.answered();
            tokio::select! {
                biased;
                found = end_of(&mut looking) => match found {
                    Ok(answer) if answer.counts_for(came) => return Ok(answer.application),
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
        Ok(Some(known.application))
    }

    /// Looks a key up that was never found.
    async fn look_for_stranger(&self, digest: Digest) -> Result<Option<ApplicationId>, ApiError> {
        let inner = &*self.0;
        let came = inner.clock.now();
        while !inner.is_refused(&digest) {
            let mut looking = self.looking(digest, Asker::Stranger)?;
            match end_of(&mut looking).await {
                Ok(answer) if answer.counts_for(came) => return Ok(answer.application),
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
    /// Whether a key that was looked up a moment ago belongs to an application.
    fn known_to_be_of(&self, digest: &Digest, application: &str) -> Option<bool> {
        let known = self.known.pin();
        let known = known.get(digest)?;
        (self.clock.now() < known.until).then(|| known.application.as_str() == application)
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
        let asked = self.clock.now();
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
        let found = found.filter(|found| bool::from(found.digest.ct_eq(&digest)));
        let application = found.map(|found| found.application);
        match &application {
            Some(application) => {
                let known = Known {
                    application: application.clone(),
                    found: asked,
                    until: asked + BELIEVED,
                };
                self.remember(digest, known);
            }
            None => {
                self.known.pin().remove(&digest);
                self.refuse(digest);
            }
        }
        Ok(Answer { application, asked })
    }

    /// Believes a key for a moment more, unless somebody has learnt better meanwhile.
    fn believe_on(&self, digest: Digest, known: &Known) {
        let until = self.clock.now() + BELIEVED;
        self.known.pin().update(digest, |present| {
            let same = present.found == known.found;
            Known {
                until: if same { until } else { present.until },
                ..present.clone()
            }
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
