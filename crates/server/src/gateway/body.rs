//! Bodies: streamed, and remembered up to a bound so that they can be sent again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::upstream::UpstreamBody;

/// How much of an error's body is read to understand it.
const PEEK: usize = 64 * 1024;

/// A request's body as it comes from the caller.
#[derive(Debug)]
pub enum CallerBody {
    /// Still on its way.
    Incoming(Incoming),
    /// Here already.
    Whole(Full<Bytes>),
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Incoming(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// A request body that can be read more than once, as long as it is small.
///
/// Chunks are handed on as they arrive and remembered (they are counted references, not copies)
/// until there are too many; from then on it is a stream that can be read only once.
#[derive(Debug)]
pub(super) enum Replayable {
    Empty,
    Stream(Arc<Mutex<Source>>),
}

#[derive(Debug)]
pub(super) struct Source {
    incoming: CallerBody,
    chunks: Vec<Bytes>,
    kept: usize,
    limit: usize,
    /// Too much has passed to be remembered.
    forgotten: bool,
    ended: bool,
    hint: SizeHint,
}

impl Replayable {
    pub(super) fn new(incoming: CallerBody, limit: usize) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let hint = incoming.size_hint();
        Self::Stream(Arc::new(Mutex::new(Source {
            incoming,
            chunks: Vec::new(),
            kept: 0,
            limit,
            forgotten: false,
            ended: false,
            hint,
        })))
    }

    /// The body from its beginning.
    pub(super) fn read(&self) -> OutBody {
        match self {
            Self::Empty => OutBody(None),
            Self::Stream(source) => OutBody(Some(Reading {
                source: source.clone(),
                next: 0,
            })),
        }
    }

    pub(super) fn can_replay(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => !lock(source).forgotten,
        }
    }
}

/// A body on its way to an API.
#[derive(Debug)]
pub(super) struct OutBody(Option<Reading>);

/// What was remembered, then what is still to come.
#[derive(Debug)]
struct Reading {
    source: Arc<Mutex<Source>>,
    /// The next remembered chunk.
    next: usize,
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(Reading { source, next }) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        let mut source = lock(source);
        if let Some(chunk) = source.chunks.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        loop {
            let frame = match ready!(Pin::new(&mut source.incoming).poll_frame(cx)) {
                None => {
                    source.ended = true;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    source.forgotten = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(frame)) => frame,
            };
            // Trailers of a request have no reader.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if !source.forgotten && source.kept + data.len() <= source.limit {
                source.kept += data.len();
                source.chunks.push(data.clone());
                *next = source.chunks.len();
            } else {
                source.forgotten = true;
                source.chunks = Vec::new();
                *next = 0;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|Reading { source, next }| {
            let source = lock(source);
            source.ended && *next >= source.chunks.len()
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(reading) => lock(&reading.source).hint,
        }
    }
}

/// Reads the beginning of a body; what was read must be put in front again.
pub(super) async fn peek(body: &mut UpstreamBody) -> Bytes {
    let mut read = Vec::new();
    while read.len() < PEEK {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            Some(Err(_)) | None => break,
        }
    }
    read.into()
}

/// A body on its way to the caller.
#[derive(Debug)]
pub struct GatewayBody(Kind);

#[derive(Debug)]
enum Kind {
    /// Ours.
    Full(Full<Bytes>),
    /// An API's, after what was read of it already.
    Stream { read: Bytes, rest: UpstreamBody },
    /// The vault API's.
    Api(axum::body::Body),
}

impl GatewayBody {
    pub(super) fn stream(read: Bytes, rest: UpstreamBody) -> Self {
        Self(Kind::Stream { read, rest })
    }
}

impl From<axum::body::Body> for GatewayBody {
    fn from(body: axum::body::Body) -> Self {
        Self(Kind::Api(body))
    }
}

impl From<Bytes> for GatewayBody {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Full(Full::new(bytes)))
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Kind::Full(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Kind::Stream { read, rest } => {
                if !read.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(read)))));
                }
                Pin::new(rest).poll_frame(cx).map_err(Into::into)
            }
            Kind::Api(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(body) => body.is_end_stream(),
            Kind::Stream { read, rest } => read.is_empty() && rest.is_end_stream(),
            Kind::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(body) => body.size_hint(),
            Kind::Stream { read, rest } => {
                let mut hint = rest.size_hint();
                let more = read.len() as u64;
                let (lower, upper) = (hint.lower() + more, hint.upper().map(|upper| upper + more));
                hint = SizeHint::new();
                hint.set_lower(lower);
                if let Some(upper) = upper {
                    hint.set_upper(upper);
                }
                hint
            }
            Kind::Api(body) => body.size_hint(),
        }
    }
}
