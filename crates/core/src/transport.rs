//! The port to providers.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{
    oauth::TokenRequest,
    time::{Boxed, Clock, Moment},
};

/// A provider's answer, complete.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. It may hold tokens.
    pub body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer. The difference between the first two is what tokens live by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Not one byte of the request has left: DNS, connect or TLS failed, or the host is refused.
    #[error("{0}")]
    NotSent(String),
    /// It (or part of it) has left, and no whole answer came back.
    #[error("{0}")]
    NoAnswer(String),
    /// An answer has begun, and what came of it does not show whether it is whole.
    #[error("{why}")]
    CutOff {
        /// Why no more will come.
        why: String,
        /// What came.
        so_far: Box<Answer>,
    },
    /// [`Patience::may_send`] said no: the claim is too old, or somebody else's by now.
    #[error("the claim was too old to send")]
    TooLate,
}

/// How long an exchange may take, and whether it may begin.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For DNS, connect and TLS.
    pub connect: Duration,
    /// From the first byte sent to the last received.
    pub answer: Duration,
    /// The first byte must not leave after this.
    pub not_after: Option<Moment>,
    /// Asked when the connection is there, before the first byte leaves.
    pub last_look: Option<LastLook>,
}

impl Patience {
    /// Whether the first byte may leave now. To be asked right before it does; if not, the answer
    /// is [`TransportError::TooLate`].
    pub async fn may_send(&self, clock: &dyn Clock) -> bool {
        let allowed = match &self.last_look {
            Some(look) => (look.0)().await,
            None => true,
        };
        allowed && self.not_after.is_none_or(|limit| clock.now() <= limit)
    }
}

/// A question to the store: whether what was decided a moment ago still stands.
#[derive(Clone)]
pub struct LastLook(Arc<dyn Fn() -> Boxed<'static, bool> + Send + Sync>);

impl LastLook {
    /// Asks by calling `look`.
    pub fn new(look: impl Fn() -> Boxed<'static, bool> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }
}

impl fmt::Debug for LastLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastLook")
    }
}

/// Carries requests to token endpoints.
///
/// An implementation must classify failures truthfully: [`TransportError::NotSent`] only when it
/// is certain. It follows no redirects, retries nothing and logs no bodies.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// One request, one answer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the connection; what the provider did is then unknown.
    async fn exchange(
        &self,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Answer, TransportError>;
}
