//! Memory holds copies only: they may be lost, late or old.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_memory_forgets_the_store_still_knows() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.vault.forget_all();
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_memory_forgets_during_its_refresh_is_not_refreshed_twice() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let (before, after) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(50)).await;
        world.vault.forget_all();
        world.token().await
    });
    assert_eq!((&*before.unwrap(), &*after.unwrap()), ("at-2", "at-2"));
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_lags_takes_nothing_back() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let asked = world.clock.now();
    let lagging = world.store.grant(resolved.grant_id()).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    let row = lagging.value.unwrap();
    let inner = &world.vault.inner;
    inner
        .adopt(&resolved.grant, &row, lagging.at, asked)
        .unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_is_compared_with_the_store_before_anything_is_sent() {
    let world = World::new("revokes").await;
    // Without upkeep it does not hear of what others do.
    let other = world.other().await;
    let resolved = other.resolve(&world.key).await.unwrap();
    let old = other.token(&world.key).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    let newer = other.rejected(&resolved, &old, wait).await.unwrap();
    assert_eq!(newer.unwrap().version(), 2);
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
    assert_eq!(other.token(&world.key).await.unwrap().version(), 3);
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_outlives_its_copy_is_seen_by_those_who_ask_the_new_one() {
    let world = World::new("revokes").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    // A forced refresh is under way, and all copies are forgotten; the old token is read again.
    let (vault, key) = (world.vault.clone(), world.key.clone());
    let forced = TaskTracker::new().spawn(async move { vault.validate(&key).await });
    world.clock.sleep(Duration::from_millis(100)).await;
    world.vault.forget_all();
    assert_eq!(world.token().await.unwrap(), "at-1");
    let token = forced.await.unwrap().unwrap();
    assert_eq!(token.secret().expose(), "at-2");
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_that_has_died_meanwhile_is_served_to_nobody() {
    let world = World::new("refused").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.pass(700).await;
    // Another process's refresh, unheard of here until it is over; then the provider is away.
    let other = world.other().await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    world.pass(700).await;
    *lock(&world.provider.acts) = (0..9).map(|_| Act::NotSent).collect();
    let answer = world.token().await;
    assert!(
        matches!(answer, Err(TokenError::Failed { .. })),
        "{answer:?}"
    );
    assert!(lock(&world.provider.acts).len() < 7, "it was tried again");
    lock(&world.provider.acts).clear();
    world.pass(60).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
}
