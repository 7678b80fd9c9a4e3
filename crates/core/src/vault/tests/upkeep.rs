//! What happens without a caller.

use super::*;
use crate::{observe::FlightOutcome, store::Change};

/// Grants whatever is asked for, to any number of grants.
#[derive(Debug)]
struct Generous {
    clock: Arc<dyn Clock>,
    granted: AtomicUsize,
}

#[async_trait]
impl Transport for Generous {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        self.clock.sleep(Duration::from_millis(200)).await;
        let number = self.granted.fetch_add(1, Ordering::SeqCst);
        let body = format!(
            r#"{{"access_token":"new-{number}","refresh_token":"next-{number}","expires_in":600}}"#
        );
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

/// Counts flights, and those that refreshed.
#[derive(Debug, Default)]
struct Tally {
    flights: AtomicUsize,
    refreshed: AtomicUsize,
}

impl Tally {
    fn counts(&self) -> (usize, usize) {
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (count(&self.flights), count(&self.refreshed))
    }
}

impl Observer for Tally {
    fn observe(&self, signal: &Signal<'_>) {
        if let Signal::FlightEnded { outcome, .. } = signal {
            self.flights.fetch_add(1, Ordering::SeqCst);
            let refreshed = *outcome == FlightOutcome::Refreshed;
            self.refreshed
                .fetch_add(usize::from(refreshed), Ordering::SeqCst);
        }
    }
}

/// Two processes on one store, and so many idle grants that want keeping alive now.
async fn two_and_idle(idle: usize) -> (World, [(Vault, Arc<Tally>); 2]) {
    let world = World::new("revokes").await;
    let provider = Arc::new(Generous {
        clock: world.clock.clone(),
        granted: AtomicUsize::new(0),
    });
    let process = async |seed| {
        let tally = Arc::new(Tally::default());
        let parts = VaultParts {
            transport: provider.clone(),
            observer: tally.clone(),
            chance: Arc::new(SeededChance::new(seed)),
            ..world.parts()
        };
        (Vault::open(parts).await.unwrap(), tally)
    };
    let both = [process(2).await, process(3).await];
    // The world's own is one of them.
    for number in 1..idle {
        let key = ConnectionKey::new("app", format!("idle-{number}"), "crm", "acme");
        world.import(&key, &format!("of-{number}")).await;
    }
    world.pass(9000).await;
    (world, both)
}

#[tokio::test(start_paused = true)]
async fn an_idle_grant_is_kept_alive() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    // Unused for four hours it would die: half of that, a tenth more or less.
    world.pass(6000).await;
    assert_eq!(world.refreshes(), 0);
    world.pass(3000).await;
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn grants_in_use_are_refreshed_before_anybody_waits() {
    let world = World::new("revokes").await;
    world.vault.start_upkeep();
    for expected in ["at-1", "at-2", "at-3"] {
        // Well inside the token's life it is served from memory.
        assert_eq!(world.token().await.unwrap(), expected);
        world.pass(565).await;
        world.pass(10).await;
    }
    assert!(world.refreshes() >= 3);
    // Nobody asks any more: it rests.
    let before = world.refreshes();
    world.pass(6000).await;
    assert!(world.refreshes() <= before + 1);
    assert!(world.vault.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn other_processes_hear_of_changes() {
    let world = World::new("revokes").await;
    let other = world.other().await;
    other.start_upkeep();
    // The first look forgets every copy; from the second one on it hears what has changed.
    world.pass(1).await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 1);
    world.vault.validate(&world.key).await.unwrap();
    world.pass(1).await;
    assert_eq!(other.token(&world.key).await.unwrap().version(), 2);
    world
        .vault
        .update(
            &world.key,
            ConnectionPatch {
                enabled: Some(false),
                ..ConnectionPatch::default()
            },
        )
        .await
        .unwrap();
    world.pass(1).await;
    assert!(matches!(
        other.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
    assert!(matches!(
        world.vault.token(&world.key).await,
        Err(TokenError::Disabled(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn the_next_try_after_a_failure_needs_no_caller() {
    let world = World::new("harmless").await;
    world.vault.start_upkeep();
    world.pass(580).await;
    *lock(&world.provider.acts) = vec![Act::NotSent];
    // The old token lives and is served, also to one who comes before the next try.
    assert_eq!(world.token().await.unwrap(), "at-1");
    world.clock.sleep(Duration::from_millis(300)).await;
    assert_eq!(world.token().await.unwrap(), "at-1");
    assert_eq!(world.refreshes(), 0);
    world.pass(3).await;
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.token().await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn processes_share_the_idle_grants_and_rarely_want_the_same_one() {
    const IDLE: usize = 120;
    let (world, [(one, by_one), (two, by_two)]) = two_and_idle(IDLE).await;
    // In the same moment: what is due is the same for both.
    one.start_upkeep();
    two.start_upkeep();
    world.pass(200).await;
    let ((one, by_one), (two, by_two)) = (by_one.counts(), by_two.counts());
    assert_eq!(by_one + by_two, IDLE);
    assert!(by_one > IDLE / 4 && by_two > IDLE / 4, "{by_one}, {by_two}");
    let wasted = one + two - IDLE;
    assert!(wasted <= IDLE / 10, "{wasted} flights found others at it");
}

#[tokio::test(start_paused = true)]
async fn idle_grants_of_a_process_that_ends_are_kept_alive_by_the_others() {
    const IDLE: usize = 120;
    let (world, [(one, by_one), (two, by_two)]) = two_and_idle(IDLE).await;
    one.start_upkeep();
    two.start_upkeep();
    world.pass(1).await;
    assert!(two.drain(Duration::from_secs(5)).await);
    let (_, by_two) = by_two.counts();
    assert!(by_two > 0 && by_two < IDLE / 2);
    world.pass(200).await;
    assert_eq!(by_one.counts().1 + by_two, IDLE);
}

#[tokio::test(start_paused = true)]
async fn what_a_process_has_committed_it_does_not_read_again() {
    let world = World::new("revokes").await;
    world.pass(700).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    let connection = world.store.connection(&world.key).await.unwrap().unwrap();
    let told = |version| [Change::Grant(connection.grant.clone().unwrap(), version)];
    world.store.set_down(true);
    world.vault.apply(&told(2)).await;
    assert_eq!(world.token().await.unwrap(), "at-2");
    world.vault.apply(&told(3)).await;
    assert!(matches!(world.token().await, Err(TokenError::Store(_))));
}
