//! A refresh that fails, and odd answers.

use super::*;
use crate::observe::Served;

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
        pardoned: None,
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
    *lock(&world.provider.acts) = vec![Act::Throttle(40)];
    let error = world.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    let error = world.vault.token(&second).await.unwrap_err();
    assert!(matches!(error, TokenError::Paused { .. }), "{error}");
    assert_eq!(world.refreshes(), 0);
    // Neither a person nor the breaker's own opinion shortens it.
    let error = world.vault.validate(&world.key).await.unwrap_err();
    assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    assert_eq!(world.refreshes(), 0);
    world.pass(45).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn a_success_that_was_under_way_does_not_end_the_pause_that_the_provider_asked_for() {
    let world = World::new("refused").await;
    let [second, third] =
        ["other", "third"].map(|name| ConnectionKey::new("app", name, "crm", "acme"));
    world.import(&second, "77").await;
    world.import(&third, "78").await;
    world.pass(700).await;
    // The first to be asked thinks for a second, the next is throttled meanwhile.
    *lock(&world.provider.acts) = vec![Act::Throttle(100), Act::Think(Duration::from_secs(1))];
    let (slow, throttled) = tokio::join!(world.token(), async {
        world.clock.sleep(Duration::from_millis(500)).await;
        world.vault.token(&second).await
    });
    assert_eq!(slow.unwrap(), "at-2");
    throttled.unwrap_err();
    let error = world.vault.token(&third).await.unwrap_err();
    assert!(
        matches!(error, TokenError::Paused { retry_in_ms } if retry_in_ms > 90_000),
        "{error}"
    );
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_wait_through_a_short_outage_as_long_as_they_have_time() {
    let world = World::new("harmless").await;
    world.pass(700).await;
    // Longer than a first retry, shorter than the callers' patience.
    *lock(&world.provider.acts) = vec![Act::NotSent; 4];
    let begun = world.clock.now();
    for token in tokens_at_once(&world.vault, &world.key, 50).await {
        assert_eq!(token.unwrap().secret().expose(), "at-2");
    }
    let took = begun.until(world.clock.now());
    assert!(took < VaultConfig::default().wait, "{took:?}");
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_corrected_client_secret_ends_the_pauses_that_its_refusals_have_caused() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::RefuseClient; 6];
    // A person is needed: nobody waits for the next try.
    let begun = world.clock.now();
    let error = world.token().await.unwrap_err();
    assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    assert!(begun.until(world.clock.now()) < Duration::from_secs(1));
    // A person may try at once, each time, though the breaker is open in the end.
    for _ in 0..5 {
        let error = world.vault.validate(&world.key).await.unwrap_err();
        assert!(matches!(error, TokenError::Failed { .. }), "{error}");
    }
    assert!(lock(&world.provider.acts).is_empty());
    assert!(world.token().await.is_err());
    world.pass(1).await;
    let (app, service) = (&world.key.application, &world.key.service);
    let secret = Secret::new("right");
    world
        .vault
        .set_client(
            app,
            service,
            "id",
            Some(&secret),
            Default::default(),
            vec![],
        )
        .await
        .unwrap();
    assert_eq!(world.token().await.unwrap(), "at-2");
}

