//! Connections that an HTTP library drives: HTTP/2, and HTTP/1.1 where the operator wants it so.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use tokenward_http1::{
    Malformed,
    wire::{ENDLESS, MOST_INTERIM},
};
use tokio::{sync::Notify, time::Sleep};
use tower::BoxError;

use super::{
    Connection, Failure, Stream, Until, Upstream, UpstreamBody,
    body::stall_ends,
    pool::{Own, Pool},
};
use crate::gateway::{
    body::{OutBody, Progress},
    target::{Origin, Target},
};

/// A new HTTP/1.1 connection.
pub(super) async fn connection(io: Stream) -> hyper::Result<Connection> {
    let (sender, driver) = http1::Builder::new()
        .allow_spaces_after_header_name_in_responses(true)
        .max_headers(4096)
        .handshake(TokioIo::new(io))
        .await?;
    run_apart(driver);
    Ok(Connection::Library(sender))
}

impl Upstream {
    pub(super) async fn exchange_by_library(
        &self,
        target: &Target,
        mut sender: http1::SendRequest<OutBody>,
        mut request: Request<OutBody>,
        until: Until,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let headers = request.headers_mut();
        headers.insert(HOST, target.origin.host.clone());
        let body = request.body();
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // Unasked, the library leaves out the body of a GET whose length is not known.
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(TRANSFER_ENCODING, chunked);
        }
        let interim = Interim::of(&mut request);
        let sent = request.headers().clone();
        *request.uri_mut() = Uri::from(target.path.clone());
        let progress = request.body().progress();
        let result = tokio::select! {
            biased;
            result = in_time(until, &progress, sender.try_send_request(request)) => result?,
            () = interim.endless.notified() => return Err(Failure::Failed(Malformed(ENDLESS).into())),
        };
        let response = answered(result)?;
        let (parts, body) = response.into_parts();
        let head = Response::from_parts(parts, ());
        passes(&head).map_err(|wrong| Failure::Failed(wrong.into()))?;
        let kept = (!super::is_private(&sent, &head)).then(|| Kept {
            sender,
            pool: self.pool.clone(),
            origin: target.origin.clone(),
        });
        Ok(head.map(|()| {
            UpstreamBody::Driven(Driven {
                body,
                kept,
                stalled: None,
            })
        }))
    }
}

/// A request's interim answers: the library reads them for as long as they come.
#[derive(Debug, Default)]
struct Interim {
    count: AtomicU32,
    /// There are more than any server sends.
    endless: Notify,
}

impl Interim {
    fn of(request: &mut Request<OutBody>) -> Arc<Self> {
        let interim = Arc::new(Self::default());
        let counting = interim.clone();
        hyper::ext::on_informational(request, move |_| {
            if counting.count.fetch_add(1, Ordering::Relaxed) >= MOST_INTERIM {
                counting.endless.notify_one();
            }
        });
        interim
    }
}

/// Waits for an answer until the deadline, and on while the upload moves.
async fn in_time<T>(
    until: Until,
    progress: &Progress,
    answer: impl Future<Output = T>,
) -> Result<T, Failure> {
    let mut answer = pin!(answer);
    let (mut deadline, mut seen) = (until.deadline, 0);
    loop {
        if let Ok(answer) = tokio::time::timeout_at(deadline, answer.as_mut()).await {
            return Ok(answer);
        }
        let so_far = progress.so_far();
        deadline = match until.later() {
            Some(later) if so_far > seen => later,
            _ => return Err(Failure::TimedOut),
        };
        seen = so_far;
    }
}

pub(super) async fn exchange_shared(
    target: &Target,
    mut sender: http2::SendRequest<OutBody>,
    mut request: Request<OutBody>,
    until: Until,
) -> Result<Response<UpstreamBody>, Failure> {
    request.headers_mut().remove(HOST);
    *request.uri_mut() = target.uri();
    *request.version_mut() = Version::HTTP_2;
    let progress = request.body().progress();
    let result = in_time(until, &progress, sender.try_send_request(request)).await?;
    let response = answered(result)?;
    Ok(response.map(|body| {
        UpstreamBody::Driven(Driven {
            body,
            kept: None,
            stalled: None,
        })
    }))
}

/// What the library lets pass, and nobody after it could read rightly.
fn passes(head: &Response<()>) -> Result<(), Malformed> {
    let all = |name: HeaderName| head.headers().get_all(name).into_iter();
    if head.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed("it switches to another protocol"));
    }
    let mut codings = all(TRANSFER_ENCODING);
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Malformed("its transfer coding is not known"));
    }
    let digits = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    if !all(CONTENT_LENGTH).all(digits) {
        return Err(Malformed("its length is no number"));
    }
    Ok(())
}

type Sent = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<OutBody>>>;

fn answered(result: Sent) -> Result<Response<Incoming>, Failure> {
    result.map_err(|mut failed| match failed.take_message() {
        Some(unsent) => Failure::Unsent(Box::new(unsent), failed.into_error().into()),
        None => Failure::Failed(failed.into_error().into()),
    })
}

/// The body of an answer over such a connection.
#[derive(Debug)]
pub(in crate::gateway) struct Driven {
    body: Incoming,
    /// The connection goes back to the pool when the body has ended.
    kept: Option<Kept>,
    /// Runs while the API has stopped in its answer.
    stalled: Option<Pin<Box<Sleep>>>,
}

struct Kept {
    sender: http1::SendRequest<OutBody>,
    pool: Pool,
    origin: Arc<Origin>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl Kept {
    /// When the connection is ready for the next request.
    fn give_back(self) {
        let Self {
            mut sender,
            pool,
            origin,
        } = self;
        run_apart(async move {
            sender.ready().await?;
            pool.keep(&origin, Own::Library(sender));
            Ok(())
        });
    }
}

impl Body for Driven {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(frame) = polled else {
            let timer = || Box::pin(tokio::time::sleep_until(stall_ends()));
            ready!(
                self.stalled
                    .get_or_insert_with(timer)
                    .as_mut()
                    .poll(context)
            );
            self.kept = None;
            let stalled = io::Error::new(io::ErrorKind::TimedOut, "the answer has stalled");
            return Poll::Ready(Some(Err(stalled.into())));
        };
        self.stalled = None;
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.kept = None,
            None => {
                if let Some(kept) = self.kept.take() {
                    kept.give_back();
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Driven {
    /// An answer without a body is not read to its end.
    fn drop(&mut self) {
        if self.body.is_end_stream()
            && let Some(kept) = self.kept.take()
        {
            kept.give_back();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection's driver ends by itself when nobody uses the connection any more"
)]
pub(super) fn run_apart<D>(driver: D)
where
    D: Future<Output = hyper::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        // Who uses the connection is told what went wrong.
        let _ = driver.await;
    });
}
