//! What a refresh and a cold token cost, and that it does not grow with the vault.
//!
//! ```text
//! cargo run --release -p tokenward-store-postgres --example scale -- 10000 1000000
//! cargo run --release -p tokenward-store-postgres --example scale -- --seconds 20 1000000
//! ```
//!
//! For each number of grants: a private cluster is filled, then one replica and three replicas
//! work on it with 32 tasks each, at two levels:
//!
//! * `token()`: whole vaults, in front of a provider that answers at once. A refresh is a call for
//!   a token that has run out: flight, limiter, claim, seal, commit. A cold one is a call for a
//!   token that lives and is in no memory: connection, grant, seal.
//! * the store alone: claim and commit; a connection and its grant.
//!
//! The table is printed, and the figures are written to `target/bench/postgres.json`.
//! `TOKENWARD_PG_FOLDER` names a folder on the disk to be measured; without it the cluster is in
//! memory and no flush costs anything.

mod rows;
mod tokens;
mod world;

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use self::world::{Size, World};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// In each replica.
const TASKS: usize = 32;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut figures = Vec::new();
    println!("   GRANTS  REPLICAS  LEVEL    REFRESHES/S  COLD READS/S");
    let sizes = sizes(std::env::args().skip(1))?;
    for size in &sizes {
        let world = World::new(*size).await?;
        for level in ["token()", "store"] {
            for replicas in [1, 3] {
                let (refreshes, cold) = match level {
                    "store" => rows::measure(&world, replicas).await?,
                    _ => tokens::measure(&world, replicas).await?,
                };
                let grants = size.grants;
                println!("{grants:>9}  {replicas:>8}  {level:<7}  {refreshes:>11.0}  {cold:>12.0}");
                figures.push(json!({
                    "grants": grants,
                    "replicas": replicas,
                    "level": level,
                    "refreshes_per_second": refreshes.round(),
                    "cold_reads_per_second": cold.round(),
                }));
            }
        }
    }
    keep(
        &figures,
        sizes.first().map_or(0, |size| size.seconds.as_secs()),
    )
}

/// Numbers of grants, and how long each figure is measured.
fn sizes(mut args: impl Iterator<Item = String>) -> Result<Vec<Size>, Failure> {
    let (mut seconds, mut sizes) = (5, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().ok_or("--seconds N")?.parse()?,
            number => sizes.push(number.parse()?),
        }
    }
    let seconds = Duration::from_secs(seconds);
    Ok(sizes
        .into_iter()
        .map(|grants| Size { grants, seconds })
        .collect())
}

fn keep(figures: &[Value], seconds: u64) -> Result<(), Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    fs::create_dir_all(&folder)?;
    let report = json!({
        "processors": std::thread::available_parallelism()?.get(),
        "optimised": !cfg!(debug_assertions),
        "on_disk": std::env::var_os("TOKENWARD_PG_FOLDER").is_some(),
        "tasks_per_replica": TASKS,
        "seconds": seconds,
        "figures": figures,
    });
    let file = folder.join("postgres.json");
    fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("written to {}", file.canonicalize()?.display());
    Ok(())
}
