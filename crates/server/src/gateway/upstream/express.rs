//! A request that is written out already, and an answer that is passed on as it comes.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Response;
use tokio::time::Instant;
use tower::BoxError;

use super::{
    Connection, Upstream, UpstreamBody, UpstreamError, body::Lease, decode::Framing, response,
    wire::Wire,
};
use crate::gateway::target::Target;

/// A request as it goes over the wire.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Written<'a> {
    pub(in crate::gateway) bytes: &'a [u8],
    /// The answer to a `HEAD` has no body.
    pub(in crate::gateway) to_head: bool,
}

/// The answer to it.
#[derive(Debug)]
pub(in crate::gateway) enum Answered {
    /// Its head was taken; the body is to be passed on.
    Taken(Relay),
    /// Its head was not taken.
    Other(Response<UpstreamBody>),
}

/// A body of known length that is passed on.
#[derive(Debug)]
pub(crate) struct Relay(Lease);

impl Relay {
    /// The next piece, if it is here.
    pub(crate) fn ready_piece(&mut self) -> Option<Result<Bytes, BoxError>> {
        match self.0.poll_piece(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(piece) => piece,
            Poll::Pending => None,
        }
    }

    /// The next piece.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, BoxError>> {
        poll_fn(|context| self.0.poll_piece(context)).await
    }
}

impl Upstream {
    /// As [`request`](Upstream::request), for a small request that was written out for HTTP/1.1.
    /// `take` is shown the head of an answer whose length is known, and may take it. `None`: the
    /// API speaks HTTP/2, and nothing was sent.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub(in crate::gateway) async fn express(
        &self,
        target: &Target,
        request: Written<'_>,
        deadline: Instant,
        mut take: impl FnMut(&httparse::Response<'_, '_>) -> bool,
    ) -> Result<Option<Answered>, UpstreamError> {
        loop {
            let (connection, kept) = match self.pool.take(&target.origin) {
                Some(connection) => (connection, true),
                // Boxed, so that requests on a kept connection carry no room for it.
                None => (Box::pin(self.connect(target, deadline)).await?, false),
            };
            let Connection::Http1(mut wire) = connection else {
                return Ok(None);
            };
            wire.set_timer(deadline);
            let mut sent = 0;
            let answer = poll_fn(|context| {
                let polled = exchange(&mut wire, context, request, &mut sent, &mut take);
                match polled {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending => wire.poll_timer(context).map(|()| None),
                }
            });
            match answer.await {
                Some(Ok((head, nature))) => {
                    let (pool, origin) = (self.pool.clone(), target.origin.clone());
                    let lease = Lease::new(wire, nature, None, pool, origin);
                    return Ok(Some(match head {
                        None => Answered::Taken(Relay(lease)),
                        Some(head) => Answered::Other(head.map(|()| UpstreamBody::Leased(lease))),
                    }));
                }
                None => return Err(UpstreamError::TimedOut),
                // Closed by the other side while nobody used it.
                Some(Err(_)) if sent == 0 && kept => {}
                Some(Err(error)) if sent == 0 => return Err(UpstreamError::Connect(error)),
                Some(Err(error)) => return Err(UpstreamError::Exchange(error)),
            }
        }
    }
}

type Head = (Option<Response<()>>, super::decode::Nature);

/// Writes what is left of the request, then reads the head of the answer.
fn exchange(
    wire: &mut Wire,
    context: &mut Context<'_>,
    request: Written<'_>,
    sent: &mut usize,
    take: &mut impl FnMut(&httparse::Response<'_, '_>) -> bool,
) -> Poll<Result<Head, BoxError>> {
    while *sent < request.bytes.len() {
        match wire.poll_write(context, &request.bytes[*sent..]) {
            Poll::Ready(Ok(written)) => *sent += written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => return Poll::Pending,
        }
    }
    if let Poll::Ready(Err(error)) = wire.poll_flush(context) {
        return Poll::Ready(Err(error.into()));
    }
    let head = wire.poll_head(context, request.to_head, |head, nature| {
        let known = matches!(nature.framing, Framing::Length(_));
        if known && take(head) {
            Ok((None, nature))
        } else {
            Ok((Some(response(head)?), nature))
        }
    });
    head.map(|head| head?)
}
