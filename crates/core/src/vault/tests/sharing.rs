//! One refresh for all who ask.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_cause_one_refresh() {
    let world = World::new("revokes").await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(580).await;
    for result in tokens_at_once(&world.vault, &world.key, 1000).await {
        assert_eq!(result.unwrap().secret().expose(), "at-2");
    }
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
    // Nobody waited for longer than the provider took.
    assert!(world.clock.now() < Moment(Duration::from_secs(581)));
    // They waited for one flight; the claim in the store had nobody to keep apart.
    assert_eq!(world.vault.inner.flights.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn processes_on_one_store_cause_one_refresh() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let others = [
        world.vault.clone(),
        world.other().await,
        world.other().await,
    ];
    let tasks = TaskTracker::new();
    let handles: Vec<_> = others
        .into_iter()
        .map(|vault| {
            let key = world.key.clone();
            tasks.spawn(async move { tokens_at_once(&vault, &key, 50).await })
        })
        .collect();
    for handle in handles {
        for result in handle.await.unwrap() {
            assert_eq!(result.unwrap().secret().expose(), "at-2");
        }
    }
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_extended_while_the_provider_thinks() {
    let world = World::new("harmless").await;
    world.pass(700).await;
    // More than twice a claim's length: whoever took over would send a second time.
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(50))];
    let other = world.other().await;
    let _ = tokio::join!(world.vault.token(&world.key), async {
        for _ in 0..3 {
            let _ = other.token(&world.key).await;
        }
    });
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_does_not_wait_for_a_refresh_under_way() {
    let world = World::new("harmless").await;
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(20))];
    let (forced, ()) = tokio::join!(world.vault.validate(&world.key), async {
        world.pass(1).await;
        let before = world.clock.now();
        assert_eq!(world.token().await.unwrap(), "at-1");
        assert_eq!(world.clock.now(), before);
    });
    assert_eq!(forced.unwrap().version(), 2);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_cancel_nothing() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    for _ in 0..5 {
        let _ = tokio::time::timeout(Duration::from_millis(20), world.token()).await;
    }
    world.pass(1).await;
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_connections_on_one_grant_share_its_refresh() {
    let world = World::new("revokes").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    // The same refresh token imported again is the same grant.
    world.import(&second, "1").await;
    world.pass(700).await;
    assert_eq!(
        world.vault.token(&second).await.unwrap().secret().expose(),
        "at-2"
    );
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
    // Deleting one leaves the grant to the other; deleting both revokes it.
    world.vault.delete(&second).await.unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 0);
    world.vault.delete(&world.key).await.unwrap();
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
    assert!(matches!(
        world.token().await,
        Err(TokenError::UnknownConnection(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn validate_joins_what_is_under_way_and_forces_otherwise() {
    let world = World::new("revokes").await;
    let (a, b) = tokio::join!(
        world.vault.validate(&world.key),
        world.vault.validate(&world.key)
    );
    assert_eq!((a.unwrap().version(), b.unwrap().version()), (2, 2));
    assert_eq!(world.refreshes(), 1);
    world.vault.validate(&world.key).await.unwrap();
    assert_eq!(world.refreshes(), 2);
    // What another process did before we asked does not count as ours.
    let other = world.other().await;
    other.validate(&world.key).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    assert_eq!(world.refreshes(), 4);
}
