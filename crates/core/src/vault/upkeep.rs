//! What goes on without a caller.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Inner, Vault};

impl Inner {
    /// Never the same, so that replicas that start together do not stay together.
    pub(super) fn upkeep_pause(&self) -> Duration {
        let every = self.config.upkeep_every;
        every.mul_f64(0.9 + 0.2 * self.chance.fraction())
    }
}

impl Vault {
    /// Starts the upkeep; it ends with [`drain`](Vault::drain). Without it everything works, but
    /// callers wait at each expiry, and changes by other processes are seen only when a token is
    /// stale or rejected.
    pub fn start_upkeep(&self) {
        let closing = &self.inner.closing;
        self.inner.tracker.spawn(
            closing
                .clone()
                .run_until_cancelled_owned(self.clone().follow_agenda()),
        );
        self.inner.tracker.spawn(
            closing
                .clone()
                .run_until_cancelled_owned(self.clone().follow_changes()),
        );
        let keep_alive = self.clone().keep_alive_on();
        let keep_alive = closing.clone().run_until_cancelled_owned(keep_alive);
        self.inner.tracker.spawn(keep_alive);
        self.inner
            .tracker
            .spawn(tidy_up(closing.clone(), self.clone()));
    }
}

/// Adopts the spool, tidies the cache and the attempts, at once and then now and then.
async fn tidy_up(closing: CancellationToken, vault: Vault) {
    while !closing.is_cancelled() {
        vault.inner.tidy();
        vault.adopt_spool().await;
        vault.tidy_attempts().await;
        let pause = vault.inner.clock.sleep(vault.inner.upkeep_pause());
        closing.run_until_cancelled(pause).await;
    }
}
