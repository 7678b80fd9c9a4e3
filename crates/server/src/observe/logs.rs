//! Structured logs on standard error.

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log. `filter` is in the form of `RUST_LOG`, for example `info` or `tokenward=debug`.
///
/// What libraries say below `info` is left out whatever the filter: they may print bytes that
/// they carry, and those may be tokens.
///
/// # Errors
///
/// When the filter cannot be read.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter: EnvFilter = filter
        .parse()
        .map_err(|error| anyhow::anyhow!("log filter `{filter}`: {error}"))?;
    let ours = filter_fn(|metadata| {
        metadata.target().starts_with("tokenward") || *metadata.level() <= Level::INFO
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A second call (in tests) changes nothing.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(ours))
        .try_init();
    Ok(())
}
