//! How long a connection may stand still.
//!
//! A connection notes what it waits for, which costs it a store or two; one task of each worker looks at all of
//! them once a second and ends those that have waited for too long. Nobody reads a clock for a request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, Semaphore},
};

use crate::observe::load::Load;

/// How often is looked.
const TICK: Duration = Duration::from_secs(1);
/// What is left to wait for where connections are about to run out.
const UNDER_PRESSURE: u32 = 5;

/// How long connections may wait, in seconds, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// For the next request.
    pub(crate) idle: u32,
    /// For the rest of a head, or of a small body.
    pub(crate) head: u32,
    /// For the client to take any of an answer.
    pub(crate) write: u32,
    /// Connections at once.
    pub(crate) most: usize,
    /// Requests at once.
    pub(crate) requests: usize,
}

/// What a connection waits for.
#[derive(Debug)]
pub(crate) struct ConnectionTimer {
    /// Requests that are not answered to the end.
    requests: AtomicU32,
    /// A request has begun to arrive.
    arriving: AtomicBool,
    /// The client does not take what is written.
    blocked: AtomicBool,
    /// It is HTTP/2: what arrives need not be of a request.
    multiplexed: AtomicBool,
    /// Grows with each request that begins or ends.
    turns: AtomicU32,
    /// Grows whenever the client takes some of what is written.
    taken: AtomicU32,
    expired: Notify,
    /// Of all the worker's connections.
    load: Arc<Load>,
}

/// What a connection waits for, at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Idle,
    Head,
    /// For an answer: that has a deadline of its own.
    Answer,
    Write,
}

impl ConnectionTimer {
    /// Of a new connection, from which a request (or a TLS handshake) is due.
    pub(crate) fn new(load: Arc<Load>) -> Self {
        Self {
            requests: AtomicU32::new(0),
            arriving: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            turns: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            expired: Notify::new(),
            load,
        }
    }

    /// A request is there; it counts until the guard is dropped.
    ///
    /// # Errors
    ///
    /// Too many requests are in flight: it is to be refused, and counts for its connection only.
    pub(crate) fn request(self: &Arc<Self>) -> Result<RequestGuard, RequestGuard> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.arriving.store(false, Ordering::Relaxed);
        grow(&self.turns);
        let admitted = self.load.begin();
        let guard = RequestGuard {
            timer: self.clone(),
            admitted,
        };
        if admitted { Ok(guard) } else { Err(guard) }
    }

    /// Its requests come beside each other, and pings between them.
    pub(crate) fn multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// Some bytes of a next request are there.
    pub(crate) fn arriving(&self) {
        self.arriving.store(true, Ordering::Relaxed);
    }

    /// Ends when the connection has waited for too long.
    pub(crate) async fn expired(&self) {
        self.expired.notified().await;
    }

    /// What puts the end of this waiting off.
    fn progress(&self, waiting: Waiting) -> u32 {
        match waiting {
            Waiting::Idle | Waiting::Head | Waiting::Answer => &self.turns,
            Waiting::Write => &self.taken,
        }
        .load(Ordering::Relaxed)
    }

    fn waiting(&self) -> Waiting {
        if self.blocked.load(Ordering::Relaxed) {
            Waiting::Write
        } else if self.requests.load(Ordering::Relaxed) > 0 {
            Waiting::Answer
        } else if self.arriving.load(Ordering::Relaxed) {
            Waiting::Head
        } else {
            Waiting::Idle
        }
    }
}

/// Only the worker's own thread writes these.
fn grow(count: &AtomicU32) {
    let before = count.load(Ordering::Relaxed);
    count.store(before.wrapping_add(1), Ordering::Relaxed);
}

/// A request that is not answered to the end.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    timer: Arc<ConnectionTimer>,
    /// It counts among the worker's requests.
    admitted: bool,
}

