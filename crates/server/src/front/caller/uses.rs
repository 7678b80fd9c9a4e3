//! When keys were last shown, for people: gathered beside all requests and written in batches by one task. What
//! the store does not take is let go; the next time that the key is shown, it is said again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokenward::{
    store::USE_NOTED_FOR,
    time::{Clock, Moment},
};
use tokio_util::task::TaskTracker;

use super::keys::{Digest, Find, MOST, locked};

/// How long others are waited for, that a write may tell of them too.
const GATHER: Duration = Duration::from_secs(2);

/// Keys that were shown.
#[derive(Default)]
pub(super) struct Uses(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// When it was last said of a key. Of no more than [`MOST`].
    said: HashMap<Digest, Moment>,
    /// To be written.
    waiting: Vec<Digest>,
    /// A task is at it.
    writing: bool,
}

/// Whose keys, on which clock.
pub(super) struct Place<'a> {
    pub(super) store: &'a Arc<dyn Find>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) tasks: &'a TaskTracker,
}

impl Uses {
    /// A key was shown. To be called by whoever has looked it up, not by whoever waits for that.
    pub(super) fn note(&self, digest: Digest, place: &Place<'_>) {
        let now = place.clock.now();
        let mut state = locked(&self.0);
        let recent = |said: &Moment| now < *said + USE_NOTED_FOR;
        if state.said.get(&digest).is_some_and(recent) {
            return;
        }
        if state.said.len() >= MOST {
            state.said.retain(|_, said| recent(said));
            if state.said.len() >= MOST {
                return;
            }
        }
        state.said.insert(digest, now);
        state.waiting.push(digest);
        if !std::mem::replace(&mut state.writing, true) {
            let mut writer = Writer {
                state: self.0.clone(),
                ended: false,
            };
            let (store, clock) = (place.store.clone(), place.clock.clone());
            place.tasks.spawn(async move {
                loop {
                    clock.sleep(GATHER).await;
                    let Some(batch) = writer.batch() else { return };
                    if let Err(error) = store.used(&batch).await {
                        tracing::debug!(%error, "when API keys were last used is not written");
                    }
                }
            });
        }
    }
}

/// The task that writes. It may end anywhere, with its worker: another one then begins.
struct Writer {
    state: Arc<Mutex<State>>,
    /// It has said so.
    ended: bool,
}

impl Writer {
    /// What is to be written. `None`: nothing is, and nobody writes any more.
    fn batch(&mut self) -> Option<Vec<Digest>> {
        let mut state = locked(&self.state);
        let batch = std::mem::take(&mut state.waiting);
        self.ended = batch.is_empty();
        state.writing = !self.ended;
        state.writing.then_some(batch)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            locked(&self.state).writing = false;
        }
    }
}
