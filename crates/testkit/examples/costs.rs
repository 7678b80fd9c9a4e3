//! The engine's operations, for `bench/instructions.py` to count: on a memory store, at a provider
//! that answers at once.
//!
//! ```text
//! costs token_fresh 1000
//! ```
//!
//! What is counted happens within a function that is named after the operation and never inlined.
//! One thread does it all, the refresh task too.

use std::{env, error::Error, future::Future, hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use tokenward::{
    ConnectionKey, Secret, Vault, VaultConfig,
    connector::Catalogue,
    oauth::TokenRequest,
    observe::Blind,
    seal::{Key, Keyring},
    spool::NoSpool,
    store::MemoryStore,
    time::{Clock, SeededChance, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
    vault::{Import, VaultParts},
};
use tokio::runtime::{Builder, Runtime};

const CONNECTOR: &str = r#"
id = "bench"
name = "Bench"
unified_apis = ["crm"]
[authorization]
url = "https://id.bench.example/authorize"
[token]
url = "https://id.bench.example/token"
per_second = 1000000000.0
burst = 1000000
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[api]
hosts = ["https://api.bench.example"]
"#;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
struct AtOnce;

#[async_trait]
impl Transport for AtOnce {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let (access, refresh) = (token('a'), token('r'));
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

/// As long as an opaque one is.
fn token(letter: char) -> String {
    [letter; 64].into_iter().collect()
}

struct Bench {
    runtime: Runtime,
    vault: Vault,
    key: ConnectionKey,
}

impl Bench {
    fn new() -> Result<Self, Box<dyn Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let key = ConnectionKey::new("bench", "consumer-0000001", "crm", "bench");
        let vault = runtime.block_on(vault(&key))?;
        Ok(Self {
            runtime,
            vault,
            key,
        })
    }

    fn run<T>(&self, times: u32, operation: &impl AsyncFn(&Vault, &ConnectionKey) -> T) {
        let (vault, key) = (&self.vault, &self.key);
        self.runtime
            .block_on(repeated(times, || operation(vault, key)));
    }
}

async fn repeated<F: Future>(times: u32, mut operation: impl FnMut() -> F) {
    for _ in 0..times {
        black_box(operation().await);
    }
}

async fn vault(key: &ConnectionKey) -> Result<Vault, Box<dyn Error>> {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
    let mut catalogue = Catalogue::default();
    catalogue.add("bench.toml", CONNECTOR)?;
    let vault = Vault::open(VaultParts {
        store: Arc::new(MemoryStore::new(clock.clone())),
        keyring: Keyring::new(vec![Key::generate()])?,
        transport: Arc::new(AtOnce),
        spool: Arc::new(NoSpool),
        observer: Arc::new(Blind),
        clock,
        chance: Arc::new(SeededChance::new(1)),
        catalogue,
        config: VaultConfig::default(),
    })
    .await?;
    let secret = Secret::new("bench-client-secret");
    vault
        .set_client(
            &key.application,
            &key.service,
            "bench-client",
            Some(&secret),
            Default::default(),
            Vec::new(),
        )
        .await?;
    let import = Import {
        access_token: Some(Secret::new(token('a'))),
        refresh_token: Some(Secret::new(token('r'))),
        issued_at_ms: Some(i64::MAX),
        expires_in: Some(DAY),
        ..Import::default()
    };
    vault.import(key, import).await?;
    Ok(vault)
}

#[inline(never)]
fn token_fresh(bench: &Bench, times: u32) {
    bench.run(times, &async |vault, key| {
        vault.token(key).await.expect("it is fresh")
    });
}

#[inline(never)]
fn connection_lookup(bench: &Bench, times: u32) {
    for _ in 0..times {
        let key = black_box(&bench.key);
        let found = bench.vault.resolved(
            key.application.as_str(),
            key.consumer.as_str(),
            &key.unified_api,
            key.service.as_str(),
        );
        black_box(found).expect("it was found before");
    }
}

#[inline(never)]
fn refresh(bench: &Bench, times: u32) {
    bench.run(times, &async |vault, key| {
        vault.validate(key).await.expect("the provider grants")
    });
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let operation = match arguments.next().as_deref() {
        Some("token_fresh") => token_fresh,
        Some("connection_lookup") => connection_lookup,
        Some("refresh") => refresh,
        other => return Err(format!("unknown operation {other:?}").into()),
    };
    let times: u32 = arguments.next().ok_or("how often?")?.parse()?;
    let bench = Bench::new()?;
    // What is made on first use is not counted.
    bench.run(100, &async |vault, key| {
        vault.token(key).await.expect("it is fresh");
        vault.validate(key).await.expect("the provider grants")
    });
    operation(&bench, times);
    Ok(())
}
