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

/// Each grant counts its versions from one.
#[tokio::test(start_paused = true)]
async fn a_rejected_token_of_a_grant_that_is_gone_costs_the_next_grant_no_refresh() {
    let world = World::new("revokes").await;
    for _ in 0..5 {
        world.vault.validate(&world.key).await.unwrap();
    }
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let old = world.vault.token(&world.key).await.unwrap();
    world.vault.delete(&world.key).await.unwrap();
    *lock(&world.provider.current) = 9;
    world.import(&world.key, "9").await;
    let present = world.vault.resolve(&world.key).await.unwrap();
    let (before, wait) = (world.refreshes(), Duration::from_secs(5));
    for resolved in [resolved, present] {
        let token = world.vault.rejected(&resolved, &old, wait).await.unwrap();
        assert_eq!(token.unwrap().secret().expose(), "at-9");
    }
    assert_eq!(world.refreshes(), before);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_a_young_token_is_one_refresh() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    // The provider has ended it two seconds after it was granted.
    world.pass(2).await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let young = world.vault.token(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    let token = world.vault.rejected(&resolved, &young, wait).await.unwrap();
    assert_eq!(token.unwrap().secret().expose(), "at-3");
}

#[tokio::test(start_paused = true)]
async fn a_young_token_that_others_have_replaced_is_looked_up() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    let resolved = other.resolve(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    // Its own refresh, for a rejection: within the pause it makes no other.
    let first = other.token(&world.key).await.unwrap();
    let second = other.rejected(&resolved, &first, wait).await.unwrap();
    world.vault.validate(&world.key).await.unwrap();
    let third = other
        .rejected(&resolved, &second.unwrap(), wait)
        .await
        .unwrap();
    assert_eq!(third.unwrap().version(), 3);
    assert_eq!(world.refreshes(), 2);
}

/// Writes down what is said of refused tokens.
#[derive(Debug, Default)]
struct Refusals(Mutex<Vec<Option<u32>>>);

impl Observer for Refusals {
    fn observe(&self, signal: &Signal<'_>) {
        let said = match signal {
            Signal::TokensRefused { refusals, .. } => Some(*refusals),
            Signal::TokensAccepted { .. } => None,
            _ => return,
        };
        lock(&self.0).push(said);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_rejects_every_token_costs_ever_fewer_refreshes() {
    let world = World::new("revokes").await;
    let refusals = Arc::new(Refusals::default());
    let parts = VaultParts {
        observer: refusals.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    let resolved = vault.resolve(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    for _ in 0..500 {
        let token = vault.token(&world.key).await.unwrap();
        vault.rejected(&resolved, &token, wait).await.unwrap();
        world.pass(1).await;
    }
    // 1, 2, 4 ... 256 s apart.
    assert_eq!(world.refreshes(), 9);
    assert_eq!(vault.refusals(&resolved), 8);
    let said: Vec<_> = (1..=8).map(Some).collect();
    assert_eq!(*lock(&refusals.0), said);
    // Its next token is taken: what was said before counts no more.
    world.pass(600).await;
    let token = vault.token(&world.key).await.unwrap();
    vault.accepted(&resolved, &token);
    assert_eq!(vault.refusals(&resolved), 0);
    assert_eq!(lock(&refusals.0).last(), Some(&None));
    let before = world.refreshes();
    vault.rejected(&resolved, &token, wait).await.unwrap();
    assert_eq!(world.refreshes(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_dead_grant_is_served_until_the_api_rejects_it() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    *lock(&world.provider.acts) = vec![Act::Refuse];
    let error = world.vault.validate(&world.key).await.unwrap_err();
    assert!(matches!(error, TokenError::Dead { .. }), "{error}");
    let token = world.vault.token(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    for _ in 0..3 {
        let answer = world.vault.rejected(&resolved, &token, wait).await;
        assert!(matches!(answer, Err(TokenError::Dead { .. })), "{answer:?}");
        assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
        assert!(world.vault.fresh(&resolved).is_none());
    }
    assert_eq!(world.refreshes(), 0);
}

/// Whichever came first: the grant's death or the API's word on its token.
#[tokio::test(start_paused = true)]
async fn what_the_api_has_rejected_of_a_dead_grant_is_served_by_no_process_that_reads_it() {
    for dies_first in [true, false] {
        let world = World::new("revokes").await;
        let resolved = world.vault.resolve(&world.key).await.unwrap();
        let token = world.vault.token(&world.key).await.unwrap();
        let wait = Duration::from_secs(5);
        *lock(&world.provider.acts) = vec![Act::Refuse];
        if dies_first {
            assert!(world.vault.validate(&world.key).await.is_err());
            let other = world.other().await;
            assert!(other.token(&world.key).await.is_ok());
        }
        let answer = world.vault.rejected(&resolved, &token, wait).await;
        assert!(matches!(answer, Err(TokenError::Dead { .. })), "{answer:?}");
        let other = world.other().await;
        let answer = other.token(&world.key).await;
        assert!(matches!(answer, Err(TokenError::Dead { .. })), "{answer:?}");
        // A new authorization is one.
        world.import(&world.key, "9").await;
        assert_eq!(
            other.token(&world.key).await.unwrap().secret().expose(),
            "at-9"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_living_token_without_a_refresh_token_is_valid() {
    let world = World::new("revokes").await;
    let key = ConnectionKey::new("app", "final", "crm", "acme");
    let import = Import {
        access_token: Some(Secret::new("at-final")),
        issued_at_ms: Some(i64::MAX),
        expires_in: Some(Duration::from_secs(600)),
        ..Import::default()
    };
    world.vault.import(&key, import).await.unwrap();
    let state = async || {
        let connector = world.vault.connector_of(&key).unwrap();
        let connection = world.store.connection(&key).await.unwrap().unwrap();
        let grant = connection.grant.clone().unwrap();
        let row = world.store.grant(&grant).await.unwrap();
        let (state, _) =
            world
                .vault
                .state(connector, Some(&connection), row.value.as_ref(), row.at);
        state.as_str()
    };
    let valid = world.vault.validate(&key).await.unwrap();
    assert_eq!(valid.secret().expose(), "at-final");
    assert_eq!(state().await, "callable");
    world.pass(601).await;
    let error = world.vault.validate(&key).await.unwrap_err();
    assert_eq!(error, TokenError::NoRefreshToken);
    assert_eq!(state().await, "invalid");
}

/// The replies say 600 s.
#[tokio::test(start_paused = true)]
async fn a_connector_may_know_that_tokens_end_earlier_than_replies_say() {
    let world = World::new("revokes").await;
    let text = CONNECTOR.replace("POLICY", "revokes").replace(
        "url = \"https://id.acme.example/token\"",
        "url = \"https://id.acme.example/token\"\nlongest_lifetime_s = 60",
    );
    let mut catalogue = Catalogue::default();
    catalogue.add("acme.toml", &text).unwrap();
    let parts = VaultParts {
        catalogue,
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    assert_eq!(vault.validate(&world.key).await.unwrap().version(), 2);
    for (pass, version) in [(44, 2), (2, 3), (44, 3), (2, 4)] {
        world.pass(pass).await;
        assert_eq!(vault.token(&world.key).await.unwrap().version(), version);
    }
}

/// Each of its tokens lives for five seconds, whatever the replies say: nobody is refused for it,
/// and nothing else is sent than one refresh for each.
#[tokio::test(start_paused = true)]
async fn tokens_that_end_early_are_refreshed_once_each() {
    let world = World::new("revokes").await;
    let resolved = world.vault.resolve(&world.key).await.unwrap();
    let wait = Duration::from_secs(5);
    for life in 1..=20 {
        let token = world.vault.token(&world.key).await.unwrap();
        for _ in 0..4 {
            world.pass(1).await;
            world.vault.accepted(&resolved, &token);
        }
        world.pass(1).await;
        let next = world.vault.rejected(&resolved, &token, wait).await.unwrap();
        let next = next.expect("there is a better one");
        world.vault.accepted(&resolved, &next);
        assert_eq!(world.refreshes(), life);
        assert_eq!(world.vault.refusals(&resolved), 0);
    }
}
