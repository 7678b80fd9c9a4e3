//! A store that can stop answering, without an error.

use super::*;
use crate::store::disturbed::Disturbed;

#[derive(Debug)]
pub(super) struct Hanging {
    pub(super) store: Arc<MemoryStore>,
    pub(super) hangs: AtomicBool,
}

#[async_trait]
impl Disturbed for Hanging {
    fn truth(&self) -> &MemoryStore {
        &self.store
    }

    async fn before(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

/// A process whose store can stop answering it, while it answers the others.
pub(super) async fn process(world: &World) -> (Vault, Arc<Hanging>) {
    let store = Arc::new(Hanging {
        store: world.store.clone(),
        hangs: AtomicBool::new(false),
    });
    let parts = VaultParts {
        store: store.clone(),
        ..world.parts()
    };
    (Vault::open(parts).await.unwrap(), store)
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_covers_the_store() {
    let world = World::new("revokes").await;
    let (vault, store) = process(&world).await;
    let wait = Duration::from_secs(3);
    store.hangs.store(true, Ordering::SeqCst);
    for attempt in 0..4 {
        let before = world.clock.now();
        let error = match attempt {
            0 => vault.resolve_within(&world.key, wait).await.map(|_| ()),
            1 => vault.validate_within(&world.key, wait).await.map(|_| ()),
            2 => vault.token(&world.key).await.map(|_| ()),
            _ => {
                // Known already, and its row is asked for.
                store.hangs.store(false, Ordering::SeqCst);
                vault.token(&world.key).await.unwrap();
                store.hangs.store(true, Ordering::SeqCst);
                vault.validate_within(&world.key, wait).await.map(|_| ())
            }
        };
        let took = before.until(world.clock.now());
        assert!(
            matches!(error, Err(TokenError::DeadlineExceeded { .. })),
            "{attempt}: {error:?}"
        );
        let most = if attempt == 2 {
            vault.config().wait
        } else {
            wait
        };
        assert_eq!(took, most, "{attempt}");
    }
}
