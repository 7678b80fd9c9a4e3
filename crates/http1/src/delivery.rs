//! An answer on its way to a caller, who may read slowly, ask ahead, or go away.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::encode::{LAST_CHUNK, put_chunk};

/// What is read ahead of a caller's next requests while one is answered.
const AHEAD: usize = 8 * 1024;
/// What is written at once, about.
const PIECE: usize = 16 * 1024;

/// Where an answer's body comes from.
pub trait Source {
    /// Why it broke off.
    type Error: Into<Box<dyn std::error::Error + Send + Sync>>;

    /// The next piece of data; `None` at its end.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>>;
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By the `content-length` in the head, which promises so many bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// There is no body: its head says all.
    NoBody,
}

/// Waits for `work`, unless the caller goes away first. What the caller sends ahead is kept.
///
/// # Errors
///
/// When the caller has gone away.
pub async fn unless_gone<T>(
    stream: &mut (impl AsyncRead + Unpin),
    ahead: &mut BytesMut,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        match poll_gone(stream, ahead, context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(gone) => Poll::Ready(Err(gone)),
        }
    })
    .await
}

/// Ready when the caller has gone away.
fn poll_gone(
    stream: &mut (impl AsyncRead + Unpin),
    ahead: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Error> {
    // Who sends more than this ahead is read later.
    while ahead.len() < AHEAD {
        ahead.reserve(AHEAD);
        match ready!(poll_read_buf(Pin::new(&mut *stream), context, ahead)) {
            Ok(0) => return Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
            Ok(_) => {}
            Err(error) => return Poll::Ready(error),
        }
    }
    Poll::Pending
}

/// Writes the head that `out` holds, then the body.
///
/// # Errors
///
/// When the caller has gone away; and when the body breaks off, or is shorter than its head has promised:
/// then the caller has got what there was, and the connection must be closed, so that it is seen.
pub async fn deliver<S, B>(
    stream: &mut S,
    ahead: &mut BytesMut,
    out: &mut BytesMut,
    body: &mut B,
    ending: Ending,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Source,
{
    let mut delivery = Delivery {
        body,
        ending,
        ended: ending == Ending::NoBody,
        broken: None,
    };
    poll_fn(|context| {
        loop {
            let more = delivery.fill(out, context);
            if out.is_empty() {
                if delivery.ended {
                    ready!(Pin::new(&mut *stream).poll_flush(context))?;
                    return Poll::Ready(delivery.broken.take().map_or(Ok(()), Err));
                }
                // TLS may still hold some of what was written.
                let flushed = Pin::new(&mut *stream).poll_flush(context)?;
                if more.is_pending() || flushed.is_pending() {
                    let gone = ready!(poll_gone(stream, ahead, context));
                    return Poll::Ready(Err(gone));
                }
                continue;
            }
            match Pin::new(&mut *stream).poll_write(context, out)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => out.advance(count),
                Poll::Pending => {
                    let gone = ready!(poll_gone(stream, ahead, context));
                    return Poll::Ready(Err(gone));
                }
            }
        }
    })
    .await
}

struct Delivery<'a, B> {
    body: &'a mut B,
    ending: Ending,
    ended: bool,
    /// Why the body has ended before its end.
    broken: Option<io::Error>,
}

