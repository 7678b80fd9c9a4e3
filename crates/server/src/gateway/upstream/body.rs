//! An API's answer on its way, and its connection's way back to the pool.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower::BoxError;

use tokenward_http1::{framing::Framing, outgoing::Outgoing, response::Nature};
use tokio::time::Instant;

use super::{
    Wire,
    library::Driven,
    pool::{Own, Pool},
};
use crate::gateway::{body::OutBody, target::Origin};

/// How many frames of an answer that nobody wants are read, to keep its connection.
const UNWANTED: usize = 16;

/// The body of an API's answer.
#[derive(Debug)]
pub(in crate::gateway) enum UpstreamBody {
    /// Over HTTP/1.1.
    Leased(Lease),
    /// Over a connection that an HTTP library drives.
    Driven(Driven),
}

/// An HTTP/1.1 connection in use.
#[derive(Debug)]
pub(in crate::gateway) struct Lease {
    /// `None`: it was given back, or is of no more use.
    wire: Option<Box<Wire>>,
    framing: Framing,
    keep: bool,
    /// What of the request is still on its way: the API answers before it has heard all.
    upload: Option<Outgoing<OutBody>>,
    pool: Pool,
    origin: Arc<Origin>,
    /// The API has stopped in its answer, and the wire's timer runs.
    stalled: bool,
}

impl Lease {
    pub(super) fn new(
        wire: Box<Wire>,
        nature: Nature,
        upload: Option<Outgoing<OutBody>>,
        pool: Pool,
        origin: Arc<Origin>,
    ) -> Self {
        let mut lease = Self {
            wire: Some(wire),
            framing: nature.framing,
            keep: nature.keep,
            upload,
            pool,
            origin,
            stalled: false,
        };
        lease.settle();
        lease
    }

    /// The body's length, if it is known; what was taken of it counts no more.
    pub(in crate::gateway) fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) if self.framing.is_done() => Some(0),
            Framing::Chunked(_) | Framing::Close => None,
        }
    }

    /// When the answer is complete, the connection is given back if it is in order.
    fn settle(&mut self) {
        if self.framing.is_done()
            && let Some(wire) = self.wire.take()
            && self.keep
            && self.upload.is_none()
            && wire.inbox.is_empty()
        {
            self.pool.keep(&self.origin, Own::Wire(wire));
        }
    }

    /// The next piece of the body.
    pub(in crate::gateway) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(wire) = &mut self.wire else {
            return Poll::Ready(None);
        };
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(result) = upload.poll(wire, context)
        {
            self.upload = None;
            self.keep &= result.is_ok();
        }
        let mut polled = next(wire, &mut self.framing, context);
        if polled.is_pending() {
            if !self.stalled {
                self.stalled = true;
                wire.put_off(stall_ends());
            }
            polled = wire.poll_timer(context).map(|()| {
                let stalled = io::Error::new(io::ErrorKind::TimedOut, "the answer has stalled");
                Some(Err(stalled.into()))
            });
        } else {
            self.stalled = false;
        }
        if let Some(Err(_)) | None = ready!(&polled) {
            self.keep &= self.framing.is_done();
            if !self.framing.is_done() {
                self.wire = None;
            }
        }
        self.settle();
        polled
    }
}

/// An answer that has begun may stand still for so long: longer than servers of events are silent.
pub(super) const STALL: Duration = Duration::from_secs(300);

#[expect(clippy::disallowed_methods, reason = "for the runtime's own timer")]
pub(super) fn stall_ends() -> Instant {
    Instant::now() + STALL
}

fn next(
    wire: &mut Wire,
    framing: &mut Framing,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, BoxError>>> {
    loop {
        match framing.next(&mut wire.inbox) {
            Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
            Ok(None) if framing.is_done() => return Poll::Ready(None),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        }
        match ready!(wire.poll_read(context)) {
            Ok(0) if *framing == Framing::Close => return Poll::Ready(None),
            Ok(0) => {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Poll::Ready(Some(Err(error.into())));
            }
            Ok(_) => {}
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Leased(lease) => lease
                .poll_piece(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Driven(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Leased(lease) => lease.wire.is_none(),
            Self::Driven(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Leased(lease) => lease
                .left()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Driven(body) => body.size_hint(),
        }
    }
}

impl Drop for Lease {
    /// What is there already is read, so that a short answer that nobody wanted (a 401 before the
    /// second try) does not cost its connection. Of the request nothing more is written: the next try
    /// may be reading its body.
    fn drop(&mut self) {
        if self.upload.take().is_some() {
            self.wire = None;
        }
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..UNWANTED {
            match self.poll_piece(context) {
                Poll::Ready(Some(Ok(_))) if self.wire.is_some() => {}
                _ => break,
            }
        }
    }
}
