//! A granted token while the store is down.

use super::*;
use crate::store::Change;

/// Found by the simulator: a flight tidied the spool before it published what it had committed.
#[tokio::test(start_paused = true)]
async fn what_is_committed_is_served_before_the_spool_is_tidied() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let parts = VaultParts {
        spool: Arc::new(SlowSpool(world.clock.clone())),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let (token, ()) = tokio::join!(vault.token(&world.key), async {
        world.clock.sleep(Duration::from_secs(1)).await;
        world.store.set_down(false);
    });
    assert_eq!(token.unwrap().version(), 2);
    assert!(world.clock.now() < Moment(Duration::from_secs(700 + 30)));
}

/// A disk that takes a minute to forget an entry.
#[derive(Debug)]
struct SlowSpool(Arc<dyn Clock>);

#[async_trait]
impl Spool for SlowSpool {
    async fn put(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    async fn entries(&self) -> Result<Vec<crate::spool::Spooled>, String> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<(), String> {
        self.0.sleep(Duration::from_secs(60)).await;
        Ok(())
    }
    async fn set_aside(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_dies_during_the_refresh_loses_nothing() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    world.token().await.unwrap();
    world.pass(700).await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let (token, ()) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_secs(3)).await;
        world.store.set_down(false);
    });
    assert_eq!(token.unwrap(), "at-3");
    // It was served from the spool. The store has it soon, without anybody's asking.
    world.pass(3).await;
    let other = world.other().await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 3);
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_spool_is_adopted_by_the_next_start() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let _ = tokio::time::timeout(Duration::from_secs(2), world.token()).await;
    let spooled: Vec<_> = std::fs::read_dir(&world.spool.0).unwrap().collect();
    assert_eq!(spooled.len(), 1);
    // This process "dies": its flight is never heard of again.
    let files: Vec<_> = spooled
        .into_iter()
        .map(|entry| entry.unwrap().path())
        .collect();
    let copy = std::fs::read(&files[0]).unwrap();
    assert!(!copy.windows(4).any(|bytes| bytes == b"rt-2"));
    world.store.set_down(false);
    let next = world.other().await;
    assert_eq!(next.adopt_spool().await, 0);
    assert_eq!(
        next.token(&world.key).await.unwrap().secret().expose(),
        "at-2"
    );
    assert_eq!(world.refreshes(), 1);
    // A corrupt entry is put aside, not lost, and harms nobody.
    std::fs::write(world.spool.0.join("x.spooled"), b"garbage").unwrap();
    assert_eq!(next.adopt_spool().await, 0);
    assert!(world.spool.0.join("x.unreadable").exists());
}

/// When a store comes back after longer than a claim, the next owner's claim may be written before
/// the first owner tries again to save its answer.
#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_the_store_comes_before_the_next_owners_request() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let other = world.other().await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let (_, second) = tokio::join!(world.token(), async {
        world.pass(30).await;
        world.store.set_down(false);
        other.token(&world.key).await
    });
    assert_eq!(second.unwrap().secret().expose(), "at-2");
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
}

/// The same, while others change the grant's connections all the time.
#[tokio::test(start_paused = true)]
async fn word_of_changes_does_not_shorten_the_moment_that_the_last_owner_is_left() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let other = world.other().await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    let changes = async {
        world.pass(30).await;
        for _ in 0..500 {
            world.clock.sleep(Duration::from_millis(10)).await;
            for (_, entry) in &other.inner.grants.pin() {
                entry.changed.notify_waiters();
            }
        }
    };
    let (_, second, ()) = tokio::join!(
        world.token(),
        async {
            world.pass(30).await;
            world.store.set_down(false);
            other.token(&world.key).await
        },
        changes
    );
    assert_eq!(second.unwrap().secret().expose(), "at-2");
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
}

/// What a process leaves behind that is killed while the store neither takes the answer nor says so.
#[tokio::test(start_paused = true)]
async fn an_answer_is_in_the_spool_soon_after_it_came_while_the_store_hangs() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let latency = world.provider.latency;
    let waiting = tokio::time::timeout(latency + Duration::from_millis(150), async {
        // The claim is taken, the answer comes, and the commit hangs.
        let (token, ()) = tokio::join!(world.token(), async {
            world.clock.sleep(latency / 2).await;
            world.store.set_silent(true);
        });
        token
    });
    // What is durable is served, too: its own process need not wait for the store.
    assert_eq!(waiting.await.unwrap().unwrap(), "at-2");
    let spooled = std::fs::read_dir(&world.spool.0).unwrap().count();
    assert_eq!(spooled, 1);
    // Those who come later find it in memory.
    assert_eq!(world.token().await.unwrap(), "at-2");
    // The next start has it; the same answer, saved twice, is one version.
    let next = world.other().await;
    world.store.set_silent(false);
    assert_eq!(next.adopt_spool().await, 0);
    world.pass(1).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(next.token(&world.key).await.unwrap().version(), 2);
    assert_eq!(world.refreshes(), 1);
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_spool_serves_all_callers_of_its_process_through_an_outage() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    world.provider.store_dies.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        let asked = world.clock.now();
        for token in tokens_at_once(&world.vault, &world.key, 5).await {
            assert_eq!(token.unwrap().secret().expose(), "at-2");
        }
        // Nobody waits for the store, not even those who wait for the refresh itself.
        assert!(asked.until(world.clock.now()) < Duration::from_secs(1));
        world.pass(3).await;
    }
    // A forced refresh needs the store: it is not given what was granted before it asked.
    let forced = world.vault.validate(&world.key).await;
    assert!(
        matches!(forced, Err(TokenError::DeadlineExceeded { .. })),
        "{forced:?}"
    );
    world.store.set_down(false);
    world.pass(2).await;
    assert_eq!(world.vault.validate(&world.key).await.unwrap().version(), 3);
    assert_eq!(world.refreshes(), 2);
}

