//! Who gets the next connection.
//!
//! The ledger's verbs come first, then what is known, then strangers: anybody can make us look an
//! API key up that does not exist. Look-ups leave some connections to the ledger, and strangers
//! leave some to those who are known. Each line has a length and a patience; whoever does not get
//! through is told that the store is busy, which is not "away".

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokenward::store::Waiting;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// Who asks, in the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The protocol's verbs, and what they rest upon.
    Ledger,
    /// Look-ups and changes of what there is.
    Known,
    /// API keys.
    Stranger,
}

impl Class {
    const ALL: [Self; 3] = [Self::Ledger, Self::Known, Self::Stranger];

    fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Known => "lookup",
            Self::Stranger => "api_key",
        }
    }

    /// How many may stand in line.
    fn longest(self) -> usize {
        match self {
            Self::Ledger => 50_000,
            Self::Known => 10_000,
            Self::Stranger => 256,
        }
    }

    /// How long one stands in line at most. Callers have deadlines of their own, which are shorter
    /// than the ledger's: a refresh that was granted must be saved though nobody waits any more.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ledger => 60,
            Self::Known => 10,
            Self::Stranger => 5,
        })
    }
}

/// After so many who were let past, a stranger has a turn: a key that was just made is one, too.
const PASSED: u32 = 16;

/// The line; clones are the same.
#[derive(Clone)]
pub(crate) struct Line(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// How many connections look-ups may have, and strangers of these.
    lookups: usize,
    strangers: usize,
    used: [usize; 3],
    lines: [VecDeque<oneshot::Sender<Turn>>; 3],
    /// How many were let past a stranger since the last one's turn.
    passed: u32,
    seen: [Seen; 3],
}

#[derive(Clone, Copy, Default)]
struct Seen {
    served: u64,
    refused: u64,
    waited: Duration,
}

/// The right to a connection, until it is dropped.
pub(crate) struct Turn {
    line: Line,
    class: Class,
    /// Whether it was never taken, so that nothing is given back.
    void: bool,
}

/// The line is too long, or does not move.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooBusy;

impl Line {
    pub(crate) fn new(connections: usize) -> Self {
        let kept = if connections > 1 {
            (connections / 4).max(1)
        } else {
            0
        };
        Self(Arc::new(Mutex::new(State {
            free: connections,
            lookups: connections - kept,
            strangers: kept.max(1),
            used: [0; 3],
            lines: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            passed: 0,
            seen: [Seen::default(); 3],
        })))
    }

