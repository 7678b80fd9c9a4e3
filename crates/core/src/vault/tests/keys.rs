//! The keyring.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_a_loud_error() {
    let world = World::new("revokes").await;
    let parts = VaultParts {
        keyring: Keyring::new(vec![Key::generate()]).unwrap(),
        ..world.parts()
    };
    let error = Vault::open(parts).await.unwrap_err().to_string();
    assert!(
        error.contains(&world.keyring.active().id().to_string()),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_while_the_vault_is_open() {
    let world = World::new("revokes").await;
    world
        .store
        .add_application(&world.key.application, "App")
        .await
        .unwrap();
    let new = Key::generate();
    let both = Keyring::new(vec![new.clone(), world.keyring.active().clone()]).unwrap();
    let second = Vault::open(VaultParts {
        keyring: both,
        ..world.parts()
    })
    .await
    .unwrap();
    assert_eq!(second.reseal().await.unwrap(), 2);
    assert_eq!(second.reseal().await.unwrap(), 0);
    let alone = Keyring::new(vec![new]).unwrap();
    let third = Vault::open(VaultParts {
        keyring: alone,
        ..world.parts()
    })
    .await
    .unwrap();
    world.pass(700).await;
    assert_eq!(
        third.token(&world.key).await.unwrap().secret().expose(),
        "at-2"
    );
}
