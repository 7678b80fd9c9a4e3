//! A granted token while the store is down.

use super::*;

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