impl RequestGuard {
    /// All of the answer is there: it makes room for other requests, though its client may take long to read it.
    pub(crate) fn answered(&mut self) {
        if std::mem::take(&mut self.admitted) {
            self.timer.load.ended();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        grow(&self.timer.turns);
        self.timer.requests.fetch_sub(1, Ordering::Relaxed);
        self.answered();
    }
}

/// The connections of one worker, as its [`Sweeper`] learns of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers(Arc<Mutex<Vec<Weak<ConnectionTimer>>>>);

impl Timers {
    pub(crate) fn add(&self, timer: &Arc<ConnectionTimer>) {
        let mut new = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        new.push(Arc::downgrade(timer));
    }

    fn take(&self) -> Vec<Weak<ConnectionTimer>> {
        let mut new = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut new)
    }
}

/// Ends connections that have waited for too long.
#[derive(Debug)]
pub(crate) struct Sweeper {
    limits: ConnectionLimits,
    room: Arc<Semaphore>,
    new: Timers,
    watched: Vec<Seen>,
}

/// What a connection waited for when it was looked at last, and for how many looks since.
#[derive(Debug)]
struct Seen {
    timer: Weak<ConnectionTimer>,
    waiting: Waiting,
    progress: u32,
    ticks: u32,
}

impl Sweeper {
    pub(crate) fn new(limits: ConnectionLimits, room: Arc<Semaphore>) -> Self {
        Self {
            limits,
            room,
            new: Timers::default(),
            watched: Vec::new(),
        }
    }

    /// Where new connections are to be added.
    pub(crate) fn timers(&self) -> Timers {
        self.new.clone()
    }

    /// Looks once a second, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        // When four of five places are taken, nobody keeps one for long without using it.
        let pressure = self.room.available_permits() < self.limits.most / 5;
        let new = self.new.take().into_iter().map(|timer| Seen {
            timer,
            waiting: Waiting::Head,
            progress: 0,
            ticks: 0,
        });
        self.watched.extend(new);
        let limits = self.limits;
        self.watched.retain_mut(|seen| {
            let Some(timer) = seen.timer.upgrade() else {
                return false;
            };
            if seen.look(&timer) > limits.of(seen.waiting, pressure) {
                timer.expired.notify_one();
            }
            true
        });
    }
}

impl Seen {
    /// For how many looks the connection has waited for the same.
    fn look(&mut self, timer: &ConnectionTimer) -> u32 {
        let waiting = timer.waiting();
        let progress = timer.progress(waiting);
        if (waiting, progress) == (self.waiting, self.progress) {
            self.ticks += 1;
        } else {
            (self.waiting, self.progress, self.ticks) = (waiting, progress, 0);
        }
        self.ticks
    }
}

impl ConnectionLimits {
    /// How many requests at once one of so many workers takes.
    pub(crate) fn requests_of(&self, worker: usize, workers: usize) -> usize {
        let remainder = usize::from(worker < self.requests % workers);
        (self.requests / workers + remainder).max(1)
    }

    fn of(&self, waiting: Waiting, pressure: bool) -> u32 {
        let limit = match waiting {
            Waiting::Answer => return u32::MAX,
            Waiting::Write => return self.write,
            Waiting::Idle => self.idle,
            Waiting::Head => self.head,
        };
        if pressure {
            limit.min(UNDER_PRESSURE)
        } else {
            limit
        }
    }
}

