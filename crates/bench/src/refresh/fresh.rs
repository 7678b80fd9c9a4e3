//! A fresh token: how long one call takes, and whether two threads are in each other's way.

use std::{
    hint::black_box,
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokenward::{
    ConnectionKey, Secret, Vault, VaultConfig,
    seal::{Key, Keyring},
    store::MemoryStore,
    vault::Import,
};
use tokenward_server::observe::Metrics;
use tokio::runtime::{Builder, Runtime};

use crate::parts::{AtOnce, clock, connector, key, open, token};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each figure is taken; the best one counts, because load only makes it worse
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Calls by a thread in a round
    #[arg(long, default_value_t = 2_000_000)]
    calls: u64,
}

type Work<'a> = &'a (dyn Fn(&ConnectionKey) + Sync);

pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let vault = here()?.block_on(vault(folder.path()))?;
    let (one, other) = (key(0), key(1));
    let ask: Work<'_> = &|key| ask(&vault, key, options.calls);
    // What two threads can do on this machine that share nothing at all.
    let add: Work<'_> = &|_| add(options.calls * 32);
    let best = |threads: &[&ConnectionKey], work| {
        let rounds = (0..options.rounds).map(|_| round(threads, work));
        rounds.min().unwrap_or_default().as_secs_f64()
    };
    let alone = best(&[&one], ask);
    let added_alone = best(&[&one], add);
    Ok(json!({
        "ns": alone / options.calls as f64 * 1e9,
        "two_threads_one_grant": 2.0 * alone / best(&[&one, &one], ask),
        "two_threads_two_grants": 2.0 * alone / best(&[&one, &other], ask),
        "two_threads_sharing_nothing": 2.0 * added_alone / best(&[&one, &other], add),
    }))
}

fn here() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Two connections whose tokens are fresh all day.
async fn vault(folder: &Path) -> anyhow::Result<Vault> {
    let store = Arc::new(MemoryStore::new(clock()));
    let keyring = Keyring::new(vec![Key::generate()])?;
    let connector = connector("http://127.0.0.1/token", 1.0, 1);
    let (transport, observer) = (Arc::new(AtOnce::default()), Arc::new(Metrics::default()));
    let config = VaultConfig::default();
    let vault = open(
        folder, store, keyring, transport, observer, &connector, config,
    )
    .await?;
    for number in [0, 1] {
        let import = Import {
            access_token: Some(Secret::new(token("at", 0, number))),
            refresh_token: Some(Secret::new(token("rt", 0, number))),
            issued_at_ms: Some(i64::MAX),
            expires_in: Some(Duration::from_secs(86_400)),
            ..Import::default()
        };
        vault.import(&key(number), import).await?;
        vault.token(&key(number)).await?;
    }
    Ok(vault)
}

/// From the first thread's start to the last one's end.
fn round(threads: &[&ConnectionKey], work: Work<'_>) -> Duration {
    let (gate, clock) = (Barrier::new(threads.len()), clock());
    let (gate, clock) = (&gate, &clock);
    thread::scope(|scope| {
        let run = |key: &ConnectionKey| {
            gate.wait();
            let from = clock.now();
            work(key);
            (from, clock.now())
        };
        let running: Vec<_> = threads
            .iter()
            .map(|key| scope.spawn(move || run(key)))
            .collect();
        let times: Vec<_> = running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        let from = times.iter().map(|(from, _)| *from).min();
        let to = times.iter().map(|(_, to)| *to).max();
        from.zip(to)
            .map_or(Duration::ZERO, |(from, to)| from.until(to))
    })
}

fn ask(vault: &Vault, key: &ConnectionKey, calls: u64) {
    let runtime = here().expect("a runtime");
    runtime.block_on(async {
        for _ in 0..calls {
            black_box(vault.token(black_box(key)).await.expect("it is fresh"));
        }
    });
}

fn add(times: u64) {
    let mut sum = 0_u64;
    for number in 0..times {
        sum = black_box(sum.wrapping_mul(5).wrapping_add(number));
    }
}
