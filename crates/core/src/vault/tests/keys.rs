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

#[tokio::test(start_paused = true)]
async fn one_value_that_does_not_open_keeps_no_other_from_being_sealed_anew() {
    let world = World::new("revokes").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    let mut grants = Vec::new();
    for key in [&world.key, &second] {
        let connection = world.store.connection(key).await.unwrap().unwrap();
        grants.push(connection.grant.unwrap());
    }
    // The row that is walked over first is of a key that is lost.
    let lost = grants.iter().min().unwrap();
    let purpose = Purpose::TokenSet {
        grant: lost,
        version: 1,
    };
    let stranger = Keyring::new(vec![Key::generate()]).unwrap();
    let sealed = stranger.seal(purpose, b"x");
    assert!(world.store.reseal(lost, 1, sealed).await.unwrap());
    let keys = vec![Key::generate(), world.keyring.active().clone()];
    let parts = VaultParts {
        keyring: Keyring::new(keys).unwrap(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    let error = vault.reseal().await.unwrap_err();
    let AdminError::Unreadable {
        unreadable: 1,
        // The other grant, and the client's secret.
        resealed: 2,
        first,
    } = &error
    else {
        panic!("{error}");
    };
    assert!(first.contains(lost.as_str()), "{error}");
}
