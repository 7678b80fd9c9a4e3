//! Where lines are written to, by a thread of its own: nobody who has something to say waits for a
//! disk, nor for who reads the other end of a pipe. What does not fit is left out, and counted.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

/// How long the end of a process waits for what is still to be written, in steps.
const LAST_WORDS: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// What the writer is given.
pub(super) enum Piece {
    Lines(Vec<u8>),
    /// Somebody waits until all that came before is written.
    Flush(SyncSender<()>),
}

/// Where lines go.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// The givers' side.
#[derive(Clone)]
pub(super) struct Sink {
    lines: SyncSender<Piece>,
    lost: Counter,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

/// The thread that writes. When this is dropped, what was passed before is waited for, but not for
/// long: what it is written to may be stuck.
pub struct Writer {
    lines: SyncSender<Piece>,
    reopen: Arc<AtomicBool>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// From the next line on the file is another one of the same name, made if need be: the old one
    /// was moved away.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    /// Waits a moment until all that was passed before is written.
    pub(crate) fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        let mut flush = Piece::Flush(done);
        for _ in 0..LAST_WORDS {
            match self.lines.try_send(flush) {
                Ok(()) => {
                    let _ = flushed.recv_timeout(STEP * LAST_WORDS);
                    return;
                }
                Err(TrySendError::Full(back)) => flush = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            thread::sleep(STEP);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Sink {
    /// Begins to write. At most `queue` pieces wait; `lost` counts the lines of those that are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or the thread cannot start.
    pub(super) fn start(
        name: &'static str,
        place: Place,
        queue: usize,
        lost: Counter,
    ) -> io::Result<(Self, Writer)> {
        let to = Out::open(&place)?;
        let (lines, given) = sync_channel(queue);
        let reopen = Arc::<AtomicBool>::default();
        let writing = Writing {
            to,
            place,
            name,
            reopen: reopen.clone(),
            lost: lost.clone(),
            failing: false,
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writing.run(&given))?;
        let sink = Self {
            lines: lines.clone(),
            lost,
        };
        Ok((sink, Writer { lines, reopen }))
    }

    /// Hands lines over; never waits.
    pub(super) fn pass(&self, mut lines: Vec<u8>) {
        escape_controls(&mut lines);
        if let Err(
            TrySendError::Full(Piece::Lines(unsent))
            | TrySendError::Disconnected(Piece::Lines(unsent)),
        ) = self.lines.try_send(Piece::Lines(lines))
        {
            self.lost.inc_by(count(&unsent));
        }
    }

    #[cfg(test)]
    pub(super) fn stuck(queue: usize, lost: Counter) -> (Self, Receiver<Piece>) {
        let (lines, given) = sync_channel(queue);
        (Self { lines, lost }, given)
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The writer's side.
struct Writing {
    to: Out,
    place: Place,
    name: &'static str,
    reopen: Arc<AtomicBool>,
    lost: Counter,
    failing: bool,
}

impl Writing {
    /// Writes what is given, until nobody is left to give.
    fn run(mut self, given: &Receiver<Piece>) {
        let mut told = self.lost.get();
        for piece in given {
            let lines = match piece {
                Piece::Lines(lines) => lines,
                Piece::Flush(done) => {
                    let _ = done.try_send(());
                    continue;
                }
            };
            if self.reopen.swap(false, Ordering::SeqCst) {
                self.open_again();
            }
            match self.to.write_all(&lines).and_then(|()| self.to.flush()) {
                Ok(()) => {
                    self.failing = false;
                    let lost = self.lost.get();
                    if lost > told {
                        tracing::warn!(
                            log = self.name,
                            lines = lost - told,
                            "lines of a log were left out"
                        );
                        told = lost;
                    }
                }
                Err(error) => {
                    self.lost.inc_by(count(&lines));
                    // Of standard error there is nowhere to tell.
                    if !self.failing && !matches!(self.place, Place::Stderr) {
                        tracing::error!(%error, log = self.name, "a log cannot be written; lines are left out");
                    }
                    self.failing = true;
                }
            }
        }
    }

    fn open_again(&mut self) {
        match Out::open(&self.place) {
            Ok(to) => self.to = to,
            Err(error) => {
                tracing::error!(%error, log = self.name, "a log cannot be opened again; the old file is written to");
            }
        }
    }
}

enum Out {
    Stdout,
    Stderr,
    File(File),
}

impl Out {
    fn open(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Stdout => Self::Stdout,
            Place::Stderr => Self::Stderr,
            Place::File(file) => Self::File(open_private(file)?),
        })
    }
}

/// For nobody else to read: who asked for what is in it.
fn open_private(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => io::stdout().write(bytes),
            Self::Stderr => io::stderr().write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().flush(),
            Self::Stderr => io::stderr().flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// Writes the control characters of C1 (U+0080 to U+009F, two bytes each in UTF-8) and DEL as JSON
/// does those of C0: some terminals obey them.
fn escape_controls(lines: &mut Vec<u8>) {
    let is_control = |at: usize| match lines[at] {
        0x7f => true,
        0xc2 => matches!(lines.get(at + 1), Some(0x80..=0x9f)),
        _ => false,
    };
    let Some(first) = (0..lines.len()).find(|at| is_control(*at)) else {
        return;
    };
    let mut escaped = lines[..first].to_vec();
    let mut at = first;
    while at < lines.len() {
        if is_control(at) {
            let width = if lines[at] == 0x7f { 1 } else { 2 };
            let code = lines[at + width - 1];
            escaped.extend_from_slice(format!("\\u{code:04x}").as_bytes());
            at += width;
        } else {
            escaped.push(lines[at]);
            at += 1;
        }
    }
    *lines = escaped;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let place = Place::File(file.clone());
        let (sink, writer) = Sink::start("test", place, 8, Counter::default()).unwrap();
        sink.pass(b"one\n".to_vec());
        while std::fs::read(&file).unwrap().is_empty() {
            thread::yield_now();
        }
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::rename(&file, folder.path().join("old")).unwrap();
        writer.reopen();
        sink.pass(b"two\n".to_vec());
        drop((sink, writer));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "two\n");
        let old = std::fs::read_to_string(folder.path().join("old")).unwrap();
        assert_eq!(old, "one\n");
    }

    #[test]
    fn what_a_terminal_might_obey_is_escaped() {
        let text = "a\u{9b}31m \u{7f} é \u{a0} \u{80}";
        let mut lines = serde_json::to_vec(text).unwrap();
        escape_controls(&mut lines);
        let shown = String::from_utf8(lines).unwrap();
        assert!(!shown.chars().any(char::is_control), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let lost = Counter::default();
        let place = Place::File("/dev/full".into());
        let (sink, writer) = Sink::start("test", place, 8, lost.clone()).unwrap();
        sink.pass(b"one\ntwo\n".to_vec());
        drop((sink, writer));
        assert_eq!(lost.get(), 2);
    }
}
