//! What the API says of a token.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_burst_of_rejections_is_one_refresh_and_no_loop() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let token = world.vault.token(&world.key).await.unwrap();
    let wait = Duration::from_secs(28);
    let (a, b) = tokio::join!(
        world.vault.rejected(&resolved, &token, wait),
        world.vault.rejected(&resolved, &token, wait)
    );
    assert_eq!(
        (a.unwrap().unwrap().version(), b.unwrap().unwrap().version()),
        (2, 2)
    );
    // A late report about the old token gets the new one.
    let again = world
        .vault
        .rejected(&resolved, &token, wait)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((again.version(), world.refreshes()), (2, 1));
    // The new token is too young to have expired: the API's answer stands.
    assert!(
        world
            .vault
            .rejected(&resolved, &again, wait)
            .await
            .unwrap()
            .is_none()
    );
    world.pass(60).await;
    assert_eq!(
        world
            .vault
            .rejected(&resolved, &again, wait)
            .await
            .unwrap()
            .unwrap()
            .version(),
        3
    );
}

/// Found by the model checker (crates/proof): the 401 counted against the newest version.
#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_sends_no_spent_token() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let old = world.vault.token(&world.key).await.unwrap();
    world.pass(580).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    // The answer to the next refresh is lost while `at-2` has 20 s left.
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::Lose];
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.pass(5).await;
    let wait = Duration::from_secs(5);
    let token = world.vault.rejected(&resolved, &old, wait).await.unwrap();
    assert_eq!(token.unwrap().secret().expose(), "at-2");
    assert_eq!(world.provider.replays.load(Ordering::SeqCst), 0);
}
