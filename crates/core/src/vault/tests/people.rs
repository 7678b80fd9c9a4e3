//! Authorizations and deletes, also while a refresh is under way.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_new_authorization_revives_a_dead_grant() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Refuse];
    assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    *lock(&world.provider.current) = 9;
    world.import(&world.key, "9").await;
    assert_eq!(world.token().await.unwrap(), "at-9");
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-10");
}

#[tokio::test(start_paused = true)]
async fn a_dead_login_imported_elsewhere_lives_again_for_all() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Refuse];
    assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "1").await;
    assert_eq!(world.vault.token(&second).await.unwrap().version(), 2);
    assert_eq!(world.token().await.unwrap(), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_delete_in_flight_wins_and_its_answer_is_revoked() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    let (token, deleted) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(100)).await;
        world.vault.delete(&world.key).await
    });
    deleted.unwrap();
    assert!(token.is_err());
    world.pass(1).await;
    // Once for the deleted grant, once for the late answer.
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 2);
    assert!(matches!(
        world.token().await,
        Err(TokenError::UnknownConnection(_))
    ));
}

/// Found by the simulator: the flight revoked its void answer before it adopted the version that
/// it knew of, and callers were served the old token meanwhile.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_revocation_of_a_void_answer() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    let (validated, ()) = tokio::join!(world.vault.validate(&world.key), async {
        world.clock.sleep(Duration::from_millis(150)).await;
        let import = Import {
            access_token: Some(Secret::new("at-9")),
            refresh_token: Some(Secret::new("rt-9")),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(600)),
            ..Import::default()
        };
        other.import(&world.key, import).await.unwrap();
        // The late answer has come at 200 ms; its revocation is under way.
        world.clock.sleep(Duration::from_millis(60)).await;
        assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 0);
        assert_eq!(world.token().await.unwrap(), "at-9");
    });
    assert_eq!(validated.unwrap().version(), 2);
    world.pass(1).await;
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
}

/// Found by the simulator: where a revocation ends all that a user has granted, the late answer
/// to a refresh of a deleted grant took the user's new authorization with it.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_deleted_grant_spares_the_users_new_one() {
    let world = World::user_scoped().await;
    world.pass(700).await;
    let (_, ()) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(50)).await;
        world.vault.delete(&world.key).await.unwrap();
        world.import(&world.key, "9").await;
    });
    world.pass(1).await;
    // The deletion's own revocation, and none for the answer that came after it.
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
    assert_eq!(world.token().await.unwrap(), "at-9");
}

#[tokio::test(start_paused = true)]
async fn a_delete_whose_caller_leaves_revokes_all_the_same() {
    let world = World::new("revokes").await;
    // The provider takes 30 ms for a revocation; the caller leaves before.
    let delete = world.vault.delete(&world.key);
    let left = tokio::time::timeout(Duration::from_millis(10), delete).await;
    assert!(left.is_err());
    world.pass(1).await;
    assert_eq!(world.provider.revocations.load(Ordering::SeqCst), 1);
    assert!(world.vault.drain(Duration::from_secs(1)).await);
}

/// Sending it would have the provider revoke the living token, and the connections that use it.
#[tokio::test(start_paused = true)]
async fn an_old_export_is_refused_and_the_living_grant_stays() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    let export = || Import {
        access_token: Some(Secret::new("at-1")),
        refresh_token: Some(Secret::new("rt-1")),
        ..Import::default()
    };
    let other = ConnectionKey::new("app", "other", "crm", "acme");
    for key in [&world.key, &other] {
        let refused = world.vault.import(key, export()).await.unwrap_err();
        let AdminError::ReplacedToken { holder, .. } = &refused else {
            panic!("not recognised: {refused}");
        };
        assert!(holder.contains(&world.key.to_string()), "{refused}");
    }
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
    assert_eq!(world.refreshes(), 2);
}