impl<B: Source> Delivery<'_, B> {
    /// Puts what there is of the body behind `out`. Pending: there is no more yet.
    fn fill(&mut self, out: &mut BytesMut, context: &mut Context<'_>) -> Poll<()> {
        while !self.ended && out.len() < PIECE {
            match ready!(self.body.poll_data(context)) {
                Some(Ok(data)) => self.put(out, &data),
                Some(Err(error)) => {
                    self.ended = true;
                    self.broken = Some(io::Error::other(error.into()));
                }
                None => {
                    self.ended = true;
                    match self.ending {
                        Ending::Chunked => out.extend_from_slice(LAST_CHUNK),
                        Ending::Length(left) if left > 0 => {
                            self.broken = Some(io::ErrorKind::UnexpectedEof.into());
                        }
                        Ending::Length(_) | Ending::NoBody => {}
                    }
                }
            }
        }
        Poll::Ready(())
    }

    fn put(&mut self, out: &mut BytesMut, data: &[u8]) {
        match &mut self.ending {
            Ending::Chunked => put_chunk(out, data),
            Ending::Length(left) => {
                // More than was promised would be taken for the next answer.
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                out.extend_from_slice(&data[..count]);
            }
            Ending::NoBody => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What comes of a body, in order; `None` for what never comes.
    struct Pieces(VecDeque<Option<Result<Bytes, io::Error>>>);

    impl Source for Pieces {
        type Error = io::Error;

        fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
            match self.0.front() {
                Some(None) => Poll::Pending,
                Some(Some(_)) => Poll::Ready(self.0.pop_front().flatten()),
                None => Poll::Ready(None),
            }
        }
    }

    fn piece(text: &'static str) -> Option<Result<Bytes, io::Error>> {
        Some(Ok(Bytes::from_static(text.as_bytes())))
    }

    async fn delivered(
        pieces: Vec<Option<Result<Bytes, io::Error>>>,
        ending: Ending,
    ) -> (io::Result<()>, String) {
        let (mut here, mut there) = tokio::io::duplex(7);
        let reading = async {
            let mut read = String::new();
            there.read_to_string(&mut read).await.unwrap();
            read
        };
        let writing = async {
            let mut body = Pieces(pieces.into());
            let (mut ahead, mut out) = (BytesMut::new(), BytesMut::from("head\r\n\r\n"));
            let result = deliver(&mut here, &mut ahead, &mut out, &mut body, ending).await;
            drop(here);
            result
        };
        tokio::join!(writing, reading)
    }

    #[tokio::test]
    async fn bodies_are_delivered_with_their_ends() {
        let (result, read) =
            delivered(vec![piece("hello "), piece("world")], Ending::Length(11)).await;
        assert!(result.is_ok());
        assert_eq!(read, "head\r\n\r\nhello world");
        let (result, read) = delivered(vec![piece("hello"), piece("")], Ending::Chunked).await;
        assert!(result.is_ok());
        assert_eq!(read, "head\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_never_looks_whole() {
        let broken = || Some(Err(io::ErrorKind::ConnectionReset.into()));
        let (result, read) = delivered(vec![piece("hel"), broken()], Ending::Chunked).await;
        assert!(result.is_err());
        assert_eq!(read, "head\r\n\r\n3\r\nhel\r\n");
        let (result, read) = delivered(vec![piece("hel")], Ending::Length(5)).await;
        assert!(result.is_err());
        assert_eq!(read, "head\r\n\r\nhel");
        let (_, read) = delivered(vec![piece("hello, and more")], Ending::Length(5)).await;
        assert_eq!(read, "head\r\n\r\nhello");
    }

    #[tokio::test]
    async fn a_caller_that_leaves_ends_it_while_the_body_stalls() {
        let (mut here, mut there) = tokio::io::duplex(100);
        let mut body = Pieces([piece("a"), None].into());
        let (mut ahead, mut out) = (BytesMut::new(), BytesMut::from("head\r\n\r\n"));
        let leaving = async {
            there.read_exact(&mut [0; 9]).await.unwrap();
            there.write_all(b"GET").await.unwrap();
            drop(there);
        };
        let ending = Ending::Length(9);
        let delivering = deliver(&mut here, &mut ahead, &mut out, &mut body, ending);
        let (result, ()) = tokio::join!(delivering, leaving);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(ahead, &b"GET"[..]);
    }

    #[tokio::test]
    async fn a_caller_that_does_not_read_is_noticed_when_it_leaves() {
        let (mut here, there) = tokio::io::duplex(4);
        let mut body = Pieces([piece("a long body")].into());
        let (mut ahead, mut out) = (BytesMut::new(), BytesMut::from("head\r\n\r\n"));
        let leaving = async {
            tokio::task::yield_now().await;
            drop(there);
        };
        let ending = Ending::Length(11);
        let delivering = deliver(&mut here, &mut ahead, &mut out, &mut body, ending);
        let (result, ()) = tokio::join!(delivering, leaving);
        assert!(result.is_err());
    }
}
