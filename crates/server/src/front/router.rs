//! Who answers a request: the gateway or the vault API.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use tokenward::Vault;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::{
    error::{ApiError, FROM_GATEWAY, ORIGIN},
    request_id::{REQUEST_ID, RequestIds},
};
use crate::{
    gateway::{CallerBody, Gateway, GatewayBody, Sent, path::Form},
    observe::requests::FLUSH_EVERY,
};

/// How often connections that have been idle for too long are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// What answers requests.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) gateway: Gateway,
    pub(crate) api: axum::Router,
    pub(crate) vault: Vault,
    pub(crate) ids: Arc<RequestIds>,
    /// HTTP/1.1 is left to an HTTP library.
    pub(crate) library: bool,
}

impl Server {
    /// The same server with connections of its own.
    pub(crate) fn for_worker(&self) -> Self {
        Self {
            gateway: self.gateway.another(),
            ids: Arc::default(),
            ..self.clone()
        }
    }

    /// Looks after a worker's connections to APIs, until its runtime ends.
    pub(crate) fn start_upkeep(self: Arc<Self>) {
        let tasks = TaskTracker::new();
        let server = self.clone();
        tasks.spawn(async move {
            loop {
                server.vault.clock().sleep(SWEEP_EVERY).await;
                server.gateway.sweep();
            }
        });
        tasks.spawn(async move {
            loop {
                self.vault.clock().sleep(FLUSH_EVERY).await;
                self.gateway.log().flush();
            }
        });
    }

    /// Boxed: what waits for an answer is moved about before it is polled, and is large.
    /// `sent`: it is a request to the gateway that was decided and sent already.
    pub(crate) fn answer(
        self: Arc<Self>,
        request: Request<CallerBody>,
        sent: Option<Sent>,
    ) -> Pin<Box<dyn Future<Output = Response<GatewayBody>> + Send>> {
        let id = self.ids.next_id();
        if Form::of_uri(request.uri()).is_some() {
            return Box::pin(async move {
                let response = self.gateway.handle(request, sent, id.clone()).await;
                named(response, id)
            });
        }
        Box::pin(async move { named(self.answer_otherwise(request).await, id) })
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// An answer to a request that nobody looks at.
    pub(crate) fn refuse(&self, error: ApiError) -> Response<GatewayBody> {
        named(error.into_response().map(GatewayBody::from), self.next_id())
    }

    /// A name for a request.
    pub(crate) fn next_id(&self) -> HeaderValue {
        self.ids.next_id()
    }

    async fn answer_otherwise(&self, request: Request<CallerBody>) -> Response<GatewayBody> {
        let never = self.api.clone().oneshot(request.map(Body::new)).await;
        never
            .unwrap_or_else(|never| match never {})
            .map(GatewayBody::from)
    }
}

/// With a name for people who ask about it, and word of whose it is.
fn named(mut response: Response<GatewayBody>, id: HeaderValue) -> Response<GatewayBody> {
    response.headers_mut().insert(REQUEST_ID, id);
    response.headers_mut().entry(ORIGIN).or_insert(FROM_GATEWAY);
    response
}
