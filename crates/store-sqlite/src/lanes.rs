//! Where reads are left for the threads that read.
//!
//! Look-ups of API keys stand in a line of their own, behind all others: anybody can make us look
//! one up that does not exist. That line has a length; whoever does not fit is told so.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use tokenward::store::{StoreError, StoreResult, Waiting};

use crate::job::Job;

/// How many strangers may stand in line.
const STRANGERS: usize = 1_024;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Whoever is known.
    Known,
    /// Whoever shows an API key.
    Stranger,
}

/// The lines.
pub(crate) struct Lanes<J = Box<dyn Job>> {
    state: Mutex<State<J>>,
    more: Condvar,
}

struct State<J> {
    known: VecDeque<J>,
    strangers: VecDeque<J>,
    served: [u64; 2],
    refused: u64,
    closed: bool,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                known: VecDeque::new(),
                strangers: VecDeque::new(),
                served: [0; 2],
                refused: 0,
                closed: false,
            }),
            more: Condvar::new(),
        }
    }
}

impl<J> Lanes<J> {
    pub(crate) fn put(&self, lane: Lane, job: J) -> StoreResult<()> {
        let mut state = self.state();
        match lane {
            Lane::Known => state.known.push_back(job),
            Lane::Stranger if state.strangers.len() >= STRANGERS => {
                state.refused += 1;
                let busy = "too many API keys wait to be looked up";
                return Err(StoreError::Busy(busy.to_owned()));
            }
            Lane::Stranger => state.strangers.push_back(job),
        }
        drop(state);
        self.more.notify_one();
        Ok(())
    }

    /// Waits for jobs: at most so many, one stranger's among them. `false`: there will be none.
    pub(crate) fn take(&self, most: usize, group: &mut Vec<J>) -> bool {
        let mut state = self.state();
        loop {
            let known = state.known.len().min(most - 1);
            group.extend(state.known.drain(..known));
            state.served[0] += known as u64;
            if let Some(stranger) = state.strangers.pop_front() {
                group.push(stranger);
                state.served[1] += 1;
            }
            if !group.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
            state = self
                .more
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more jobs come. Those that wait are done.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.more.notify_all();
    }

    pub(crate) fn waiting(&self) -> [Waiting; 2] {
        let state = self.state();
        let line = |line, waiting: usize, served, refused| Waiting {
            line,
            waiting: waiting as u64,
            served,
            refused,
            // Nobody looks at a clock here.
            waited: std::time::Duration::ZERO,
        };
        [
            line("lookup", state.known.len(), state.served[0], 0),
            line(
                "api_key",
                state.strangers.len(),
                state.served[1],
                state.refused,
            ),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_stand_behind_the_known_and_have_a_turn_all_the_same() {
        let lanes = Lanes::default();
        for stranger in 100..110 {
            lanes.put(Lane::Stranger, stranger).unwrap();
        }
        for known in 0..10 {
            lanes.put(Lane::Known, known).unwrap();
        }
        let mut group = Vec::new();
        assert!(lanes.take(8, &mut group));
        assert_eq!(group, [0, 1, 2, 3, 4, 5, 6, 100]);
        group.clear();
        assert!(lanes.take(8, &mut group));
        assert_eq!(group, [7, 8, 9, 101]);
        group.clear();
        assert!(lanes.take(8, &mut group));
        assert_eq!(group, [102]);
        let waiting = lanes.waiting();
        assert_eq!((waiting[1].waiting, waiting[1].served), (7, 3));
    }

    #[test]
    fn the_strangers_line_has_a_length_and_what_waits_is_done_at_the_end() {
        let lanes = Lanes::default();
        for stranger in 0..STRANGERS {
            lanes.put(Lane::Stranger, stranger).unwrap();
        }
        let refused = lanes.put(Lane::Stranger, 0).unwrap_err();
        assert!(refused.is_slow(), "{refused}");
        lanes.put(Lane::Known, 0).unwrap();
        assert_eq!(lanes.waiting()[1].refused, 1);
        lanes.close();
        let (mut done, mut group) = (0, Vec::new());
        while lanes.take(16, &mut group) {
            done += group.drain(..).count();
        }
        assert_eq!(done, STRANGERS + 1);
    }
}
