//! What the parts are made of.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use tokenward::{
    ConnectionKey, Secret, Vault, VaultConfig,
    connector::Catalogue,
    oauth::TokenRequest,
    observe::Observer,
    seal::Keyring,
    spool::FolderSpool,
    store::Store,
    time::{Clock, Moment, SeededChance, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
    vault::VaultParts,
};
use tokenward_server::egress::{AddressRules, Connector, ExtraRoots, HttpTransport, Proxies};
use tokenward_testkit::sandbox::{Sandbox, SandboxConfig};
use tokio::runtime::{Builder, Runtime};

/// The connector of all parts, for a token endpoint that takes so many requests a second.
pub(crate) fn connector(token_url: &str, per_second: f64, burst: u32) -> String {
    format!(
        r#"
id = "bench"
name = "Bench"
unified_apis = ["crm"]
[authorization]
url = "http://127.0.0.1/authorize"
[token]
url = "{token_url}"
per_second = {per_second:.1}
burst = {burst}
[refresh]
rotation = "always"
replay = {{ policy = "revokes" }}
[api]
hosts = ["http://127.0.0.1"]
"#
    )
}

pub(crate) fn key(number: u64) -> ConnectionKey {
    ConnectionKey::new("bench", format!("consumer-{number:07}"), "crm", "bench")
}

/// As many threads as this machine has cores.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

/// A vault with the client of the sandbox.
pub(crate) async fn open(
    folder: &Path,
    store: Arc<dyn Store>,
    keyring: Keyring,
    transport: Arc<dyn Transport>,
    observer: Arc<dyn Observer>,
    connector: &str,
    config: VaultConfig,
) -> anyhow::Result<Vault> {
    let mut catalogue = Catalogue::default();
    catalogue.add("bench.toml", connector)?;
    Ok(Vault::open(VaultParts {
        store,
        keyring,
        transport,
        spool: Arc::new(FolderSpool::new(folder.join("spool"))),
        observer,
        clock: clock(),
        chance: Arc::new(SeededChance::new(1)),
        catalogue,
        config,
    })
    .await?)
}

pub(crate) async fn set_client(vault: &Vault) -> anyhow::Result<()> {
    let config = SandboxConfig::default();
    let secret = Secret::new(config.client_secret);
    let key = key(0);
    vault
        .set_client(
            &key.application,
            &key.service,
            &config.client_id,
            Some(&secret),
            Default::default(),
            Vec::new(),
        )
        .await?;
    Ok(())
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock::default())
}

/// The way to token endpoints that the server takes, as far as this machine.
pub(crate) fn http() -> anyhow::Result<HttpTransport> {
    let rules = AddressRules::new(vec!["127.0.0.0/8".parse()?]);
    let connector = Connector::new(rules, Proxies::none(), ExtraRoots::default());
    Ok(HttpTransport::new(connector, clock()))
}

/// A sandbox on a thread of its own, as a provider is on a machine of its own.
pub(crate) struct Provider {
    pub(crate) sandbox: Sandbox,
    _thread: Runtime,
}

impl Provider {
    pub(crate) fn start(config: SandboxConfig) -> anyhow::Result<Self> {
        let thread = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            sandbox: thread.block_on(Sandbox::start(config))?,
            _thread: thread,
        })
    }
}

/// A provider that answers at once, in memory.
#[derive(Debug, Default)]
pub(crate) struct AtOnce {
    answered: AtomicU64,
}

impl AtOnce {
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Transport for AtOnce {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let number = self.answered.fetch_add(1, Ordering::Relaxed);
        let (access, refresh) = (token("at", 1, number), token("rt", 1, number));
        let body = format!(
            r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_in":3600}}"#
        );
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

/// A token of 64 characters: as long as an opaque one is.
pub(crate) fn token(kind: &str, turn: u64, number: u64) -> String {
    format!(
        "{kind}-{turn}-{number:0>width$}",
        width = 64 - kind.len() - 3
    )
}

/// Seconds since a moment.
pub(crate) fn seconds(clock: &dyn Clock, since: Moment) -> f64 {
    since.until(clock.now()).as_secs_f64()
}

/// The `share` of the sorted values that is not above the answer.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    let value = sorted.get(index.saturating_sub(1)).or(sorted.last());
    value.map_or(f64::NAN, |value| value.as_secs_f64() * 1e3)
}

/// This process's resident memory, in bytes.
pub(crate) fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// Processor seconds that this process has used.
pub(crate) fn processor() -> anyhow::Result<f64> {
    /// Linux counts in hundredths, whatever the kernel's own tick.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // What comes before may hold spaces.
    let (_, rest) = stat
        .rsplit_once(')')
        .context("no name in /proc/self/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS)
}