    /// Waits for a connection.
    pub(crate) async fn turn(&self, class: Class) -> Result<Turn, TooBusy> {
        let waiting = {
            let mut state = self.state();
            if state.admits(class) {
                state.admit(class);
                state.seen[class as usize].served += 1;
                return Ok(self.given(class));
            }
            if state.lines[class as usize].len() >= class.longest() {
                state.sweep(class);
            }
            if state.lines[class as usize].len() >= class.longest() {
                state.seen[class as usize].refused += 1;
                return Err(TooBusy);
            }
            let (sender, waiting) = oneshot::channel();
            state.lines[class as usize].push_back(sender);
            waiting
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it is shown, and nothing is decided by it"
        )]
        let begun = Instant::now();
        let turn = timeout(class.patience(), waiting).await;
        let mut state = self.state();
        let seen = &mut state.seen[class as usize];
        seen.waited += begun.elapsed();
        match turn {
            Ok(Ok(turn)) => {
                seen.served += 1;
                Ok(turn)
            }
            _ => {
                seen.refused += 1;
                Err(TooBusy)
            }
        }
    }

    /// What can be seen of it.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        let mut state = self.state();
        let mut all = Vec::new();
        for class in Class::ALL {
            state.sweep(class);
            let seen = state.seen[class as usize];
            all.push(Waiting {
                line: class.name(),
                waiting: state.lines[class as usize].len() as u64,
                served: seen.served,
                refused: seen.refused,
                waited: seen.waited,
            });
        }
        all
    }

    fn given(&self, class: Class) -> Turn {
        Turn {
            line: self.clone(),
            class,
            void: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection to whoever is next.
    fn leave(&self, class: Class) {
        let mut state = self.state();
        state.free += 1;
        state.used[class as usize] -= 1;
        while let Some((class, next)) = state.next() {
            state.admit(class);
            if let Err(mut turn) = next.send(self.given(class)) {
                // It has gone away.
                turn.void = true;
                state.free += 1;
                state.used[class as usize] -= 1;
            }
        }
    }
}

impl State {
    fn admits(&self, class: Class) -> bool {
        let lookups = self.used[Class::Known as usize] + self.used[Class::Stranger as usize];
        self.free > 0
            && match class {
                Class::Ledger => true,
                Class::Known => lookups < self.lookups,
                Class::Stranger => {
                    lookups < self.lookups && self.used[Class::Stranger as usize] < self.strangers
                }
            }
    }

    fn admit(&mut self, class: Class) {
        self.free -= 1;
        self.used[class as usize] += 1;
    }

    /// Whose turn it is, of those who wait.
    fn next(&mut self) -> Option<(Class, oneshot::Sender<Turn>)> {
        let strangers_turn =
            self.passed >= PASSED && !self.lines[Class::Stranger as usize].is_empty();
        let order = match strangers_turn {
            false => Class::ALL,
            true => [Class::Ledger, Class::Stranger, Class::Known],
        };
        for class in order {
            if !self.admits(class) {
                continue;
            }
            if let Some(next) = self.lines[class as usize].pop_front() {
                self.passed = match class {
                    Class::Ledger => self.passed,
                    Class::Known => self.passed.saturating_add(1),
                    Class::Stranger => 0,
                };
                return Some((class, next));
            }
        }
        None
    }

    /// Forgets those who have gone away.
    fn sweep(&mut self, class: Class) {
        self.lines[class as usize].retain(|waiting| !waiting.is_closed());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.void {
            self.line.leave(self.class);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    async fn turns(line: &Line, class: Class, count: usize) -> Vec<Turn> {
        let mut turns = Vec::new();
        for _ in 0..count {
            turns.push(line.turn(class).await.expect("free"));
        }
        turns
    }

    #[tokio::test]
    async fn look_ups_leave_connections_to_the_ledger_and_strangers_to_the_known() {
        let line = Line::new(8);
        let strangers = turns(&line, Class::Stranger, 2).await;
        assert!(line.turn(Class::Stranger).now_or_never().is_none());
        let known = turns(&line, Class::Known, 4).await;
        assert!(line.turn(Class::Known).now_or_never().is_none());
        let ledger = turns(&line, Class::Ledger, 2).await;
        assert!(line.turn(Class::Ledger).now_or_never().is_none());
        drop((strangers, known));
        let more = turns(&line, Class::Ledger, 6).await;
        drop((ledger, more));
        assert_eq!(line.state().free, 8);
        assert_eq!(line.state().used, [0; 3]);
    }

    #[tokio::test]
    async fn the_ledger_goes_first_whoever_came_before() {
        let line = Line::new(1);
        let held = line.turn(Class::Stranger).await.expect("free");
        let mut stranger = pin!(line.turn(Class::Stranger));
        let mut known = pin!(line.turn(Class::Known));
        let mut ledger = pin!(line.turn(Class::Ledger));
        assert!(stranger.as_mut().now_or_never().is_none());
        assert!(known.as_mut().now_or_never().is_none());
        assert!(ledger.as_mut().now_or_never().is_none());
        drop(held);
        assert!(stranger.as_mut().now_or_never().is_none());
        assert!(known.as_mut().now_or_never().is_none());
        drop(ledger.await.expect("its turn"));
        assert!(stranger.as_mut().now_or_never().is_none());
        drop(known.await.expect("its turn"));
        drop(stranger.await.expect("its turn"));
    }

    #[tokio::test]
    async fn a_stranger_is_not_passed_over_for_ever() {
        let line = Line::new(1);
        let mut held = line.turn(Class::Known).await.expect("free");
        let mut stranger = Box::pin(line.turn(Class::Stranger));
        assert!(stranger.as_mut().now_or_never().is_none());
        for _ in 0..PASSED {
            let mut known = Box::pin(line.turn(Class::Known));
            assert!(known.as_mut().now_or_never().is_none());
            drop(held);
            held = known.await.expect("its turn");
        }
        let mut known = Box::pin(line.turn(Class::Known));
        assert!(known.as_mut().now_or_never().is_none());
        drop(held);
        drop(stranger.await.expect("its turn"));
        drop(known.await.expect("its turn"));
    }

    #[tokio::test]
    async fn whoever_goes_away_takes_no_connection_along() {
        let line = Line::new(1);
        let held = line.turn(Class::Ledger).await.expect("free");
        let mut gone = Box::pin(line.turn(Class::Ledger));
        let mut given = Box::pin(line.turn(Class::Ledger));
        let mut last = Box::pin(line.turn(Class::Ledger));
        for waiting in [&mut gone, &mut given, &mut last] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(gone);
        // Given to the second one, which leaves before it looks.
        drop(held);
        drop(given);
        drop(last.await.expect("its turn"));
        assert_eq!(line.state().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end_and_a_line_a_length() {
        let line = Line::new(1);
        let _held = line.turn(Class::Ledger).await.expect("free");
        let mut waiting: Vec<_> = (0..Class::Stranger.longest())
            .map(|_| Box::pin(line.turn(Class::Stranger)))
            .collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let refused = line.turn(Class::Stranger).now_or_never();
        assert_eq!(refused.map(Result::err), Some(Some(TooBusy)));
        let last = waiting.pop().expect("many");
        assert_eq!(last.await.err(), Some(TooBusy));
        let seen = line.waiting();
        assert_eq!(
            (seen[2].line, seen[2].refused, seen[2].served),
            ("api_key", 2, 0)
        );
        assert_eq!(seen[2].waited, Class::Stranger.patience());
        // Those who left make room.
        drop(waiting);
        assert!(line.turn(Class::Stranger).now_or_never().is_none());
        assert_eq!(line.turn(Class::Known).await.err(), Some(TooBusy));
        assert_eq!(line.turn(Class::Ledger).await.err(), Some(TooBusy));
    }
}
