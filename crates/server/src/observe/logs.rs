//! Structured logs on standard error, written by a thread of their own (see [`super::sink`]).

use std::{
    io::{self, Write},
    sync::LazyLock,
};

use clap::ValueEnum;
use prometheus_client::metrics::counter::Counter;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::sink::{Place, Sink, Writer};

/// Lines that may wait to be written.
const QUEUE: usize = 4096;

/// Lines that were left out, because nobody reads them or they cannot be written.
static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Lines that were left out, for the metrics.
pub(super) fn lost() -> Counter {
    LOST.clone()
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log, until the writer is dropped, which waits a moment for the last lines. `filter` is in the form of `RUST_LOG`, for example `info` or `tokenward=debug`.
///
/// What libraries say below `info` is left out whatever the filter: they may print bytes that
/// they carry, and those may be tokens.
///
/// # Errors
///
/// When the filter cannot be read.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<Writer> {
    let filter: EnvFilter = filter
        .parse()
        .map_err(|error| anyhow::anyhow!("log filter `{filter}`: {error}"))?;
    let ours = filter_fn(|metadata| {
        metadata.target().starts_with("tokenward") || *metadata.level() <= Level::INFO
    });
    let (sink, writer) = Sink::start("log", Place::Stderr, QUEUE, lost())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines(sink));
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A second call (in tests) changes nothing.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(ours))
        .try_init();
    Ok(writer)
}

struct Lines(Sink);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            sink: &self.0,
            text: Vec::new(),
        }
    }
}

/// One event's line, however many writes it takes.
struct Line<'a> {
    sink: &'a Sink,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.sink.pass(std::mem::take(&mut self.text));
    }
}
