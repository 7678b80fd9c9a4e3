//! What refreshing costs, part by part. `bench/refresh.py` (`make bench-refresh`) drives it, checks
//! that nothing else disturbed it, and prints the table; see there for what is measured.
//!
//! ```text
//! cargo run --release -p tokenward-bench --bin refresh -- herd
//! ```
//!
//! Each part prints one JSON object. A wrong outcome (a caller without a token, a second refresh)
//! is an error: nothing is printed then.

mod fresh;
mod herd;
mod million;
mod minute;
mod parts;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The server's allocator, for the same figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What refreshing costs
#[derive(Debug, Parser)]
struct Options {
    /// Where vaults are made: a folder on the disk that is to be measured
    #[arg(long, global = true, default_value = "target/bench")]
    folder: PathBuf,
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Many callers on one grant that has expired
    Herd(herd::Options),
    /// Many grants that expire within a minute, and a provider that takes so many a second
    Minute(minute::Options),
    /// Makes the vault of the next part
    Fill(million::Size),
    /// A vault with many grants: start, memory, schedule, cold reads, refreshes
    Million(million::Options),
    /// A fresh token, from one thread and from two
    Fresh(fresh::Options),
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.folder)?;
    let folder = &options.folder;
    let found = match &options.part {
        Part::Herd(herd) => herd::run(folder, herd),
        Part::Minute(minute) => minute::run(folder, minute),
        Part::Fill(size) => million::fill(folder, size),
        Part::Million(million) => million::run(folder, million),
        Part::Fresh(fresh) => fresh::run(fresh),
    }?;
    println!("{found}");
    Ok(())
}
