//! Whoever closes a connection with unread bytes resets it, and may take the answer away from a client that was
//! still sending (RFC 9112 section 9.6). So a little of what comes after the answer is read, and forgotten.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Sleep,
};

/// For how long, and how much, is read.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 * 1024;

/// The last reading from a connection.
#[derive(Debug)]
pub(super) struct Linger {
    left: usize,
    end: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self {
            left: LINGER_BYTES,
            end: Box::pin(tokio::time::sleep(LINGER)),
        }
    }

    /// Ready when the client has closed its side, too, or has had its time.
    pub(super) fn poll(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut piece = [0; 8 * 1024];
        loop {
            let mut read = ReadBuf::new(&mut piece);
            let polled: io::Result<()> =
                ready!(Pin::new(&mut *stream).poll_read(context, &mut read));
            let count = read.filled().len();
            self.left = self.left.saturating_sub(count);
            if polled.is_err() || count == 0 || self.left == 0 {
                return Poll::Ready(());
            }
        }
    }
}
