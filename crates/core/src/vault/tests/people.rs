//! Authorizations and deletes, also while a refresh is under way.

use super::*;
use crate::store::disturbed::Disturbed;

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

/// A store that takes its time to say what it has done.
#[derive(Debug)]
struct Slow {
    store: Arc<MemoryStore>,
    slow: AtomicBool,
}

#[async_trait]
impl Disturbed for Slow {
    fn truth(&self) -> &MemoryStore {
        &self.store
    }

    async fn before(&self) {}

    async fn after(&self) {
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The caller leaves while the store has not answered yet. Nothing but the act itself tells this process
/// of what was changed: its upkeep does not run.
#[tokio::test(start_paused = true)]
async fn whatever_changes_a_connection_goes_on_without_its_caller() {
    let world = World::new("revokes").await;
    let store = Arc::new(Slow {
        store: world.store.clone(),
        slow: AtomicBool::new(false),
    });
    let parts = VaultParts {
        store: store.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    let import = |number: u64| Import {
        access_token: Some(Secret::new(format!("at-{number}"))),
        refresh_token: Some(Secret::new(format!("rt-{number}"))),
        issued_at_ms: Some(i64::MAX),
        expires_in: Some(Duration::from_secs(600)),
        ..Import::default()
    };
    let enabled = |enabled| ConnectionPatch {
        enabled: Some(enabled),
        ..ConnectionPatch::default()
    };
    let token = async |key: &ConnectionKey| {
        let held = vault.token(key).await?;
        Ok::<_, TokenError>(held.secret().expose().to_owned())
    };
    let other = ConnectionKey::new("app", "other", "crm", "acme");
    vault.import(&other, import(8)).await.unwrap();
    assert_eq!(token(&world.key).await.unwrap(), "at-1");
    assert_eq!(token(&other).await.unwrap(), "at-8");

    macro_rules! left {
        ($after_ms:literal, $act:expr) => {
            store.slow.store(true, Ordering::SeqCst);
            let left = tokio::time::timeout(Duration::from_millis($after_ms), $act).await;
            assert!(left.is_err());
            world.pass(5).await;
            store.slow.store(false, Ordering::SeqCst);
        };
    }

    left!(100, vault.update(&world.key, enabled(false)));
    let error = token(&world.key).await.unwrap_err();
    assert!(matches!(error, TokenError::Disabled(_)), "{error}");
    vault.update(&world.key, enabled(true)).await.unwrap();

    left!(100, vault.import(&world.key, import(7)));
    assert_eq!(token(&world.key).await.unwrap(), "at-7");

    // The first answer is about the other connection.
    left!(300, vault.link(&other, &world.key, enabled(true)));
    assert_eq!(token(&other).await.unwrap(), "at-7");

    left!(100, vault.delete(&world.key));
    let error = token(&world.key).await.unwrap_err();
    assert!(matches!(error, TokenError::UnknownConnection(_)), "{error}");
    assert_eq!(token(&other).await.unwrap(), "at-7");
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
