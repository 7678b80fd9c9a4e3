//! A connection to a server, read and written by whoever waits for its answer.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};
use tokio_util::io::poll_read_buf;

use crate::{
    Malformed,
    response::{self, Found, ResponseHead},
};

/// What is read at once.
const READ: usize = 16 * 1024;
/// More interim answers than this before the answer proper no server sends.
pub const MOST_INTERIM: u32 = 32;

/// What is wrong with an answer that has more of them.
pub const ENDLESS: &str = "its interim answers do not end";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came makes no sense.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// A connection. What the other side sends when nobody has asked ends its use.
pub struct Wire<S> {
    stream: S,
    /// What has arrived and is not used yet.
    pub inbox: BytesMut,
    /// Kept from request to request: a timer is cheaper to put off than to make.
    timer: Pin<Box<Sleep>>,
    interim: u32,
}

impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection on which nothing has been said.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            // Set by each request before it is asked.
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            interim: 0,
        }
    }

    /// Begins a request: its answer is waited for until `deadline`.
    pub fn begin(&mut self, deadline: Instant) {
        self.interim = 0;
        self.put_off(deadline);
    }

    /// Puts the deadline off.
    pub fn put_off(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline);
    }

    /// Whether the time is up.
    pub fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(context)
    }

    /// Whether the other side keeps it open and is silent, as far as is known without asking.
    pub fn is_quiet(&mut self) -> bool {
        let context = &mut Context::from_waker(Waker::noop());
        self.inbox.is_empty() && self.poll_read(context).is_pending()
    }

    /// Reads what has arrived: how much, 0 at the end.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.reserve(READ);
        poll_read_buf(Pin::new(&mut self.stream), context, &mut self.inbox)
    }

    /// Writes some of this.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        Poll::Ready(some(written))
    }

    /// Writes some of the first of these.
    pub fn poll_write_queue(
        &mut self,
        context: &mut Context<'_>,
        queue: &VecDeque<Bytes>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); 4];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(queue) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let stream = Pin::new(&mut self.stream);
        let written = ready!(stream.poll_write_vectored(context, &slices[..count]))?;
        Poll::Ready(some(written))
    }

    /// What TLS has not handed on yet.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Reads the head of an answer and shows it to `take`. `to_head`: the request was a `HEAD`.
    pub fn poll_head<T>(
        &mut self,
        context: &mut Context<'_>,
        to_head: bool,
        mut take: impl FnMut(ResponseHead<'_>) -> T,
    ) -> Poll<Result<T, WireError>> {
        loop {
            if !self.inbox.is_empty() {
                match response::read(&self.inbox, to_head, &mut take)? {
                    Found::Partial => {}
                    Found::Interim(length) => {
                        self.inbox.advance(length);
                        self.interim += 1;
                        if self.interim > MOST_INTERIM {
                            let endless = Malformed(ENDLESS);
                            return Poll::Ready(Err(endless.into()));
                        }
                        continue;
                    }
                    Found::Head(taken, length) => {
                        self.inbox.advance(length);
                        return Poll::Ready(Ok(taken));
                    }
                }
            }
            if ready!(self.poll_read(context))? == 0 {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Poll::Ready(Err(error.into()));
            }
        }
    }
}

fn some(written: usize) -> io::Result<usize> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(written)
}
