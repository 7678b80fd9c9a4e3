//! Whether the disk takes writes: one that takes none for longer than a claim is to its processes
//! what being stopped is. The report tells of it beside the violations; it excuses none.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::world::World;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks at a disk until it is asked what it has seen.
#[derive(Debug)]
pub(super) struct DiskWatch {
    done: Arc<AtomicBool>,
    watching: thread::JoinHandle<Vec<(u64, u64)>>,
}

impl DiskWatch {
    /// Makes something durable in this folder again and again, and takes note of what takes as
    /// long as `stall`.
    pub(super) fn start(folder: &Path, world: Arc<World>, stall: Duration) -> io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        let done = Arc::new(AtomicBool::new(false));
        let end = done.clone();
        let watching = thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || {
                let mut stalls = Vec::new();
                let least = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
                while !end.load(Ordering::Relaxed) {
                    let from = world.sandbox.now_ms();
                    // A disk that is full, on purpose, is no stall.
                    let _ = flush(&mut file);
                    let to = world.sandbox.now_ms();
                    if to - from >= least {
                        stalls.push((from, to));
                    }
                    thread::sleep(LOOK_EVERY);
                }
                stalls
            })?;
        Ok(Self { done, watching })
    }

    /// From when to when it took no writes, in the provider's time.
    pub(super) fn stalls(self) -> Vec<(u64, u64)> {
        self.done.store(true, Ordering::Relaxed);
        self.watching.join().unwrap_or_default()
    }
}

fn flush(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    file.write_all(&[1; 4096])?;
    file.sync_data()
}
