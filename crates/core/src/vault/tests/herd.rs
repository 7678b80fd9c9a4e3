//! Many grants of one client at a time.

use super::*;

/// A provider that grants whatever it is asked for, and writes down when that was.
#[derive(Debug)]
pub(super) struct Generous {
    clock: Arc<dyn Clock>,
    asked: Mutex<Vec<Moment>>,
    /// Whether it cannot be reached.
    pub(super) away: AtomicBool,
}

#[async_trait]
impl Transport for Generous {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(TransportError::NotSent("connection refused".to_owned()));
        }
        let number = {
            let mut asked = lock(&self.asked);
            asked.push(self.clock.now());
            asked.len()
        };
        self.clock.sleep(Duration::from_millis(200)).await;
        let body = format!(
            r#"{{"access_token":"at","refresh_token":"rt-new-{number}","expires_in":600}}"#
        );
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

impl Generous {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: clock.clone(),
            asked: Mutex::default(),
            away: AtomicBool::new(false),
        }
    }

    /// The most requests of any stretch of this length.
    fn most_within(&self, stretch: Duration) -> usize {
        let asked = lock(&self.asked);
        let from = |begin: Moment| {
            let during = |at: &&Moment| begin <= **at && **at < begin + stretch;
            asked.iter().filter(during).count()
        };
        asked.iter().map(|at| from(*at)).max().unwrap_or(0)
    }
}

/// A world with so many more grants, and a process that knows nothing of them yet.
async fn crowd(grants: usize) -> (World, Vault, Arc<Generous>, Vec<ConnectionKey>) {
    let world = World::new("revokes").await;
    let mut keys = Vec::new();
    for number in 0..grants {
        let key = ConnectionKey::new("app", &*format!("consumer{number}"), "crm", "acme");
        world.import(&key, &format!("of-{number}")).await;
        keys.push(key);
    }
    let provider = Arc::new(Generous::new(&world.clock));
    let parts = VaultParts {
        transport: provider.clone(),
        ..world.parts()
    };
    let vault = Vault::open(parts).await.unwrap();
    vault.start_upkeep();
    (world, vault, provider, keys)
}

#[tokio::test(start_paused = true)]
async fn a_restart_asks_the_provider_nothing_unasked_and_never_for_all_at_once() {
    let (world, vault, provider, keys) = crowd(300).await;
    // All tokens have run out, and nobody asks for them.
    world.pass(700).await;
    assert!(lock(&provider.asked).is_empty());
    // Everybody does.
    let tasks = TaskTracker::new();
    let callers: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let vault = vault.clone();
            tasks.spawn(async move { vault.token(&key).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().version(), 2);
    }
    let limits = crate::refresh::gate::GateLimits::default();
    // Nobody has stated a rate: it gives way a little to a queue of this length.
    let most = limits.burst as usize + limits.per_second as usize * 3 / 2;
    assert!(provider.most_within(Duration::from_secs(1)) <= most);
    assert_eq!(lock(&provider.asked).len(), 300);
}

#[tokio::test(start_paused = true)]
async fn grants_issued_together_are_refreshed_apart() {
    let (world, vault, provider, keys) = crowd(90).await;
    world.pass(1).await;
    for key in &keys {
        vault.token(key).await.unwrap();
    }
    world.pass(575).await;
    // Within the limiter's burst: nothing but chance keeps them apart.
    assert_eq!(lock(&provider.asked).len(), 90);
    assert!(provider.most_within(Duration::from_secs(1)) <= 20);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_dead_connections_are_served_within_their_callers_deadlines() {
    let (world, vault, provider, keys) = crowd(2000).await;
    world.pass(700).await;
    let tasks = TaskTracker::new();
    let callers: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let vault = vault.clone();
            tasks.spawn(async move { vault.token(&key).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().version(), 2);
    }
    assert_eq!(lock(&provider.asked).len(), 2000);
}