/// Who re-authorizes elsewhere meanwhile is right, although the version's number is the same.
#[tokio::test(start_paused = true)]
async fn what_was_served_from_the_spool_gives_way_to_what_the_store_has_taken_instead() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let other = world.other().await;
    let latency = world.provider.latency;
    let (served, ()) = tokio::join!(world.token(), async {
        world.clock.sleep(latency / 2).await;
        world.store.set_silent(true);
        world.clock.sleep(latency).await;
        let import = Import {
            access_token: Some(Secret::new("at-new")),
            refresh_token: Some(Secret::new("rt-new")),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        other.import(&world.key, import).await.unwrap();
    });
    assert_eq!(served.unwrap(), "at-2");
    world.store.set_silent(false);
    world.pass(1).await;
    assert_eq!(world.token().await.unwrap(), "at-new");
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
}

/// Found by the simulator: who asks for a refresh after a person has authorized anew is not given that
/// authorization, because a flight from before it has spooled what is void.
#[tokio::test(start_paused = true)]
async fn what_is_void_in_the_spool_satisfies_nobody_who_asked_later() {
    let world = World::new("revokes").await;
    let (other, latency) = (world.other().await, world.provider.latency);
    let grant = world
        .vault
        .resolve(&world.key)
        .await
        .unwrap()
        .grant
        .id
        .clone();
    let later = async {
        world.clock.sleep(latency * 3 / 4).await;
        *lock(&world.provider.current) = 9;
        let import = Import {
            access_token: Some(Secret::new("at-9")),
            refresh_token: Some(Secret::new("rt-9")),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        other.import(&world.key, import).await.unwrap();
        let news = async {
            // This process hears of it after the question, and before the answer is spooled.
            world.clock.sleep(latency / 8).await;
            world.vault.apply(&[Change::Grant(grant, 2)]).await;
            world.store.set_silent(true);
            world.clock.sleep(Duration::from_secs(1)).await;
            world.store.set_silent(false);
        };
        tokio::join!(world.vault.validate(&world.key), news).0
    };
    let (first, later) = tokio::join!(world.vault.validate(&world.key), later);
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(later.unwrap().version(), 3);
    assert_eq!(world.refreshes(), 2);
}

/// An answer that has arrived, and the time limits of the connection, do not wait for the claim's
/// extension.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_at_the_claims_extension_does_not_keep_the_answer_waiting() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(10))];
    let begun = world.clock.now();
    let (token, ()) = tokio::join!(world.token(), async {
        world.pass(5).await;
        world.store.set_silent(true);
    });
    assert_eq!(token.unwrap(), "at-2");
    // The provider's time, the pause before the spool, and no more.
    let took = begun.until(world.clock.now());
    assert!(took < Duration::from_secs(11), "{took:?}");
}

/// Counts what is read of it.
#[derive(Debug)]
struct Counted(FolderSpool, AtomicUsize);

#[async_trait]
impl Spool for Counted {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        self.0.put(name, bytes).await
    }
    async fn entries(&self) -> Result<Vec<crate::spool::Spooled>, String> {
        let entries = self.0.entries().await?;
        self.1.fetch_add(entries.len(), Ordering::SeqCst);
        Ok(entries)
    }
    async fn remove(&self, name: &str) -> Result<(), String> {
        self.0.remove(name).await
    }
    async fn set_aside(&self, name: &str) -> Result<(), String> {
        self.0.set_aside(name).await
    }
}

#[tokio::test(start_paused = true)]
async fn to_count_what_waits_nothing_is_read() {
    let world = World::new("harmless").await;
    let provider = Arc::new(herd::Generous::new(&world.clock));
    let spool = Arc::new(Counted(
        FolderSpool::new(&world.spool.0),
        AtomicUsize::new(0),
    ));
    let parts = VaultParts {
        transport: provider,
        spool: spool.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    let mut keys = Vec::new();
    for number in 2..30 {
        let key = ConnectionKey::new("app", format!("c{number}"), "crm", "acme");
        world.import(&key, &number.to_string()).await;
        keys.push(key);
    }
    world.pass(700).await;
    let tasks = TaskTracker::new();
    let callers: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let vault = vault.clone();
            tasks.spawn(async move { vault.token(&key).await.map(|token| token.version()) })
        })
        .collect();
    world.clock.sleep(Duration::from_millis(100)).await;
    world.store.set_silent(true);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 2);
    }
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 28);
    world.store.set_silent(false);
    world.pass(2).await;
    assert_eq!(std::fs::read_dir(&world.spool.0).unwrap().count(), 0);
    assert_eq!(spool.1.load(Ordering::SeqCst), 0);
}
