//! Whole vaults: what a caller of `token()` waits for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use tokenward::{
    Vault,
    id::ConnectionKey,
    oauth::TokenRequest,
    time::{Clock as _, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
};
use tokio::task::JoinSet;

use crate::{
    Failure, TASKS,
    world::{APP, CONNECTOR, Size, World, consumer},
};

/// Answers at once, with new tokens each time.
#[derive(Debug, Default)]
struct Provider {
    granted: AtomicU64,
}

#[async_trait]
impl Transport for Provider {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        let number = self.granted.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            r#"{{"access_token": "granted-{number:0>480}", "refresh_token": "next-{number:0>80}",
                "token_type": "Bearer", "expires_in": 3600}}"#
        );
        Ok(Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

/// Refreshes and cold tokens a second, by so many replicas.
pub(crate) async fn measure(world: &World, replicas: usize) -> Result<(f64, f64), Failure> {
    let provider = Arc::new(Provider::default());
    let mut vaults = Vec::new();
    for _ in 0..replicas {
        vaults.push(world.vault(provider.clone()).await?);
    }
    let began = provider.granted.load(Ordering::Relaxed);
    let walk = Arc::new(AtomicU64::new(0));
    let walks = vec![walk; replicas];
    let (refreshed, rate) = run(world.size(), &vaults, &walks, Kind::Stale).await?;
    let granted = provider.granted.load(Ordering::Relaxed) - began;
    if granted != refreshed {
        return Err(format!("{refreshed} callers, but {granted} refreshes").into());
    }
    // Each replica on a walk of its own: what is in the memory of one is cold for the others.
    let walks: Vec<_> = (0..replicas).map(|_| Arc::default()).collect();
    let (_, cold) = run(world.size(), &vaults, &walks, Kind::Alive).await?;
    if provider.granted.load(Ordering::Relaxed) - began != refreshed {
        return Err("a token that lives was refreshed".into());
    }
    for vault in &vaults {
        vault.drain(Duration::from_secs(10)).await;
    }
    drop(vaults);
    world.expire()?;
    Ok((rate, cold))
}

/// Which grants are asked for: those whose token has run out, or the others.
#[derive(Clone, Copy)]
enum Kind {
    Stale,
    Alive,
}

/// No grant is asked for twice on one walk, and neighbours lie far apart. `None`: it is at its end.
fn step(walk: &AtomicU64, size: &Size, kind: Kind) -> Option<u64> {
    /// A prime larger than any vault of this bench.
    const STRIDE: u64 = 2_147_483_647;
    let half = size.grants / 2;
    let number = walk.fetch_add(1, Ordering::Relaxed);
    let place = (number < half).then(|| number * STRIDE % half)?;
    Some(match kind {
        Kind::Stale => 2 * place,
        Kind::Alive => 2 * place + 1,
    })
}

/// How many tokens were got, and how many in a second.
async fn run(
    size: &Size,
    vaults: &[Vault],
    walks: &[Arc<AtomicU64>],
    kind: Kind,
) -> Result<(u64, f64), Failure> {
    let clock = TokioClock::default();
    let began = clock.now();
    let mut tasks = JoinSet::new();
    for (vault, walk) in vaults.iter().zip(walks) {
        for _ in 0..TASKS {
            tasks.spawn(work(vault.clone(), *size, walk.clone(), kind));
        }
    }
    let mut done = 0;
    while let Some(count) = tasks.join_next().await {
        done += count??;
    }
    let took = began.until(clock.now());
    Ok((done, done as f64 / took.as_secs_f64()))
}

async fn work(vault: Vault, size: Size, walk: Arc<AtomicU64>, kind: Kind) -> Result<u64, Failure> {
    let clock = TokioClock::default();
    let end = clock.now() + size.seconds;
    let mut done = 0;
    while clock.now() < end {
        let Some(number) = step(&walk, &size, kind) else {
            break;
        };
        let key = ConnectionKey::new(APP, consumer(number), "accounting", CONNECTOR);
        vault.token(&key).await?;
        done += 1;
    }
    Ok(done)
}
