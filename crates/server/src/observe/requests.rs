//! The request log: a line of JSON for each request to `/proxy`.
//!
//! A worker's lines gather in a buffer of its own and go to one thread that writes them: see
//! [`super::sink`].

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};

use super::sink::{Place, Sink, Writer};

/// How long a line may wait in its buffer.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// A buffer with this much is passed on at once.
const FULL: usize = 32 * 1024;
/// Buffers that may wait for the writer.
const QUEUE: usize = 64;

/// A request, and what became of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Line<'a> {
    #[serde(serialize_with = "as_text")]
    pub(crate) at: Timestamp,
    /// As in `x-apideck-request-id`.
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    /// Where it was to go, without the query, which may hold secrets.
    #[serde(serialize_with = "without_query")]
    pub(crate) url: &'a str,
    pub(crate) application: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) unified_api: &'a str,
    pub(crate) service: &'a str,
    /// What the caller got.
    pub(crate) status: u16,
    /// From the request's arrival to the head of its answer.
    #[serde(rename = "ms", serialize_with = "milliseconds")]
    pub(crate) took: Duration,
    /// Why it was not proxied, in the words of the answer's `type_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'static str>,
}

fn as_text<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.3}"))
}

fn milliseconds<S: Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((took.as_secs_f64() * 1e6).round() / 1e3)
}

/// Neither the query nor the fragment, nor a name and password before the host.
fn without_query<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    to.serialize_str(if path.contains('@') { "" } else { path })
}

/// A worker's side of the log. Its copies share a buffer; see [`RequestLog::another`].
#[derive(Clone, Debug, Default)]
pub struct RequestLog(Option<Arc<Buffer>>);

struct Buffer {
    lines: Mutex<Vec<u8>>,
    out: Sink,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffer")
    }
}

impl RequestLog {
    /// Begins to write to a file, at its end; `-` is standard output. `lost` counts the lines that
    /// are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be written to, or the thread cannot start.
    pub fn open(file: &Path, lost: Counter) -> io::Result<(Self, Writer)> {
        let place = if file == Path::new("-") {
            Place::Stdout
        } else {
            Place::File(file.to_owned())
        };
        let (out, writer) = Sink::start("request-log", place, QUEUE, lost)?;
        Ok((Self::on(out), writer))
    }

    fn on(out: Sink) -> Self {
        Self(Some(Arc::new(Buffer {
            lines: Mutex::default(),
            out,
        })))
    }

    /// The same log for another worker, with a buffer of its own.
    #[must_use]
    pub fn another(&self) -> Self {
        match &self.0 {
            Some(buffer) => Self::on(buffer.out.clone()),
            None => Self(None),
        }
    }

    /// Whether there is a log.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a line; does nothing without a log.
    pub(crate) fn add<'a>(&self, line: impl FnOnce(Timestamp) -> Line<'a>) {
        let Some(buffer) = &self.0 else { return };
        let line = line(Timestamp::now());
        let mut lines = buffer.lines();
        let before = lines.len();
        if serde_json::to_writer(&mut *lines, &line).is_err() {
            lines.truncate(before);
            return;
        }
        lines.push(b'\n');
        if lines.len() >= FULL {
            buffer.pass(&mut lines);
        }
    }

    /// Passes on what waits in the buffer.
    pub(crate) fn flush(&self) {
        if let Some(buffer) = &self.0 {
            buffer.flush();
        }
    }
}

impl Buffer {
    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) {
        let mut lines = self.lines();
        if !lines.is_empty() {
            self.pass(&mut lines);
        }
    }

    fn pass(&self, lines: &mut Vec<u8>) {
        let full = std::mem::replace(lines, Vec::with_capacity(FULL + FULL / 8));
        self.out.pass(full);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sink::Piece, *};

    fn line(at: Timestamp, url: &str) -> Line<'_> {
        Line {
            at,
            request_id: "r",
            method: "GET",
            url,
            application: "app",
            consumer: "a\"c\nme",
            unified_api: "crm",
            service: "acme",
            status: 200,
            took: Duration::from_micros(1234),
            error: None,
        }
    }

    #[test]
    fn a_line_for_each_request_also_after_the_last_worker_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.log");
        let (log, writer) = RequestLog::open(&file, Counter::default()).unwrap();
        let workers = [log.another(), log.another()];
        for number in 0..1000 {
            workers[number % 2].add(|at| line(at, "https://api.example/a?secret=1"));
        }
        log.add(|at| line(at, "https://user:secret@api.example/"));
        drop((log, workers, writer));
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1001);
        let (hidden, usual): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["url"] == "");
        assert_eq!((hidden.len(), usual.len()), (1, 1000));
        for line in usual {
            assert_eq!(line["url"], "https://api.example/a");
            assert_eq!(line["consumer"], "a\"c\nme");
            assert_eq!(line["ms"], 1.234);
            let at = line["at"].as_str().unwrap();
            assert!(at.parse::<Timestamp>().is_ok(), "{at}");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody() {
        let lost = Counter::default();
        let (out, given) = Sink::stuck(1, lost.clone());
        let log = RequestLog::on(out);
        let added = 4 * FULL / 100;
        for _ in 0..added {
            log.add(|at| line(at, "https://api.example/"));
        }
        log.flush();
        let Ok(Piece::Lines(kept)) = given.try_recv() else {
            panic!("nothing was passed on")
        };
        let kept = kept.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(kept as u64 + lost.get(), added as u64);
        assert!(lost.get() > 0);
    }
}
