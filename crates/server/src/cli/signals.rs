//! SIGTERM and SIGINT: the first asks for an orderly stop, the second insists.

use tokio_util::sync::CancellationToken;

/// Cancelled at the first signal; the second ends the process.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process, so there is nothing to drain"
)]
pub(super) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        signal().await;
        tracing::info!(
            "stopping: requests and refreshes under way may finish; a second signal ends at once"
        );
        token.cancel();
        signal().await;
        tracing::warn!("stopped at once");
        std::process::exit(130);
    });
    stop
}

/// The next signal.
pub(super) async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
