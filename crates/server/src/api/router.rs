//! The vault API's routes.

use std::time::Duration;

use axum::{
    Router,
    extract::{FromRef, FromRequest, Request},
    handler::Handler,
    middleware::{from_fn, map_response},
    response::Response,
    routing::{MethodFilter, on},
};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokenward::Vault;

use super::{ApiError, connections, connectors, consumers, cors::cors, icons, sessions};
use crate::{
    config::public_url::PublicUrl,
    connect::{link::Links, session::Sessions},
    front::caller::{Authenticated, Caller, Keys, Visitor},
};

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The vault.
    pub vault: Vault,
    /// Its keys.
    pub keys: Keys,
    /// Its customers' sessions.
    pub sessions: Sessions,
    /// Links that begin a login; `None`: nothing answers them yet.
    pub links: Option<Links>,
    /// What our URLs are made from.
    pub public: PublicUrl,
}

impl FromRef<ApiState> for Keys {
    fn from_ref(state: &ApiState) -> Self {
        state.keys.clone()
    }
}

impl FromRef<ApiState> for Sessions {
    fn from_ref(state: &ApiState) -> Self {
        state.sessions.clone()
    }
}

impl FromRef<ApiState> for Vault {
    fn from_ref(state: &ApiState) -> Self {
        state.vault.clone()
    }
}

/// No body of this API is larger.
const LARGEST_BODY: usize = 1 << 20;
/// More of a body must arrive within this.
const BODY_STALL: Duration = Duration::from_secs(30);
/// And the whole of it within this.
const BODY_WHOLE: Duration = Duration::from_secs(60);

/// Routes whose handlers are authenticated.
struct Routes(Router<ApiState>);

impl Routes {
    /// Adds a handler. One that does not take its caller first does not compile.
    fn on<H, T>(self, method: MethodFilter, path: &str, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: Authenticated + 'static,
    {
        Self(self.0.route(path, on(method, handler)))
    }

    /// What Apideck has and this server does not: an answer that says so, and that its SDKs do not ask for again
    /// and again. A customer's browser may ask for some of it.
    fn not_offered(mut self) -> Self {
        let (get, post) = (MethodFilter::GET, MethodFilter::POST);
        let place = "/vault/connections/{unified_api}/{service_id}";
        for path in [
            format!("{place}/consent"),
            format!("{place}/{{resource}}/config"),
        ] {
            self = self.on(get.or(MethodFilter::PATCH), &path, not_offered_here);
        }
        self = self.on(get, "/vault/logs", not_offered_here);
        for verb in ["schema", "example", "custom-fields", "custom-mappings"] {
            let path =
                format!("/vault/connections/{{unified_api}}/{{service_id}}/{{resource}}/{verb}");
            self = self.on(get, &path, not_offered_here);
        }
        let mappings = "/vault/custom-mappings/{unified_api}/{service_id}";
        let mapping = format!("{mappings}/{{target_field_id}}");
        self = self.on(get, mappings, not_offered_here);
        let all = get
            .or(post)
            .or(MethodFilter::PATCH)
            .or(MethodFilter::DELETE);
        self = self.on(all, &mapping, not_offered_here);
        for path in [
            "/connector/connectors/{id}/docs/{doc_id}",
            "/connector/connectors/{id}/resources/{resource_id}",
            "/connector/connectors/{id}/resources/{resource_id}/unified_api/{api_id}/schema",
            "/connector/connectors/{id}/resources/{resource_id}/unified_api/{api_id}/example",
            "/connector/apis/{id}/resources/{resource_id}",
            "/connector/apis/{id}/resources/{resource_id}/coverage",
            "/vault/consumers/{consumer_id}/stats",
            "/webhook/logs",
        ] {
            self = self.on(get, path, not_offered);
        }
        for path in [
            "/vault/connections/{unified_api}/{service_id}/migrate",
            "/webhook/webhooks/{id}/execute/{service_id}",
            "/webhook/webhooks/{id}/x/{service_id}",
        ] {
            self = self.on(post, path, not_offered);
        }
        let all = get.or(MethodFilter::PATCH).or(MethodFilter::DELETE);
        self.on(get.or(post), "/webhook/webhooks", not_offered)
            .on(all, "/webhook/webhooks/{id}", not_offered)
            .on(get.or(post), "/webhook/w/{id}/{service_id}", not_offered)
    }
}

async fn not_offered(_: Caller) -> ApiError {
    ApiError::not_offered()
}

async fn not_offered_here(_: Visitor) -> ApiError {
    ApiError::not_offered()
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let place = "/vault/connections/{unified_api}/{service_id}";
    let below = |verb: &str| format!("{place}/{verb}");
    let (get, post) = (MethodFilter::GET, MethodFilter::POST);
    let (patch, delete) = (MethodFilter::PATCH, MethodFilter::DELETE);
    let consumer = "/vault/consumers/{consumer_id}";
    Routes(Router::new())
        .on(get, "/vault/connections", connections::list)
        .on(get, place, connections::get)
        .on(patch, place, connections::update)
        .on(delete, place, connections::delete)
        .on(get, &below("access-token"), connections::access_token)
        .on(post, &below("import"), connections::import)
        .on(post, &below("token"), connections::token)
        .on(post, &below("validate"), connections::validate)
        .on(post, "/vault/sessions", sessions::create)
        .on(post, "/vault/consumers", consumers::create)
        .on(get, "/vault/consumers", consumers::list)
        .on(get, consumer, consumers::get)
        .on(patch, consumer, consumers::update)
        .on(delete, consumer, consumers::delete)
        .on(get, "/connector/connectors", connectors::list)
        .on(get, "/connector/connectors/{id}", connectors::get)
        .on(get, "/connector/apis", connectors::apis)
        .on(get, "/connector/apis/{id}", connectors::api)
        .not_offered()
        .0
        // Pages show it: it is for everybody.
        .route("/vault/icons/{file}", on(get, icons::get))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(map_response(in_the_wire_format))
        .layer(from_fn(cors))
        .with_state(state)
}

async fn no_route() -> ApiError {
    ApiError::no_route()
}

async fn no_method() -> ApiError {
    ApiError::no_method()
}

/// A request's whole body. Read after all else was settled: see [`Authenticated`].
#[derive(Debug)]
pub(super) struct Whole(pub(super) Bytes);

impl<S: Sync> FromRequest<S> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let reading = read(Limited::new(request.into_body(), LARGEST_BODY));
        match tokio::time::timeout(BODY_WHOLE, reading).await {
            Ok(body) => body.map(Self).map_err(ApiError::refused),
            Err(_) => Err(ApiError::refused(StatusCode::REQUEST_TIMEOUT)),
        }
    }
}

