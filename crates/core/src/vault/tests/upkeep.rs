//! What happens without a caller.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_grant_is_kept_alive() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    // Unused for four hours it would die: half of that, a tenth more or less.
    world.pass(6000).await;
    assert_eq!(world.refreshes(), 0);
    world.pass(3000).await;
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn grants_in_use_are_refreshed_before_anybody_waits() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    for expected in ["at-1", "at-2", "at-3"] {
        // Well inside the token's life it is served from memory.
        assert_eq!(world.token().await.unwrap(), expected);
        world.pass(565).await;
        world.pass(10).await;
    }
    assert!(world.refreshes() >= 3);
    // Nobody asks any more: it rests.
    let before = world.refreshes();
    world.pass(6000).await;
    assert!(world.refreshes() <= before + 1);
    assert!(world.vault.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn other_processes_hear_of_changes() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    other.start_upkeep();
    // The first look forgets every copy; from the second one on it hears what has changed.
    world.pass(1).await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 1);
    world.vault.validate(&world.key).await.unwrap();
    world.pass(1).await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    world
        .vault
        .update(
            &world.key,
            ConnectionPatch {
                enabled: Some(false),
                ..ConnectionPatch::default()
            },
        )
        .await
        .unwrap();
    world.pass(1).await;
    assert!(matches!(
        other.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
    assert!(matches!(
        world.vault.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn the_next_try_after_a_failure_needs_no_caller() {
    let world = World::new("harmless").await;
    world.vault.start_upkeep();
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    // The old token lives and is served, also to one who comes before the next try.
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.clock.sleep(Duration::from_millis(300)).await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(3).await;
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.token().await.unwrap(), "at-2");
}
