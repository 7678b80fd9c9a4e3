//! Keys on a store whose answers the test gives out.
#![expect(
    clippy::disallowed_methods,
    reason = "measures on the paused clock of the test"
)]

use std::sync::atomic::AtomicUsize;

use tokenward::{
    store::{StoreError, UnknownScope},
    time::{StoreTime, TokioClock},
};
use tokio::task::yield_now;

use super::*;

/// Answers when it is told to.
#[derive(Clone)]
struct Slow(Arc<State>);

struct State {
    kept: Mutex<Vec<ApiKey>>,
    /// A permit for each answer.
    turns: Semaphore,
    /// Look-ups are refused with an error.
    broken: AtomicBool,
    /// Look-ups are refused, for there are too many.
    busy: AtomicBool,
    /// What it has answered to others.
    others: AtomicU64,
    /// Known keys among those looked up.
    known: AtomicUsize,
    asked: AtomicUsize,
    /// Which were said to be used, by batch.
    used: Mutex<Vec<Vec<Digest>>>,
    at_a_time: AtomicUsize,
    most_at_a_time: AtomicUsize,
    heard: AtomicU64,
}

#[async_trait]
impl Find for Slow {
    async fn find(&self, digest: &Digest, asker: Asker) -> StoreResult<Option<Stamped<ApiKey>>> {
        let state = &*self.0;
        state.asked.fetch_add(1, Ordering::SeqCst);
        if asker == Asker::Known {
            state.known.fetch_add(1, Ordering::SeqCst);
        }
        // As it is when it is asked, whenever the answer comes.
        let found = {
            let kept = locked(&state.kept);
            kept.iter().find(|key| key.digest == *digest).cloned()
        };
        let now = state.at_a_time.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_at_a_time.fetch_max(now, Ordering::SeqCst);
        state.turns.acquire().await.unwrap().forget();
        state.at_a_time.fetch_sub(1, Ordering::SeqCst);
        if state.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Away("away".to_owned()));
        }
        if state.busy.load(Ordering::SeqCst) {
            return Err(StoreError::Busy("busy".to_owned()));
        }
        Ok(found.map(|value| Stamped { value, at: NOW }))
    }

    fn answered(&self) -> u64 {
        self.0.others.load(Ordering::SeqCst)
    }

    async fn used(&self, digests: &[Digest]) -> StoreResult<()> {
        let state = &*self.0;
        locked(&state.used).push(digests.to_vec());
        if state.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Away("away".to_owned()));
        }
        Ok(())
    }

    fn heard(&self) -> u64 {
        self.0.heard.load(Ordering::SeqCst)
    }
}

impl Slow {
    fn keys() -> (Self, Keys) {
        let store = Self(Arc::new(State {
            kept: Mutex::default(),
            turns: Semaphore::new(0),
            broken: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            others: AtomicU64::new(0),
            known: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            used: Mutex::default(),
            at_a_time: AtomicUsize::new(0),
            most_at_a_time: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
        }));
        let clock = Arc::new(TokioClock::default());
        (store.clone(), Keys::found_in(Arc::new(store), clock))
    }

    fn add(&self, key: &str, application: &str) {
        self.add_for(key, application, "proxy vault", None);
    }

    fn add_for(&self, key: &str, application: &str, scopes: &str, lifetime: Option<Duration>) {
        let scopes: Result<Scopes, UnknownScope> = scopes.parse();
        locked(&self.0.kept).push(ApiKey {
            id: "id".to_owned(),
            application: application.into(),
            digest: key_digest(key.as_bytes()),
            hint: String::new(),
            scopes: scopes.unwrap(),
            created_at: StoreTime(0),
            expires_at: lifetime.map(|lifetime| NOW + lifetime),
            last_used_at: None,
        });
    }

    fn revoke_all(&self) {
        locked(&self.0.kept).clear();
    }