async fn read(mut body: Limited<axum::body::Body>) -> Result<Bytes, StatusCode> {
    let mut whole = Vec::new();
    loop {
        let Ok(frame) = tokio::time::timeout(BODY_STALL, body.frame()).await else {
            return Err(StatusCode::REQUEST_TIMEOUT);
        };
        match frame {
            None => return Ok(whole.into()),
            Some(Ok(frame)) => whole.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            Some(Err(_)) => return Err(StatusCode::BAD_REQUEST),
        }
    }
}

/// axum refuses some requests itself (a path that is not UTF-8), in plain text that Apideck's SDKs
/// cannot read.
async fn in_the_wire_format(response: Response) -> Response {
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let status = response.status();
    if json || status == StatusCode::OK || status == StatusCode::NO_CONTENT {
        return response;
    }
    axum::response::IntoResponse::into_response(ApiError::refused(status))
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "measures on the paused clock of the test"
)]
mod tests {
    use axum::body::Body;
    use futures_util::stream;
    use http::Request;

    use super::*;

    async fn refused(body: Body) -> (u16, u64) {
        let began = tokio::time::Instant::now();
        let error = Whole::from_request(Request::new(body), &())
            .await
            .unwrap_err();
        (error.status().as_u16(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_and_an_endless_one_is_not_kept() {
        let silent = stream::pending::<Result<Bytes, std::io::Error>>();
        assert_eq!(refused(Body::from_stream(silent)).await, (408, 30));
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        assert_eq!(refused(Body::from_stream(drops)).await, (408, 60));
        let flood = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 65536])));
        assert_eq!(refused(Body::from_stream(flood)).await, (413, 0));
        let exact = Body::from(vec![b' '; LARGEST_BODY]);
        let whole = Whole::from_request(Request::new(exact), &()).await.unwrap();
        assert_eq!(whole.0.len(), LARGEST_BODY);
    }
}