/// A stream that notes what moves on it.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    timer: Arc<ConnectionTimer>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, timer: Arc<ConnectionTimer>) -> Self {
        Self { stream, timer }
    }

    fn wrote<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            grow(&self.timer.taken);
        }
        let blocked = polled.is_pending();
        if self.timer.blocked.load(Ordering::Relaxed) != blocked {
            self.timer.blocked.store(blocked, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before
            && self.timer.waiting() == Waiting::Idle
            && !self.timer.multiplexed.load(Ordering::Relaxed)
        {
            self.timer.arriving();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        idle: 75,
        head: 30,
        write: 60,
        most: 10,
        requests: 10,
    };

    /// A sweeper with one connection.
    fn watched() -> (Sweeper, Arc<ConnectionTimer>) {
        let sweeper = Sweeper::new(LIMITS, Arc::new(Semaphore::new(10)));
        let timer = Arc::new(ConnectionTimer::new(Arc::new(Load::new(10))));
        sweeper.timers().add(&timer);
        (sweeper, timer)
    }

    /// After how many seconds the connection is ended, if that is within an hour.
    fn ended_after(sweeper: &mut Sweeper, timer: &ConnectionTimer) -> Option<u32> {
        (1..3600).find(|_| {
            sweeper.sweep();
            let context = &mut Context::from_waker(std::task::Waker::noop());
            std::pin::pin!(timer.expired()).poll(context).is_ready()
        })
    }

    #[test]
    fn a_connection_that_says_nothing_or_not_all_is_ended() {
        let (mut sweeper, timer) = watched();
        assert_eq!(ended_after(&mut sweeper, &timer), Some(31));
    }

    #[test]
    fn between_requests_it_may_rest_for_longer_than_load_balancers_do() {
        let (mut sweeper, timer) = watched();
        drop(timer.request());
        assert!(ended_after(&mut sweeper, &timer).is_some_and(|after| after > 75));
        // The first byte of the next one gives it time for the rest.
        drop(timer.request());
        for _ in 0..70 {
            sweeper.sweep();
        }
        timer.arriving();
        assert!(ended_after(&mut sweeper, &timer).is_some_and(|after| after > 30));
    }

    #[test]
    fn a_request_under_way_keeps_it_open() {
        let (mut sweeper, timer) = watched();
        let request = timer.request();
        assert!(request.is_ok());
        assert_eq!(ended_after(&mut sweeper, &timer), None);
        drop(request);
        assert!(ended_after(&mut sweeper, &timer).is_some());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_ended_although_its_request_is_under_way() {
        let (mut sweeper, timer) = watched();
        let _request = timer.request();
        let (here, mut there) = tokio::io::duplex(8);
        let mut here = Watched::new(here, timer.clone());
        here.write_all(b"12345678").await.unwrap();
        let mut more = Box::pin(async move { here.write_all(b"1234").await });
        assert!(futures_util::poll!(more.as_mut()).is_pending());
        let mut looks = 0;
        while looks < 50 {
            sweeper.sweep();
            looks += 1;
        }
        // It takes some: that puts the end off.
        there.read_exact(&mut [0; 2]).await.unwrap();
        assert!(futures_util::poll!(more.as_mut()).is_pending());
        assert!(ended_after(&mut sweeper, &timer).is_some_and(|after| after > 59));
    }

    #[tokio::test]
    async fn pings_and_their_answers_are_no_use_of_a_connection() {
        let (mut sweeper, timer) = watched();
        timer.multiplexed();
        drop(timer.request());
        let (here, mut there) = tokio::io::duplex(8);
        let mut here = Watched::new(here, timer.clone());
        for _ in 0..75 {
            there.write_all(b"ping").await.unwrap();
            here.read_exact(&mut [0; 4]).await.unwrap();
            here.write_all(b"pong").await.unwrap();
            there.read_exact(&mut [0; 4]).await.unwrap();
            sweeper.sweep();
        }
        assert_eq!(ended_after(&mut sweeper, &timer), Some(2));
    }

    #[test]
    fn workers_share_the_requests_out() {
        let shares = |requests, workers| {
            let limits = ConnectionLimits { requests, ..LIMITS };
            let each = (0..workers).map(|worker| limits.requests_of(worker, workers));
            each.collect::<Vec<_>>()
        };
        assert_eq!(shares(10, 1), [10]);
        assert_eq!(shares(10, 4), [3, 3, 2, 2]);
        assert_eq!(shares(1, 2), [1, 1]);
    }

    #[test]
    fn where_connections_run_out_nobody_keeps_one_for_long() {
        let (mut sweeper, timer) = watched();
        let taken = sweeper.room.clone().try_acquire_many_owned(9).unwrap();
        assert_eq!(ended_after(&mut sweeper, &timer), Some(6));
        drop(taken);
    }
}
