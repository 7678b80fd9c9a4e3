//! An HTTP/1.1 connection to an API, read and written by whoever waits for its answer.

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
    io::AsyncWrite as _,
    time::{Instant, Sleep},
};
use tokio_util::io::poll_read_buf;
use tower::BoxError;

use super::{
    Stream,
    decode::{MOST_HEADERS, Malformed, Nature, nature},
};

/// What is read at once.
const READ: usize = 16 * 1024;
/// A longer head no API sends.
const LONGEST_HEAD: usize = 256 * 1024;

/// A connection. What the other side sends when nobody has asked ends its use.
pub(super) struct Wire {
    io: Stream,
    /// What has arrived and is not used yet.
    pub(super) inbox: BytesMut,
    /// Kept from request to request: a timer is cheaper to put off than to make.
    timer: Pin<Box<Sleep>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(io: Stream) -> Self {
        Self {
            io,
            inbox: BytesMut::new(),
            // Set by each request before it is asked.
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    pub(super) fn set_timer(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline);
    }

    /// Whether the time is up.
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(context)
    }

    /// Whether the other side keeps it open and is silent, as far as is known without asking.
    pub(super) fn is_quiet(&mut self) -> bool {
        let context = &mut Context::from_waker(Waker::noop());
        self.inbox.is_empty() && self.poll_read(context).is_pending()
    }

    /// Reads what has arrived: how much, 0 at the end.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.reserve(READ);
        poll_read_buf(Pin::new(&mut self.io), context, &mut self.inbox)
    }

    /// Writes some of this.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        Poll::Ready(some(written))
    }

    /// Writes some of the first of these.
    pub(super) fn poll_write_queue(
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
        let io = Pin::new(&mut self.io);
        let written = ready!(io.poll_write_vectored(context, &slices[..count]))?;
        Poll::Ready(some(written))
    }

    /// What TLS has not handed on yet.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Reads the head of an answer, and gives it to `take` with its nature and its length.
    pub(super) fn poll_head<T>(
        &mut self,
        context: &mut Context<'_>,
        to_head: bool,
        mut take: impl FnMut(&httparse::Response<'_, '_>, Nature) -> T,
    ) -> Poll<Result<T, BoxError>> {
        loop {
            if !self.inbox.is_empty() {
                let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
                let mut head = httparse::Response::new(&mut headers);
                match head.parse(&self.inbox) {
                    Ok(httparse::Status::Complete(length)) => match head.code {
                        // Nobody has offered to speak another protocol.
                        Some(101) => return Poll::Ready(Err(Malformed("it switches").into())),
                        Some(100..200) => {
                            self.inbox.advance(length);
                            continue;
                        }
                        _ => {
                            let nature = nature(&head, to_head)?;
                            let taken = take(&head, nature);
                            self.inbox.advance(length);
                            return Poll::Ready(Ok(taken));
                        }
                    },
                    Ok(httparse::Status::Partial) if self.inbox.len() > LONGEST_HEAD => {
                        return Poll::Ready(Err(Malformed("its head does not end").into()));
                    }
                    Ok(httparse::Status::Partial) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
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
