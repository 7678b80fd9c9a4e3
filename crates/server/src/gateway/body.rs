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

use tokenward_http1::delivery::Source as Delivered;
use tower::BoxError;

use super::upstream::UpstreamBody;

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
    /// How many bytes the caller has sent.
    taken: u64,
    /// Who may read on: the latest [`OutBody`]. One from before would take pieces that the next must send.
    reader: u32,
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
            taken: 0,
            reader: 0,
        })))
    }

    /// The body from its beginning, if it is still there. What was read before reads no further.
    pub(super) fn read(&self) -> Option<OutBody> {
        let Self::Stream(source) = self else {
            return Some(OutBody(None));
        };
        let mut locked = lock(source);
        if locked.forgotten {
            return None;
        }
        locked.reader += 1;
        Some(OutBody(Some(Reading {
            reader: locked.reader,
            source: source.clone(),
            next: 0,
        })))
    }

    /// Ends what reads it: from now on nothing more of it is taken, nor forgotten.
    pub(super) fn hold(&self) {
        if let Self::Stream(source) = self {
            lock(source).reader += 1;
        }
    }

    pub(super) fn can_replay(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => !lock(source).forgotten,
        }
    }
}

/// Why a request's body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The caller did not send all of it.
    #[error("{0}")]
    Caller(#[from] hyper::Error),
    /// It is sent anew from its beginning.
    #[error("it is sent again")]
    SentAnew,
}

/// A body on its way to an API.
#[derive(Debug)]
pub(super) struct OutBody(Option<Reading>);

/// How far a caller has come with its body.
#[derive(Clone, Debug)]
pub(super) struct Progress(Option<Arc<Mutex<Source>>>);

impl Progress {
    /// In bytes.
    pub(super) fn so_far(&self) -> u64 {
        self.0.as_ref().map_or(0, |source| lock(source).taken)
    }
}

impl OutBody {
    pub(super) fn progress(&self) -> Progress {
        Progress(self.0.as_ref().map(|reading| reading.source.clone()))
    }
}

/// What was remembered, then what is still to come.
#[derive(Debug)]
struct Reading {
    source: Arc<Mutex<Source>>,
    reader: u32,
    /// The next remembered chunk.
    next: usize,
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(reading) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        let Reading {
            source,
            reader,
            next,
        } = reading;
        let mut source = lock(source);
        if source.reader != *reader {
            return Poll::Ready(Some(Err(BodyError::SentAnew)));
        }
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
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => frame,
            };
            // Trailers of a request have no reader.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            source.taken += data.len() as u64;
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
        self.0.as_ref().is_none_or(|Reading { source, next, .. }| {
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

/// What was read of an answer's body to understand it; it is put in front again.
#[derive(Debug, Default)]
pub(super) struct Peeked {
    read: Vec<u8>,
    /// Why the body broke off.
    broken: Option<BoxError>,
}

impl Peeked {
    /// Reads about `most` bytes of a body's beginning. What was read is kept when this is dropped halfway.
    pub(super) async fn read(&mut self, body: &mut UpstreamBody, most: usize) {
        while self.read.len() < most && self.broken.is_none() {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => self.broken = Some(error),
                None => break,
            }
        }
    }

    pub(super) fn so_far(&self) -> Bytes {
        Bytes::copy_from_slice(&self.read)
    }
}

/// A body on its way to the caller.
#[derive(Debug)]
pub struct GatewayBody(Kind);

#[derive(Debug)]
enum Kind {
    /// Ours.
    Full(Full<Bytes>),
    /// An API's, after what was read of it already.
    Stream { peeked: Peeked, rest: UpstreamBody },
    /// The vault API's.
    Api(axum::body::Body),
}

impl GatewayBody {
    pub(super) fn stream(peeked: Peeked, rest: UpstreamBody) -> Self {
        Self(Kind::Stream { peeked, rest })
    }

    /// Whether it is all here, and holds no connection to an API.
    pub(crate) fn is_whole(&self) -> bool {
        !matches!(self.0, Kind::Stream { .. })
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
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Kind::Full(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Kind::Stream { peeked, rest } => {
                if !peeked.read.is_empty() {
                    let read = std::mem::take(&mut peeked.read);
                    return Poll::Ready(Some(Ok(Frame::data(read.into()))));
                }
                if let Some(broken) = peeked.broken.take() {
                    return Poll::Ready(Some(Err(broken)));
                }
                Pin::new(rest).poll_frame(cx).map_err(Into::into)
            }
            Kind::Api(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(body) => body.is_end_stream(),
            Kind::Stream { peeked, rest } => {
                peeked.read.is_empty() && peeked.broken.is_none() && rest.is_end_stream()
            }
            Kind::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(body) => body.size_hint(),
            Kind::Stream { peeked, rest } => {
                let mut hint = rest.size_hint();
                let more = peeked.read.len() as u64;
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

impl Delivered for GatewayBody {
    type Error = BoxError;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut *self).poll_frame(cx)) {
                None => None,
                Some(Err(error)) => Some(Err(error)),
                // Trailers are left out.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    Err(_) => continue,
                },
            });
        }
    }
}