/// The breaker has opened, and one grant's probe succeeds: the others need not sit out their own
/// pauses.
#[tokio::test(start_paused = true)]
async fn the_first_success_after_an_outage_ends_the_pauses_of_all_grants_of_the_client() {
    let world = World::new("harmless").await;
    let provider = Arc::new(herd::Generous::new(&world.clock));
    let parts = VaultParts {
        transport: provider.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    let mut keys = vec![world.key.clone()];
    for number in 2..=10 {
        let key = ConnectionKey::new("app", format!("c{number}"), "crm", "acme");
        world.import(&key, &number.to_string()).await;
        keys.push(key);
    }
    world.pass(700).await;
    provider.away.store(true, Ordering::SeqCst);
    let tasks = TaskTracker::new();
    let ask = |key: &ConnectionKey| {
        let (vault, key) = (vault.clone(), key.clone());
        tasks.spawn(async move {
            let token = vault.token(&key).await;
            token.map(|token| (token.version(), vault.clock().now()))
        })
    };
    // Two minutes of outage, in which somebody asks all the time.
    let outage = world.clock.now();
    for _ in 0..4 {
        for answer in keys.iter().map(ask).collect::<Vec<_>>() {
            answer.await.unwrap().unwrap_err();
        }
    }
    provider.away.store(false, Ordering::SeqCst);
    let begun = world.clock.now();
    let mut came = Vec::new();
    for answer in keys.iter().map(ask).collect::<Vec<_>>() {
        let (version, at) = answer.await.unwrap().unwrap();
        assert_eq!(version, 2);
        came.push(at);
    }
    // The first whose pause is over finds out, and nobody else waits for the end of his own.
    let (first, last) = (came.iter().min().unwrap(), came.iter().max().unwrap());
    assert!(first.until(*last) <= Duration::from_secs(1), "{came:?}");
    let took = begun.until(world.clock.now());
    assert!(took <= outage.until(begun) / 3, "{took:?}");
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
    assert_eq!(provider.refreshes.load(Ordering::SeqCst), 1);
    // Each request costs one refresh at most, and those that come at once share it.
    for token in tokens_at_once(&vault, &world.key, 40).await {
        token.unwrap();
    }
    assert_eq!(provider.refreshes.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_slow_refresh_where_the_old_token_is_known_to_stay_alive() {
    let connector = CONNECTOR.replace("POLICY", "refused");
    let known = connector.replace(
        "idle_lifetime_s",
        "old_token_survives = true\nidle_lifetime_s",
    );
    for (connector, waits) in [(known, false), (connector, true)] {
        let world = World::with_connector(&connector).await;
        world.pass(575).await;
        *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(18))];
        let begun = world.clock.now();
        assert_eq!(world.token().await.unwrap(), "at-1");
        assert_eq!(begun != world.clock.now(), waits);
        // The refresh goes on all the same.
        world.pass(20).await;
        assert_eq!(world.token().await.unwrap(), "at-2");
    }
}

/// The answer's limit is the connector's word; where the token would be spent by a second try, the
/// connection that is still open is listened to while the old token lives.
#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_heard_out_while_the_old_token_lives() {
    for (policy, died) in [("revokes", false), ("harmless", true)] {
        let world = World::new(policy).await;
        world.pass(300).await;
        *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(110))];
        let _ = world.vault.validate(&world.key).await;
        world.pass(100).await;
        let rows = world.store.connection(&world.key).await.unwrap().unwrap();
        let row = world.store.grant(&rows.grant.unwrap()).await.unwrap();
        assert_eq!(row.value.unwrap().version, if died { 1 } else { 2 });
    }
    let slow = CONNECTOR.replace("POLICY", "harmless");
    let slow = slow.replace("[refresh]", "answer_timeout_s = 120\n[refresh]");
    let world = World::with_connector(&slow).await;
    world.pass(700).await;
    *lock(&world.provider.acts) = vec![Act::Think(Duration::from_secs(110))];
    world.token().await.unwrap_err();
    world.pass(100).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    assert_eq!(world.refreshes(), 1);
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
        // Those who ask at once, and those who ask right after them.
        for _ in 0..2 {
            for token in tokens_at_once(&vault, &world.key, 5).await {
                assert!(token.is_ok());
            }
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
    // What is refreshed because it has run out asks the gate; a person's `validate` does not wait.
    world.pass(700).await;
    for number in 0..12 {
        let key = ConnectionKey::new("app", format!("cust-{number}"), "crm", "acme");
        world.import(&key, &format!("broken-{number}")).await;
        assert!(matches!(
            vault.validate(&key).await,
            Err(TokenError::Failed { .. })
        ));
    }
    let before = world.clock.now();
    assert!(vault.token(&world.key).await.is_ok());
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
        pardoned: None,
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

/// A machine's clock that goes on while the machine sleeps and its timers do not.
#[derive(Debug)]
struct Suspended(Arc<dyn Clock>, Mutex<Duration>);

impl Clock for Suspended {
    fn now(&self) -> Moment {
        self.0.now() + *lock(&self.1)
    }

    fn sleep(&self, duration: Duration) -> crate::time::Boxed<'_, ()> {
        self.0.sleep(duration)
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_died_while_the_machine_slept_is_not_served() {
    let world = World::new("harmless").await;
    let clock = Arc::new(Suspended(world.clock.clone(), Mutex::default()));
    let parts = VaultParts {
        clock: clock.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    assert_eq!(vault.token(&world.key).await.unwrap().version(), 1);
    *lock(&clock.1) = Duration::from_secs(3600);
    assert_eq!(vault.token(&world.key).await.unwrap().version(), 2);
}

/// Counts callers that got no token.
#[derive(Debug, Default)]
struct TurnedAway(AtomicUsize);

impl Observer for TurnedAway {
    fn observe(&self, signal: &Signal<'_>) {
        if let Signal::Served(Served::Failed) = signal {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_turned_away_before_any_refresh_counts_too() {
    let world = World::new("revokes").await;
    let counted = Arc::new(TurnedAway::default());
    let parts = VaultParts {
        observer: counted.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    vault.token(&world.key).await.unwrap();
    world.pass(700).await;
    assert!(vault.drain(Duration::from_secs(1)).await);
    let error = vault.token(&world.key).await.unwrap_err();
    assert_eq!(error, TokenError::ShuttingDown);
    assert_eq!(counted.0.load(Ordering::SeqCst), 1);
}
