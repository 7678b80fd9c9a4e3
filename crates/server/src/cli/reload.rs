//! What a server reads again while it runs: its keys, its certificate, the name of its request log.

use std::{future::pending, time::Duration};

use tokenward::{Vault, seal::Keyring};
use tokio::sync::mpsc;

use crate::{config::open::VaultOptions, listen::tls::Tls, observe::sink::Writer};

/// How often the keys are read while one is missing that they do not hold yet.
const AGAIN: Duration = Duration::from_secs(5);

/// What there is to read again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reload<'a> {
    pub(super) vault: &'a Vault,
    pub(super) options: &'a VaultOptions,
    pub(super) tls: Option<&'a Tls>,
    pub(super) log: Option<&'a Writer>,
}

impl Reload<'_> {
    /// Reads everything again when that is asked for, and the keys when stored values name one that
    /// is missing. So a key may be added, and everything be sealed anew with it, while servers run.
    pub(super) async fn follow(self, mut asked: mpsc::Receiver<()>) {
        loop {
            let still_missing = async {
                if self.vault.missing_keys().is_empty() {
                    pending::<()>().await;
                }
                self.vault.clock().sleep(AGAIN).await;
            };
            tokio::select! {
                () = self.vault.key_missing() => {}
                Some(()) = asked.recv() => self.files(),
                () = still_missing => {}
            }
            self.keys().await;
        }
    }

    /// Takes up a certificate that is renewed.
    pub(super) async fn follow_certificate(self) {
        match self.tls {
            Some(tls) => match tls.clone().follow().await {},
            None => pending().await,
        }
    }

    fn files(self) {
        tracing::info!("reading files anew: keys, certificate, request log");
        if let Some(tls) = self.tls {
            tls.renew();
        }
        if let Some(log) = self.log {
            log.reopen();
        }
    }

    async fn keys(self) {
        let taken = match self.options.read_keys() {
            Ok(keys) => take(self.vault, keys).await,
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
