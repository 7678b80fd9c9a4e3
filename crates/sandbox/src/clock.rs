//! The one place where the sandbox reads real time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the sandbox started. Everything behind the HTTP edge takes it as an argument.
#[derive(Debug)]
pub(super) struct Clock {
    started: tokio::time::Instant,
    started_unix: Duration,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the sandbox stands for another company's server, which has its own clock"
    )]
    pub(super) fn start() -> Self {
        Self {
            started: tokio::time::Instant::now(),
            started_unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Seconds since 1970 of a time since the start, for the `exp` of an introspection.
    pub(super) fn unix_seconds(&self, at: Duration) -> u64 {
        self.started_unix.saturating_add(at).as_secs()
    }
}