    fn answer(&self, count: usize) {
        self.0.turns.add_permits(count);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

/// What the store's clock says, always.
const NOW: StoreTime = StoreTime(1_000_000);

async fn status(keys: &Keys, key: &str, application: &str) -> u16 {
    status_for(keys, key, application, Scope::Proxy).await
}

async fn status_for(keys: &Keys, key: &str, application: &str, scope: Scope) -> u16 {
    let header = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    let naming = Naming::Header(Some(application));
    let checked = keys.check(Some(&header), naming, scope, keys.patience());
    let checked = checked.await;
    // What is known without asking is never more than what is known by asking.
    let known = keys.known(header.as_bytes(), naming, scope, str::to_owned);
    match checked {
        Ok(application) => {
            assert!(known.is_none_or(|known| known == application.as_str()));
            200
        }
        Err(_) if known.is_some() => panic!("{key} is known, and refused"),
        Err(error) => error.status().as_u16(),
    }
}

fn begin(keys: &Keys, key: &str) -> tokio::task::JoinHandle<u16> {
    let (keys, key) = (keys.clone(), key.to_owned());
    TaskTracker::new().spawn(async move { status(&keys, &key, "app").await })
}

async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_look_for_all_who_ask_and_none_for_a_second() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 200);
    assert_eq!(status(&keys, "good", "other").await, 401);
    assert_eq!(store.asked(), 1);
    tokio::time::advance(BELIEVED).await;
    let waiting: Vec<_> = (0..50).map(|_| begin(&keys, "good")).collect();
    settle().await;
    store.answer(1);
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(store.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_herd_with_a_key_that_nobody_has_shown_before_asks_once() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    // Strangers have all the turns.
    for number in 0..STRANGERS {
        begin(&keys, &format!("stranger {number}"));
    }
    settle().await;
    let herd: Vec<_> = (0..2 * WAITING_STRANGERS)
        .map(|_| begin(&keys, "good"))
        .collect();
    settle().await;
    store.answer(STRANGERS + 1);
    for one in herd {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(store.asked(), STRANGERS + 1);
    assert_eq!(store.0.known.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn strangers_who_leave_the_queue_make_room_in_it() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    let strangers: Vec<_> = (0..STRANGERS + WAITING_STRANGERS)
        .map(|number| begin(&keys, &format!("stranger {number}")))
        .collect();
    settle().await;
    assert_eq!(status(&keys, "good", "app").await, 503);
    for stranger in &strangers[STRANGERS..] {
        stranger.abort();
    }
    settle().await;
    let good = begin(&keys, "good");
    settle().await;
    store.answer(STRANGERS + 1);
    assert_eq!(good.await.unwrap(), 200);
    assert_eq!(store.asked(), STRANGERS + 1);
}

/// A store with a key that was found, is believed no more, and is revoked.
async fn revoked() -> (Slow, Keys) {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 200);
    store.revoke_all();
    tokio::time::advance(BELIEVED).await;
    (store, keys)
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_though_the_store_is_slow() {
    let (store, keys) = revoked().await;
    // It is asked again, and waits for longer than a moment while others are answered, about
    // whatever they ask.
    let waiting = begin(&keys, "good");
    for _ in 0..5 {
        settle().await;
        tokio::time::sleep(PROMPT / 2).await;
        store.0.others.fetch_add(1, Ordering::SeqCst);
    }
    assert!(!waiting.is_finished());
    store.answer(10);
    assert_eq!(waiting.await.unwrap(), 401);
    assert_eq!(status(&keys, "good", "app").await, 401);
    // It did not stand in line with strangers.
    assert_eq!(store.0.known.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_though_the_store_says_that_it_is_busy() {
    let (store, keys) = revoked().await;
    store.answer(10_000);
    store.0.busy.store(true, Ordering::SeqCst);
    assert_eq!(status(&keys, "good", "app").await, 504);
    let waiting = begin(&keys, "good");
    settle().await;
    assert!(!waiting.is_finished());
    store.0.busy.store(false, Ordering::SeqCst);
    assert_eq!(waiting.await.unwrap(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_from_before_the_revocation_lets_nobody_in_who_comes_a_second_later() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 200);
    tokio::time::advance(BELIEVED).await;
    // Read before the revocation, answered after it.
    let before = begin(&keys, "good");
    settle().await;
    store.revoke_all();
    for _ in 0..3 {
        store.0.others.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(BELIEVED / 2).await;
    }
    let after = begin(&keys, "good");
    settle().await;
    assert_eq!(store.asked(), 2);
    store.answer(2);
    assert_eq!(before.await.unwrap(), 200);
    assert_eq!(after.await.unwrap(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_when_its_change_is_heard_of() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(10);
    assert_eq!(status(&keys, "good", "app").await, 200);
    // What is heard of others costs one look.
    store.0.heard.fetch_add(1, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(status(&keys, "good", "app").await, 200);
    }
    assert_eq!(store.asked(), 2);
    let at_once = || {
        let naming = Naming::Header(Some("app"));
        keys.known(b"Bearer good", naming, Scope::Proxy, str::to_owned)
    };
    assert_eq!(at_once().as_deref(), Some("app"));
    store.revoke_all();
    store.0.heard.fetch_add(1, Ordering::SeqCst);
    // Those who ask nobody do not believe it, either.
    assert_eq!(at_once(), None);
    assert_eq!(status(&keys, "good", "app").await, 401);
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_of_while_a_key_is_looked_up_counts_against_it() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    let waiting = begin(&keys, "good");
    settle().await;
    // Its row has been read; it is revoked before the answer is here.
    store.0.heard.fetch_add(1, Ordering::SeqCst);
    store.answer(1);
    assert_eq!(waiting.await.unwrap(), 200);
    store.revoke_all();
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 401);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_those_who_are_known_wait_once() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 200);
    tokio::time::advance(BELIEVED).await;
    let began = tokio::time::Instant::now();
    assert_eq!(status(&keys, "good", "app").await, 200);
    assert_eq!(began.elapsed().as_secs(), PROMPT.as_secs());
    // From now on nobody waits, however long it lasts.
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        tokio::time::advance(BELIEVED).await;
        assert_eq!(status(&keys, "good", "app").await, 200);
    }
    assert_eq!(began.elapsed(), 20 * BELIEVED);
    assert_eq!(store.asked(), 2, "one look-up waits for the store");
    // Strangers are not let in.
    let stranger = begin(&keys, "stranger");
    assert_eq!(stranger.await.unwrap(), 504);
    // The key was revoked meanwhile: known as soon as the store is back.
    store.revoke_all();
    store.answer(10);
    settle().await;
    assert_eq!(status(&keys, "good", "app").await, 401);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_once_is_away_for_five_minutes_at_most() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1_000_000);
    assert_eq!(status(&keys, "good", "app").await, 200);
    store.0.broken.store(true, Ordering::SeqCst);
    for _ in 0..299 {
        tokio::time::advance(BELIEVED).await;
        assert_eq!(status(&keys, "good", "app").await, 200);
    }
    tokio::time::advance(BELIEVED).await;
    assert_eq!(status(&keys, "good", "app").await, 503);
}

#[tokio::test(start_paused = true)]
async fn strangers_are_looked_up_by_a_few_at_a_time_and_once_a_second() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(1);
    assert_eq!(status(&keys, "good", "app").await, 200);
    tokio::time::advance(BELIEVED).await;
    let strangers: Vec<_> = (0..2 * WAITING_STRANGERS)
        .map(|number| begin(&keys, &format!("stranger {number}")))
        .collect();
    settle().await;
    // They do not stand in the way of who is known, though none of them was answered.
    let known = begin(&keys, "good");
    settle().await;
    assert_eq!(store.asked(), 1 + STRANGERS + 1);
    // Nor does it make room for more that some leave.
    for stranger in &strangers[..STRANGERS] {
        stranger.abort();
    }
    settle().await;
    assert_eq!(store.asked(), 1 + STRANGERS + 1);
    store.answer(10_000);
    assert_eq!(known.await.unwrap(), 200);
    let mut turned_away = 0;
    for stranger in strangers {
        match stranger.await {
            Ok(503) => turned_away += 1,
            Ok(status) => assert_eq!(status, 401),
            Err(aborted) => assert!(aborted.is_cancelled()),
        }
    }
    assert_eq!(turned_away, WAITING_STRANGERS - STRANGERS);
    assert_eq!(store.0.most_at_a_time.load(Ordering::SeqCst), STRANGERS + 1);
    let asked = store.asked();
    for _ in 0..100 {
        assert_eq!(status(&keys, "stranger 1000", "app").await, 401);
    }
    assert_eq!(store.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_answered_by_its_own_deadline() {
    let (_store, keys) = Slow::keys();
    let header = HeaderValue::from_static("Bearer unknown");
    let deadline = keys.0.clock.now() + Duration::from_secs(3);
    let began = tokio::time::Instant::now();
    let error = keys
        .check(
            Some(&header),
            Naming::Header(Some("app")),
            Scope::Proxy,
            deadline,
        )
        .await
        .unwrap_err();
    assert_eq!(
        (error.status().as_u16(), began.elapsed().as_secs()),
        (504, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_of_another_application_is_refused_in_the_words_for_a_key_of_nobody() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(10);
    let said = async |key: &str| {
        let header = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
        let refused = keys
            .check(
                Some(&header),
                Naming::Header(Some("other")),
                Scope::Proxy,
                keys.patience(),
            )
            .await;
        refused.unwrap_err().into_response().into_body()
    };
    assert_eq!(said("good").await, said("unknown").await);
    assert_eq!(said("good").await, said("unknown").await);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_good_for_its_scopes_only() {
    let (store, keys) = Slow::keys();
    for (place, scopes) in ["proxy", "vault", "token", "", "proxy vault token"]
        .iter()
        .enumerate()
    {
        store.add_for(&place.to_string(), "app", scopes, None);
        store.answer(10);
        for scope in Scope::ALL {
            let good = scopes.parse::<Scopes>().unwrap().contains(scope);
            let expected = if good { 200 } else { 403 };
            // By asking, and from memory.
            for _ in 0..2 {
                let got = status_for(&keys, &place.to_string(), "app", scope).await;
                assert_eq!(got, expected, "{scopes} for {scope}");
            }
            // Whose key it is, another application does not learn from its scopes.
            let got = status_for(&keys, &place.to_string(), "other", scope).await;
            assert_eq!(got, 401);
        }
    }
    let refused = ApiError::missing_scope(Scope::Vault, Scopes::from_iter([Scope::Proxy]));
    assert_eq!(refused.message(), "The API key lacks the scope `vault`");
    let body = String::from_utf8(refused.into_response().into_body().to_vec()).unwrap();
    assert!(body.contains("--scopes proxy,vault"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_key_expires_at_its_time_though_the_store_is_away() {
    let (store, keys) = Slow::keys();
    store.add_for("brief", "app", "proxy", Some(Duration::from_secs(30)));
    store.add_for("old", "app", "proxy", Some(Duration::ZERO));
    store.answer(2);
    assert_eq!(status(&keys, "old", "app").await, 401);
    assert_eq!(status(&keys, "brief", "app").await, 200);
    // From here on the store answers nobody.
    for _ in 0..28 {
        tokio::time::advance(BELIEVED).await;
        assert_eq!(status(&keys, "brief", "app").await, 200);
    }
    tokio::time::advance(2 * BELIEVED).await;
    assert_eq!(status(&keys, "brief", "app").await, 401);
    assert_eq!(status(&keys, "brief", "app").await, 401);
    let header = HeaderValue::from_static("Bearer brief");
    let naming = Naming::Key(None);
    let refused = keys.check(Some(&header), naming, Scope::Proxy, keys.patience());
    let body = refused.await.unwrap_err().into_response().into_body();
    assert!(String::from_utf8_lossy(&body).contains("has expired"));
}

#[tokio::test(start_paused = true)]
async fn a_key_stops_in_the_midst_of_the_second_for_which_it_is_believed() {
    let (store, keys) = Slow::keys();
    store.add_for("brief", "app", "proxy", Some(BELIEVED / 2));
    store.answer(1);
    assert_eq!(status(&keys, "brief", "app").await, 200);
    tokio::time::advance(BELIEVED / 2).await;
    assert_eq!(status(&keys, "brief", "app").await, 401);
    assert_eq!(store.asked(), 1, "nobody had to be asked");
}

#[tokio::test(start_paused = true)]
async fn a_key_names_its_application_where_no_header_does() {
    let (store, keys) = Slow::keys();
    store.add("good", "app");
    store.answer(10);
    let header = HeaderValue::from_static("Bearer good");
    let check = async |naming| {
        let checked = keys.check(Some(&header), naming, Scope::Proxy, keys.patience());
        checked.await.map_err(|error| error.status().as_u16())
    };
    assert_eq!(check(Naming::Key(None)).await, Ok("app".into()));
    assert_eq!(check(Naming::Key(Some("app"))).await, Ok("app".into()));
    assert_eq!(check(Naming::Key(Some("other"))).await, Err(401));
    assert_eq!(check(Naming::Header(None)).await, Err(400));
}

#[tokio::test(start_paused = true)]
async fn that_keys_were_used_is_said_in_batches_once_a_minute() {
    let (store, keys) = Slow::keys();
    store.add("one", "app");
    store.add("two", "app");
    store.answer(1_000_000);
    let used = || {
        let mut batches = std::mem::take(&mut *locked(&store.0.used));
        batches.iter_mut().for_each(|batch| batch.sort_unstable());
        batches
    };
    let mut both = vec![key_digest(b"one"), key_digest(b"two")];
    both.sort_unstable();
    // For some minutes, each second; a key that does not exist is nobody's.
    for minute in 0..3 {
        for _ in 0..60 {
            for key in ["one", "two"] {
                assert_eq!(status(&keys, key, "app").await, 200);
            }
            assert_eq!(status(&keys, "stranger", "app").await, 401);
            tokio::time::sleep(BELIEVED).await;
        }
        // What the store does not take is let go.
        store.0.broken.store(false, Ordering::SeqCst);
        assert_eq!(used(), [both.clone()], "minute {minute}");
    }
    // Nobody shows them, nothing is said.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(used().is_empty());
    assert_eq!(status(&keys, "one", "app").await, 200);
    tokio::time::sleep(BELIEVED).await;
    assert!(used().is_empty(), "others are waited for");
    tokio::time::sleep(2 * BELIEVED).await;
    assert_eq!(used(), [vec![key_digest(b"one")]]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_with_its_worker_is_followed_by_another() {
    let (store, keys) = Slow::keys();
    store.add("one", "app");
    store.add("two", "app");
    store.answer(10);
    let brief = std::thread::spawn({
        let keys = keys.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(status(&keys, "one", "app"))
        }
    });
    assert_eq!(brief.join().unwrap(), 200);
    assert_eq!(status(&keys, "two", "app").await, 200);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let batches = std::mem::take(&mut *locked(&store.0.used));
    assert_eq!(batches, [[key_digest(b"one"), key_digest(b"two")]]);
}
