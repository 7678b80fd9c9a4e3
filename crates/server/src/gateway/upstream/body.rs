//! An API's answer on its way, and its connection's way back to the pool.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{link::Link, pool::Pool};
use crate::gateway::target::Origin;

/// How many frames of an answer that nobody wants are read, to keep its connection.
const UNWANTED: usize = 16;

/// The body of an API's answer.
#[derive(Debug)]
pub(in crate::gateway) struct UpstreamBody {
    incoming: Incoming,
    /// The connection that it comes over, where nobody else drives it.
    lease: Option<Lease>,
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    link: Box<Link>,
    pool: Pool,
    origin: Arc<Origin>,
}

impl Lease {
    pub(super) fn new(link: Box<Link>, pool: Pool, origin: Arc<Origin>) -> Self {
        Self { link, pool, origin }
    }

    /// The answer is complete: the connection is kept, if it is in order.
    fn end(mut self) {
        if self.link.rest() {
            self.pool.keep(&self.origin, self.link);
        }
    }
}

impl UpstreamBody {
    pub(super) fn leased(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
        };
        body.settle();
        body
    }

    pub(super) fn shared(incoming: Incoming) -> Self {
        Self {
            incoming,
            lease: None,
        }
    }

    /// Gives the connection back if the answer has been read.
    fn settle(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.end();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let incoming = &mut this.incoming;
        let polled = match &mut this.lease {
            Some(lease) => lease.link.poll_until(context, |_, context| {
                Pin::new(&mut *incoming).poll_frame(context)
            }),
            None => Pin::new(incoming).poll_frame(context),
        };
        match ready!(polled) {
            Some(Ok(frame)) => {
                this.settle();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.lease = None;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.end();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for UpstreamBody {
    /// What is there already is read, so that a short answer that nobody wanted (a 401 before the
    /// second try) does not cost its connection.
    fn drop(&mut self) {
        if self.lease.is_none() {
            return;
        }
        let context = &mut Context::from_waker(Waker::noop());
        for _ in 0..UNWANTED {
            match Pin::new(&mut *self).poll_frame(context) {
                Poll::Ready(Some(Ok(_))) if self.lease.is_some() => {}
                _ => break,
            }
        }
    }
}
