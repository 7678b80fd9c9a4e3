//! The streams of an HTTP/2 connection, each in a task of its own, which ends when its client leaves it no room.
//!
//! Flow control is the client's: who opens a stream and never enlarges its window keeps the request, and the
//! API's answer, for as long as the connection is open, while pings and other streams keep that alive. The
//! HTTP library waits for room without asking anybody; whether it does is seen from here: it was handed a
//! piece of the body and comes for no other.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::Sleep;

/// What is handed to a stream at once, at most: a frame's usual length. A client that takes so much within
/// the time limit is slow, and not gone.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    static STREAM: Cell<Handed>;
}

/// How far an answer has come with its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Handed {
    /// Pieces of the body.
    pieces: u64,
    /// The last piece was handed over, and nobody has come for the next one.
    waits: bool,
}

/// Runs a connection's streams.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    /// How long a client may leave a stream without room.
    pub(super) patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let ending = unless_blocked(stream, self.patience);
        TokioExecutor::new().execute(STREAM.scope(Cell::default(), ending));
    }
}

/// Runs a stream to its end; drops it, which resets it, when its client has left it without room for too long.
async fn unless_blocked(stream: impl Future<Output = ()>, patience: Duration) {
    let mut stream = pin!(stream);
    let mut seen = Handed::default();
    let mut sleep: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let handed = STREAM.with(Cell::get);
        if handed != seen {
            (seen, sleep) = (handed, None);
        }
        if !handed.waits {
            return Poll::Pending;
        }
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        sleep.as_mut().poll(context)
    })
    .await;
}

/// Tells the stream, if it is one, that its answer's next piece is asked for.
pub(super) fn asked() {
    let _ = STREAM.try_with(|stream| {
        let handed = stream.get();
        stream.set(Handed {
            waits: false,
            ..handed
        });
    });
}

/// Takes from `data` what a stream is handed next, and tells it so.
pub(super) fn hand(data: &mut Bytes) -> Bytes {
    let handed = STREAM.try_with(|stream| {
        stream.set(Handed {
            pieces: stream.get().pieces + 1,
            waits: true,
        });
    });
    let most = if handed.is_ok() { PIECE } else { usize::MAX };
    data.split_to(data.len().min(most))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// For how many seconds a stream is run, at most a day.
    #[expect(clippy::disallowed_methods, reason = "the clock is paused")]
    async fn seconds(stream: impl Future<Output = ()>) -> u64 {
        let began = Instant::now();
        let stream = unless_blocked(stream, PATIENCE);
        let running = STREAM.scope(Cell::default(), stream);
        let _ = tokio::time::timeout(Duration::from_secs(86_400), running).await;
        began.elapsed().as_secs()
    }

    fn hand_some() {
        asked();
        hand(&mut Bytes::from_static(b"piece"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_left_without_room_ends() {
        let stuck = async {
            hand_some();
            std::future::pending::<()>().await;
        };
        assert_eq!(seconds(stuck).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_answer_goes_on() {
        let silent = async {
            hand_some();
            sleep(Duration::from_secs(40)).await;
            asked();
            std::future::pending::<()>().await;
        };
        assert_eq!(seconds(silent).await, 86_400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_puts_the_end_off_with_each_piece() {
        let slow = async {
            for _ in 0..100 {
                hand_some();
                sleep(Duration::from_secs(50)).await;
            }
        };
        assert_eq!(seconds(slow).await, 5000);
    }

    #[tokio::test]
    async fn a_stream_is_handed_no_more_than_a_frame_at_once() {
        let long = Bytes::from(vec![0; 3 * PIECE + 1]);
        let mut rest = long.clone();
        assert_eq!(hand(&mut rest).len(), long.len());
        STREAM
            .scope(Cell::default(), async move {
                let mut rest = long;
                let mut lengths = Vec::new();
                while !rest.is_empty() {
                    lengths.push(hand(&mut rest).len());
                }
                assert_eq!(lengths, [PIECE, PIECE, PIECE, 1]);
            })
            .await;
    }
}
