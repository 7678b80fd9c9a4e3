//! What is kept in memory has bounds.

use super::*;

/// What is in memory: grants and connections.
fn kept(vault: &Vault) -> (usize, usize) {
    (vault.inner.grants.len(), vault.inner.connections.len())
}

async fn small(world: &World, cached_grants: usize) -> (Vault, Vec<ConnectionKey>) {
    let config = VaultConfig {
        cached_grants,
        ..VaultConfig::default()
    };
    let parts = VaultParts {
        config,
        ..world.parts()
    };
    let mut keys = Vec::new();
    for number in 0..10 * cached_grants {
        let key = ConnectionKey::new("app", format!("c-{number}"), "crm", "acme");
        world.import(&key, &format!("of-{number}")).await;
        keys.push(key);
    }
    (Vault::open(parts).await.unwrap(), keys)
}

#[tokio::test(start_paused = true)]
async fn grants_that_nobody_uses_make_room_for_others() {
    let world = World::new("revokes").await;
    let (vault, keys) = small(&world, 32).await;
    let mut used = vault.resolve(&keys[0]).await.unwrap();
    for (number, key) in keys.iter().enumerate() {
        // Until they are looked through for the first time all are as new as any.
        if number == 64 {
            used = vault.resolve(&keys[0]).await.unwrap();
        }
        vault.token(&keys[0]).await.unwrap();
        vault.token(key).await.unwrap();
        // The cache is looked through beside the callers.
        tokio::task::yield_now().await;
        let (grants, connections) = kept(&vault);
        assert!(grants <= 33 && connections <= 33, "{grants}, {connections}");
    }
    // The one in use has stayed all the time.
    assert!(Arc::ptr_eq(&used, &vault.resolve(&keys[0]).await.unwrap()));
    // What was forgotten is read again, and nothing was refreshed for it.
    for key in &keys {
        assert_eq!(vault.token(key).await.unwrap().version(), 1);
    }
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_with_a_refresh_under_way_stays_in_memory() {
    let world = World::new("revokes").await;
    let (vault, keys) = small(&world, 32).await;
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(20))];
    let (forced, ()) = tokio::join!(vault.validate(&world.key), async {
        world.pass(1).await;
        let flown = vault.resolve(&world.key).await.unwrap();
        for key in &keys {
            vault.token(key).await.unwrap();
            tokio::task::yield_now().await;
        }
        let present = vault.inner.grants.pin().get(flown.grant_id()).cloned();
        assert!(present.is_some_and(|present| Arc::ptr_eq(&present, &flown.grant)));
    });
    assert_eq!(forced.unwrap().version(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_hears_of_its_grant() {
    let world = World::new("revokes").await;
    let (vault, keys) = small(&world, 32).await;
    for key in &keys {
        vault.token(key).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (grants, connections) = (vault.inner.grants.pin(), vault.inner.connections.pin());
    assert!(!connections.is_empty());
    for resolved in connections.values() {
        let present = grants.get(resolved.grant_id()).unwrap();
        assert!(Arc::ptr_eq(present, &resolved.grant));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_grant_leaves_the_memory_of_other_processes() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    other.start_upkeep();
    world.pass(1).await;
    other.token(&world.key).await.unwrap();
    assert_eq!(kept(&other), (1, 1));
    world.vault.delete(&world.key).await.unwrap();
    world.pass(120).await;
    assert_eq!(kept(&other), (0, 0));
    assert_eq!(kept(&world.vault), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_alive_for_nobody_is_not_kept_in_memory() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    other.start_upkeep();
    world.pass(9000).await;
    assert_eq!(world.refreshes(), 1);
    assert_eq!(kept(&other), (0, 0));
}
