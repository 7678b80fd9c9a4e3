//! A refresh that fails, and odd answers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_token_of_unsaid_life_is_refreshed_by_the_connectors_assumption() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::NoLifetime];
    assert_eq!(world.token().await.unwrap(), "at-2");
    // An hour is assumed where the connector says nothing: neither for ever nor each time.
    world.pass(3000).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.pass(600).await;
    assert_eq!(world.token().await.unwrap(), "at-3");
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_is_no_outage_while_the_token_lives() {
    let world = World::new("harmless").await;
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    assert_eq!(world.token().await.unwrap(), "at-1");
    // Afterwards it is tried again, and not before its time.
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(2).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_a_second_try_when_nothing_lives() {
    let world = World::new("harmless").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    assert_eq!(world.token().await.unwrap(), "at-2");
}

/// Found by the crash harness: an owner is killed while the old token has a second left.
#[tokio::test(start_paused = true)]
async fn a_token_that_dies_during_the_wait_does_not_cut_it_short() {
    let world = World::new("harmless").await;
    world.pass(599).await;
    let connection = world.store.connection(&world.key).await.unwrap().unwrap();
    let claim = ClaimRequest {
        grant: connection.grant.unwrap(),
        seen: 1,
        owner: OwnerId::new("a process that is killed"),
        ttl: VaultConfig::default().claim_ttl,
        need: Need::Stale,
        policy: ReplayPolicy::Harmless,
    };
    world.store.claim(claim).await.unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_with_a_revoking_provider_waits_for_the_tokens_end() {
    let world = World::new("revokes").await;
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::Lose];
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.pass(10).await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    let error = world.vault.validate(&world.key).await.unwrap_err();
    assert!(
        matches!(&error, TokenError::AnswerLost { why, .. } if why == "connection reset"),
        "{error}"
    );
    assert_eq!(
        (
            world.refreshes(),
            world.provider.replays.load(Ordering::SeqCst)
        ),
        (1, 0)
    );
    // Nothing left to lose: one more send, which tells that the grant is gone and why.
    world.pass(20).await;
    let error = world.token().await.unwrap_err();
    assert!(
        matches!(&error, TokenError::Dead { reason, .. } if reason.contains("connection reset")),
        "{error}"
    );
    // Dead is dead: no further word with the provider.
    for _ in 0..5 {
        world.pass(600).await;
        assert!(matches!(world.token().await, Err(TokenError::Dead { .. })));
    }
    assert_eq!(world.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_for_all_grants_of_the_client() {
    let world = World::new("refused").await;
    let second = ConnectionKey::new("app", "other", "crm", "acme");
    world.import(&second, "77").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Throttle(20)];
    let error = world.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    let error = world.vault.token(&second).await.unwrap_err();
    assert!(matches!(error, TokenError::Paused { .. }), "{error}");
    assert_eq!(world.refreshes(), 0);
    world.pass(25).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_grants_dead_tokens_is_not_asked_for_ever() {
    let world = World::new("revokes").await;
    let provider = Arc::new(Provider {
        lifetime: 0,
        // So that even the shortest lifetime that counts is over when they come.
        latency: Duration::from_secs(2),
        ..Provider::new(&world.clock, &world.store)
    });
    let parts = VaultParts {
        transport: provider.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    world.pass(700).await;
    assert!(vault.token(&world.key).await.is_ok());
    assert!(provider.refreshes.load(Ordering::SeqCst) <= 2);
}

/// By the letter every one of these is dead when it comes; all who ask within a second share one.
#[tokio::test(start_paused = true)]
async fn a_lifetime_of_nothing_costs_at_most_a_refresh_for_each_request() {
    let world = World::new("revokes").await;
    let provider = Arc::new(Provider {
        lifetime: 0,
        ..Provider::new(&world.clock, &world.store)
    });
    let parts = VaultParts {
        transport: provider.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    vault.start_upkeep();
    world.pass(700).await;
    for request in 1..=40 {
        for token in tokens_at_once(&vault, &world.key, 5).await {
            assert!(token.is_ok());
        }
        let refreshes = provider.refreshes.load(Ordering::SeqCst);
        assert!(
            refreshes <= request,
            "{refreshes} refreshes for {request} requests"
        );
        world.pass(3).await;
    }
    assert_eq!(provider.replays.load(Ordering::SeqCst), 0);
}

/// Answers with tokens that no header can carry.
#[derive(Debug, Default)]
struct Garbled(Mutex<Vec<String>>);

#[async_trait]
impl Transport for Garbled {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let sent = String::from_utf8(request.body.to_vec()).unwrap();
        let mut seen = lock(&self.0);
        let number = seen.len() + 2;
        seen.push(sent);
        // The third answer is well.
        let access = if number == 4 { "at-4" } else { "at\\nat" };
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: format!(r#"{{"access_token":"{access}","refresh_token":"rt-{number}"}}"#).into(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_access_token_that_cannot_be_sent_costs_neither_the_grant_nor_its_refresh_token() {
    let world = World::new("revokes").await;
    let provider = Arc::new(Garbled::default());
    let parts = VaultParts {
        transport: provider.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    world.pass(700).await;
    for _ in 0..2 {
        for token in tokens_at_once(&vault, &world.key, 20).await {
            assert_eq!(token.unwrap_err(), TokenError::UnusableToken);
        }
    }
    // Another process sees the same, and is not shut out.
    let token = world.other().await;
    assert!(token.resolve(&world.key).await.is_ok());
    let token = vault.token(&world.key).await.unwrap();
    assert_eq!(token.secret().expose(), "at-4");
    let seen = lock(&provider.0);
    let sent: Vec<_> = seen
        .iter()
        .map(|body| {
            body.rsplit('&')
                .find(|field| field.starts_with("refresh_token"))
                .unwrap()
        })
        .collect();
    assert_eq!(
        sent,
        [
            "refresh_token=rt-1",
            "refresh_token=rt-2",
            "refresh_token=rt-3"
        ]
    );
}

/// Refuses some grants in words of its own, and grants to the others.
#[derive(Debug)]
struct Picky;

#[async_trait]
impl Transport for Picky {
    async fn exchange(&self, request: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let broken = String::from_utf8_lossy(&request.body).contains("broken");
        let (status, body) = if broken {
            (
                StatusCode::BAD_REQUEST,
                r#"{"error":"organisation_suspended"}"#,
            )
        } else {
            (
                StatusCode::OK,
                r#"{"access_token":"at-2","refresh_token":"rt-2","expires_in":600}"#,
            )
        };
        Ok(Answer {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn grants_that_are_refused_one_by_one_do_not_hold_up_the_others() {
    let world = World::new("harmless").await;
    let parts = VaultParts {
        transport: Arc::new(Picky),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    for number in 0..12 {
        let key = ConnectionKey::new("app", format!("cust-{number}"), "crm", "acme");
        world.import(&key, &format!("broken-{number}")).await;
        assert!(matches!(
            vault.validate(&key).await,
            Err(TokenError::Failed { .. })
        ));
    }
    let before = world.clock.now();
    assert!(vault.validate(&world.key).await.is_ok());
    assert_eq!(before.until(world.clock.now()), Duration::ZERO);
}

/// Counts what is announced.
#[derive(Debug, Default)]
struct Announcements {
    pending: AtomicUsize,
    recovered: AtomicUsize,
    died: AtomicUsize,
}

impl Observer for Announcements {
    fn observe(&self, signal: &Signal<'_>) {
        let counter = match signal {
            Signal::Pending { .. } => &self.pending,
            Signal::Recovered { .. } => &self.recovered,
            Signal::Died { .. } => &self.died,
            _ => return,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

impl Announcements {
    fn counts(&self) -> [usize; 3] {
        [&self.pending, &self.recovered, &self.died].map(|count| count.load(Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_and_a_death_are_announced_once_however_many_ask() {
    let world = World::new("harmless").await;
    let observer = Arc::new(Announcements::default());
    let parts = VaultParts {
        observer: observer.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::NotSent; 4];
    for _ in 0..5 {
        let _ = vault.token(&world.key).await;
        world.pass(10).await;
    }
    assert_eq!(observer.counts(), [1, 1, 0]);
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Refuse];
    for _ in 0..5 {
        vault.token(&world.key).await.unwrap_err();
    }
    assert_eq!(observer.counts(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_that_is_saved_while_the_next_owner_connects_keeps_the_token_from_being_sent_again()
 {
    let world = World::new("revokes").await;
    world.pass(650).await;
    let connection = world.store.connection(&world.key).await.unwrap().unwrap();
    let claim = ClaimRequest {
        grant: connection.grant.unwrap(),
        seen: 1,
        owner: OwnerId::new("a process that is stopped"),
        ttl: VaultConfig::default().claim_ttl,
        need: Need::Stale,
        policy: ReplayPolicy::Revokes,
    };
    let ClaimReply::Claimed(row) = world.store.claim(claim).await.unwrap().value else {
        panic!("nobody else claims it");
    };
    // Its claim runs out, and the next owner takes its time to connect.
    world.pass(30).await;
    *lock(&world.provider.connect) = Duration::from_secs(5);
    let (vault, key) = (world.vault.clone(), world.key.clone());
    let waiting = TaskTracker::new().spawn(async move { vault.token(&key).await });
    world.pass(2).await;
    let sealed = |version| Purpose::TokenSet {
        grant: &row.id,
        version,
    };
    let plain = world
        .keyring
        .open(sealed(row.version), &row.sealed)
        .unwrap();
    let mut tokens = TokenSet::from_plain(&plain).unwrap();
    tokens.access_token = Some(Secret::new("at-late"));
    let commit = CommitRequest {
        grant: row.id.clone(),
        base: row.version,
        epoch: row.epoch,
        sent_at: row.attempt.as_ref().unwrap().last_at,
        sealed: world
            .keyring
            .seal(sealed(row.version + 1), &tokens.to_plain()),
        lifetime: Some(Duration::from_secs(600)),
        keep_alive: None,
        fingerprint: None,
    };
    world.store.commit(commit).await.unwrap();
    let token = waiting.await.unwrap().unwrap();
    assert_eq!(token.secret().expose(), "at-late");
    assert_eq!(
        (
            world.refreshes(),
            world.provider.replays.load(Ordering::SeqCst)
        ),
        (0, 0)
    );
}
