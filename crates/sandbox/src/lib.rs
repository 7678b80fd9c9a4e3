//! A sandbox OAuth 2.0 provider: a real HTTP server on 127.0.0.1 with the token rotations of
//! real providers, faults on command, and books of all that it saw.
//!
//! * [`ledger`] decides, without HTTP and without a clock.
//! * [`Sandbox`] serves it: `/authorize`, `/token`, `/revoke`, `/introspect`, a resource API
//!   under `/api`, and `/sandbox` for other processes to control it.
//! * [`Books`] judge: what a client did can be read from them whatever the client believes.
//!
//! Anybody who can reach the port can mint tokens. It guards nothing.
//!
//! [`postgres`] starts private PostgreSQL clusters for those who try the shared store.

mod api;
mod authorize;
mod books;
mod clock;
mod config;
mod control;
mod desk;
mod faults;
mod http;
mod inspect;
pub mod ledger;
mod millis;
mod oauth;
pub mod postgres;
mod process;
mod secret;
mod state;
mod token;
mod visit;

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::sync::broadcast;
use tokio_util::sync::DropGuard;

use self::{books::Note, http::Shared};
pub use self::{
    books::{Books, Counts, EventKind, GrantId, TimelineEvent},
    config::{GrantRequest, IssuedTokens, SandboxConfig, UnknownClient},
    faults::{Fault, FaultOrder},
    ledger::{AccessId, RefreshId, Rotation},
    process::{Signal, signal},
    secret::fingerprint,
};

/// A running sandbox. Dropping it stops it; [`Sandbox::shutdown`] also waits for that.
pub struct Sandbox {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Sandbox {
    /// Starts a sandbox.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(config: SandboxConfig) -> io::Result<Self> {
        let shared = Shared::start(config).await?;
        let _stop = shared.stop.clone().drop_guard();
        Ok(Self { shared, _stop })
    }

    /// Closes every connection, answered or not, and waits until nothing runs any more.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        self.base_url() + "/token"
    }

    /// The authorization endpoint.
    pub fn authorize_url(&self) -> String {
        self.base_url() + "/authorize"
    }

    /// The revocation endpoint.
    pub fn revoke_url(&self) -> String {
        self.base_url() + "/revoke"
    }

    /// The introspection endpoint.
    pub fn introspect_url(&self) -> String {
        self.base_url() + "/introspect"
    }

    /// The root of the resource API, without a slash at the end.
    pub fn api_url(&self) -> String {
        self.base_url() + "/api"
    }

    /// Adds a client that may redirect anywhere, or replaces it. An empty secret makes it a
    /// public client.
    pub fn add_client(&self, id: &str, secret: &str) {
        self.shared
            .change(|state, _| state.add_client(id, secret, Vec::new()));
    }

    /// Mints a grant without a browser.
    ///
    /// # Panics
    /// If there is no such client.
    pub fn issue(&self, client_id: &str) -> IssuedTokens {
        self.issue_or_panic(&GrantRequest {
            client_id: Some(client_id.to_owned()),
            ..GrantRequest::default()
        })
    }

    /// Mints a grant whose first access token has this much life left.
    ///
    /// # Panics
    /// If there is no such client.
    pub fn issue_expiring(&self, client_id: &str, life: Duration) -> IssuedTokens {
        self.issue_or_panic(&GrantRequest {
            client_id: Some(client_id.to_owned()),
            first_access_ttl: Some(life),
            ..GrantRequest::default()
        })
    }

    /// Mints a grant with terms of its own.
    ///
    /// # Errors
    /// If there is no such client.
    pub fn issue_grant(&self, request: &GrantRequest) -> Result<IssuedTokens, UnknownClient> {
        self.shared.change(|state, now| state.mint(request, now))
    }

    fn issue_or_panic(&self, request: &GrantRequest) -> IssuedTokens {
        self.issue_grant(request)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Kills the access tokens of a grant, as if they had expired. False if there is no such
    /// grant.
    pub fn expire_access_tokens(&self, grant: GrantId) -> bool {
        self.shared
            .change(|state, now| state.expire_access_tokens(grant, now))
    }

    /// The grant of an access token, a refresh token or a spent code, dead or alive.
    pub fn grant_of(&self, token: &str) -> Option<GrantId> {
        self.shared.read(|state, _| state.grant_of(token))
    }

    /// Whether the API would accept an access token now.
    pub fn access_is_live(&self, token: &str) -> bool {
        self.shared
            .read(|state, now| state.live_access(token, now).is_some())
    }

    /// Whether a refresh token would be granted now.
    pub fn refresh_is_live(&self, token: &str) -> bool {
        self.shared.read(|state, now| {
            state.refresh.get(token).is_some_and(|(grant, refresh)| {
                state.grants[grant].family.refresh_is_live(*refresh, now)
            })
        })
    }

    /// The next `times` token requests meet this fault.
    pub fn inject(&self, fault: Fault, times: u32) {
        self.order(FaultOrder {
            fault,
            times: Some(times),
            grant: None,
        });
    }

    /// The next `times` token requests for this grant meet this fault.
    pub fn inject_for(&self, grant: GrantId, fault: Fault, times: u32) {
        self.order(FaultOrder {
            fault,
            times: Some(times),
            grant: Some(grant),
        });
    }

    /// Orders a fault.
    pub fn order(&self, order: FaultOrder) {
        self.shared.change(|state, _| state.faults.push(order));
    }

    /// Every token request that no other order is for meets this fault; `None` ends that.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.shared
            .change(|state, _| state.faults.set_standing(fault));
    }

    /// Forgets every ordered fault. Requests that hang go on hanging.
    pub fn clear_faults(&self) {
        self.shared.change(|state, _| state.faults.clear());
    }

    /// Lets the requests that hang now go on.
    pub fn release(&self) {
        self.shared.release();
    }

    /// The books so far.
    pub fn books(&self) -> Books {
        self.shared.read(|state, _| state.books.clone())
    }

    /// Waits until the books are as wanted, so that a test need not sleep.
    pub async fn when(&self, mut wanted: impl FnMut(&Books) -> bool) {
        self.shared.when(|state| wanted(&state.books)).await;
    }

    /// The latest events, oldest first.
    pub fn timeline(&self) -> Vec<TimelineEvent> {
        self.shared.read(|state, _| state.timeline.to_vec())
    }

    /// Every event from now on, as it happens. A follower that falls 4,096 events behind misses
    /// the oldest.
    pub fn follow(&self) -> broadcast::Receiver<TimelineEvent> {
        self.shared.read(|state, _| state.timeline.follow())
    }

    /// How long the token request took that was answered last, from its arrival to its answer.
    pub fn took(&self) -> Duration {
        self.shared.read(|state, _| state.took)
    }

    /// The time of the timeline.
    pub fn now_ms(&self) -> u64 {
        self.shared.read(|_, now| millis::as_millis(now))
    }

    /// The grant of an access token and its number there, dead or alive.
    pub fn access_token(&self, token: &str) -> Option<(GrantId, AccessId)> {
        self.shared
            .read(|state, _| state.access.get(token).copied())
    }

    /// Every access token, refresh token, code, PKCE verifier and client secret that was ever
    /// issued or used. None of them may be found in any output.
    pub fn issued_secrets(&self) -> Vec<String> {
        self.shared.read(|state, _| state.secrets.clone())
    }
}

impl Shared {
    fn release(&self) {
        self.change(|state, now| state.note(now, Note::new(EventKind::Released, None)));
        self.released.send_replace(());
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("base_url", &self.base_url())
            .finish_non_exhaustive()
    }
}
