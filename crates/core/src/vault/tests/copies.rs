//! Memory holds copies only: they may be lost, late or old.

use super::*;
use crate::store::Change;

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
    assert_eq!(resolved.grant.snapshot().version, 2);
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
    *lock(&world.provider.acts) = vec![Act::NotSent; 99];
    let answer = world.token().await;
    assert!(
        matches!(
            answer,
            Err(TokenError::Failed { .. } | TokenError::Paused { .. })
        ),
        "{answer:?}"
    );
    assert!(lock(&world.provider.acts).len() < 97, "it was tried again");
    lock(&world.provider.acts).clear();
    world.pass(60).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
}

/// Of a connection's grant at a version, as the feed tells it.
async fn told(world: &World, key: &ConnectionKey, version: u64) -> Change {
    let connection = world.store.connection(key).await.unwrap().unwrap();
    Change::Grant(connection.grant.unwrap(), version)
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_read_concerns_its_own_grant_only() {
    let world = World::new("harmless").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.vault.token(&second).await.unwrap();
    // Another process authorizes the second one anew, and the store is away when this one is told.
    let (other, renewed) = (world.other().await, Secret::new("at-78"));
    let import = Import {
        access_token: Some(renewed.clone()),
        ..Import::default()
    };
    other.import(&second, import).await.unwrap();
    let change = told(&world, &second, 2).await;
    world.store.set_down(true);
    world.vault.apply(&[change]).await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    let answer = world.vault.token(&second).await;
    assert!(matches!(answer, Err(TokenError::Store(_))), "{answer:?}");
    world.store.set_down(false);
    assert_eq!(world.vault.token(&second).await.unwrap().secret(), renewed);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_what_is_in_memory_is_confirmed_and_served_on_without_the_store() {
    let world = World::new("harmless").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    let (vault, store) = hanging::process(&world).await;
    for key in [&world.key, &second] {
        vault.token(key).await.unwrap();
    }
    // Unheard of here: one is switched off, the other one is refreshed.
    let off = ConnectionPatch {
        enabled: Some(false),
        ..ConnectionPatch::default()
    };
    world.vault.update(&second, off).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    vault.doubt_all();
    store.hangs.store(true, Ordering::SeqCst);
    let before = world.clock.now();
    for _ in 0..100 {
        for key in [&world.key, &second] {
            assert_eq!(vault.token(key).await.unwrap().version(), 1);
        }
    }
    // The first one has waited for the store, the others have not.
    assert_eq!(before.until(world.clock.now()), Duration::from_secs(1));
    store.hangs.store(false, Ordering::SeqCst);
    world.pass(2).await;
    assert_eq!(vault.token(&world.key).await.unwrap().version(), 2);
    let answer = vault.token(&second).await;
    assert!(matches!(answer, Err(TokenError::Disabled(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_tells_of_changes_is_not_away() {
    let world = World::new("harmless").await;
    let (vault, store) = hanging::process(&world).await;
    vault.token(&world.key).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    vault.doubt_all();
    store.hangs.store(true, Ordering::SeqCst);
    assert_eq!(vault.token(&world.key).await.unwrap().version(), 1);
    // One question was in vain. The next poll of the feed is not.
    store.hangs.store(false, Ordering::SeqCst);
    tokio::select! {
        () = vault.clone().follow_changes() => {}
        () = world.clock.sleep(Duration::from_millis(10)) => {}
    }
    assert_eq!(vault.token(&world.key).await.unwrap().version(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_does_not_open_concerns_its_own_grant_only() {
    let world = World::new("harmless").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.vault.token(&second).await.unwrap();
    // Another process has a newer key, and seals with it.
    let newer = Key::generate();
    let both = Keyring::new(vec![newer.clone(), world.keyring.active().clone()]).unwrap();
    let parts = VaultParts {
        keyring: both.clone(),
        ..world.parts()
    };
    Vault::open(parts)
        .await
        .unwrap()
        .validate(&world.key)
        .await
        .unwrap();
    let change = told(&world, &world.key, 2).await;
    world.vault.apply(&[change]).await;
    let answer = world.token().await;
    assert!(matches!(answer, Err(TokenError::Seal(_))), "{answer:?}");
    assert_eq!(world.vault.token(&second).await.unwrap().version(), 1);
    // It says which key it lacks, and goes on without a restart once that is there.
    let missing: Vec<_> = world.vault.missing_keys().into_iter().collect();
    assert_eq!(missing, [newer.id().clone()]);
    tokio::time::timeout(Duration::from_secs(1), world.vault.key_missing())
        .await
        .unwrap();
    world.vault.reload_keys(both).await.unwrap();
    assert!(world.vault.missing_keys().is_empty());
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}
