//! The key file, read again while the server runs.

use std::{convert::Infallible, time::Duration};

use tokenward::{Vault, seal::Keyring};

use super::open::VaultOptions;

/// How often the file is read while a key is missing that it does not hold yet.
const AGAIN: Duration = Duration::from_secs(5);

/// Takes new keys when stored values name one that is missing, and at a SIGHUP. So a key may be
/// added, and everything be sealed anew with it, while servers run.
pub(crate) async fn follow(vault: Vault, options: VaultOptions) -> Infallible {
    let mut hangups = Hangups::new();
    loop {
        let still_missing = async {
            if vault.missing_keys().is_empty() {
                std::future::pending::<()>().await;
            }
            vault.clock().sleep(AGAIN).await;
        };
        tokio::select! {
            () = vault.key_missing() => {}
            () = hangups.next() => {}
            () = still_missing => {}
        }
        let taken = match options.keys_again() {
            Ok(keys) => take(&vault, keys).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(error = format!("{error:#}"), "the keys of before are kept");
        }
    }
}

async fn take(vault: &Vault, keys: Keyring) -> anyhow::Result<()> {
    let ids = |keys: &Keyring| keys.ids().cloned().collect::<Vec<_>>();
    if ids(&keys) != ids(&vault.keyring()) {
        let active = keys.active().id().clone();
        vault.reload_keys(keys).await?;
        tracing::info!(%active, "other keys were given, and are used from now on");
    }
    Ok(())
}

/// Signals that ask for files to be read again.
#[cfg(unix)]
struct Hangups(Option<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Hangups {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(signal(SignalKind::hangup()).ok())
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        std::future::pending().await
    }
}
