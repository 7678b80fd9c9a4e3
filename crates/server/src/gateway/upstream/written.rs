//! A request that is written out already, and an answer whose head is taken as it comes.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use http::Response;
use tokenward_http1::{
    delivery::Ending,
    response::{Nature, ResponseHead},
};
use tokio::time::Instant;
use tower::BoxError;

use super::{Connection, Lease, Upstream, UpstreamBody, UpstreamError, Wire, response};
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
    Taken(Lease, Ending),
    /// Its head was not taken.
    Other(Response<UpstreamBody>),
}

impl Upstream {
    /// As [`request`](Upstream::request), for a small request that was written out for HTTP/1.1.
    /// `take` is shown the head of the answer, and may take it. `None`: the API speaks HTTP/2, or a library
    /// HTTP/1.1 for us, and nothing was sent.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub(in crate::gateway) async fn send_written(
        &self,
        target: &Target,
        request: Written<'_>,
        deadline: Instant,
        mut take: impl FnMut(&ResponseHead<'_>) -> Option<Ending>,
    ) -> Result<Option<Answered>, UpstreamError> {
        if self.library {
            return Ok(None);
        }
        loop {
            let (connection, kept) = match self.pool.take(&target.origin) {
                Some(connection) => (connection, true),
                // Boxed, so that requests on a kept connection carry no room for it.
                None => (Box::pin(self.connect(target, deadline)).await?, false),
            };
            let Connection::Http1(mut wire) = connection else {
                return Ok(None);
            };
            wire.begin(deadline);
            let mut sent = 0;
            let answer = poll_fn(|context| {
                let polled = exchange(&mut wire, context, request, &mut sent, &mut take);
                match polled {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending => wire.poll_timer(context).map(|()| None),
                }
            });
            match answer.await {
                Some(Ok((head, mut nature))) => {
                    if let Head::Other(head) = &head {
                        nature.keep &= !super::is_private(&http::HeaderMap::new(), head);
                    }
                    let (pool, origin) = (self.pool.clone(), target.origin.clone());
                    let lease = Lease::new(wire, nature, None, pool, origin);
                    return Ok(Some(match head {
                        Head::Taken(ending) => Answered::Taken(lease, ending),
                        Head::Other(head) => {
                            Answered::Other(head.map(|()| UpstreamBody::Leased(lease)))
                        }
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

enum Head {
    Taken(Ending),
    Other(Response<()>),
}

/// Writes what is left of the request, then reads the head of the answer.
fn exchange(
    wire: &mut Wire,
    context: &mut Context<'_>,
    request: Written<'_>,
    sent: &mut usize,
    take: &mut impl FnMut(&ResponseHead<'_>) -> Option<Ending>,
) -> Poll<Result<(Head, Nature), BoxError>> {
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
    let head = wire.poll_head(context, request.to_head, |head| {
        let taken = match take(&head) {
            Some(ending) => Head::Taken(ending),
            None => Head::Other(response(&head)?),
        };
        Ok((taken, head.nature))
    });
    head.map(|head| head.map_err(BoxError::from)?)
}
