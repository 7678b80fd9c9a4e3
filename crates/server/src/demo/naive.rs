//! What the guide describes: each request checks the expiry and refreshes by itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use tokenward::Secret;
use tokenward_sandbox::{IssuedTokens, Sandbox, SandboxConfig};
use tokio::time::Instant;
use url::form_urlencoded;

use super::load::{Client, Report};

/// A gateway without coordination: a shared record of the tokens, read and written by everybody.
#[derive(Debug)]
pub(super) struct Naive {
    client: Client,
    token_url: String,
    api_url: String,
    tokens: Mutex<Tokens>,
}

#[derive(Clone, Debug)]
struct Tokens {
    access: Secret,
    refresh: Secret,
    expires: Instant,
}

/// The guide's margin.
const MARGIN: Duration = Duration::from_secs(30);

impl Naive {
    #[expect(
        clippy::disallowed_methods,
        reason = "a naive gateway reads the clock wherever it likes"
    )]
    pub(super) fn new(sandbox: &Sandbox, tokens: &IssuedTokens, client: Client) -> Self {
        Self {
            client,
            token_url: sandbox.token_url(),
            api_url: sandbox.api_url(),
            tokens: Mutex::new(Tokens {
                access: Secret::new(tokens.access_token.as_str()),
                refresh: Secret::new(tokens.refresh_token.as_str()),
                expires: Instant::now() + tokens.expires_in,
            }),
        }
    }

    fn tokens(&self) -> Tokens {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forces a refresh, as `validateConnectionState` does.
    pub(super) async fn validate(&self) -> anyhow::Result<()> {
        let tokens = self.tokens();
        self.refresh(&tokens)
            .await
            .map(drop)
            .context("the validation failed")
    }

    /// One request: check, refresh if need be, call the API.
    #[expect(
        clippy::disallowed_methods,
        reason = "a naive gateway reads the clock wherever it likes"
    )]
    pub(super) async fn request(&self) -> Report {
        let mut tokens = self.tokens();
        let mut refreshed = None;
        if tokens.expires < Instant::now() + MARGIN {
            let result = self.refresh(&tokens).await;
            refreshed = Some(Instant::now());
            match result {
                Ok(newer) => tokens = newer,
                Err(_) => {
                    return Report {
                        ok: false,
                        refreshed,
                    };
                }
            }
        }
        let request = Request::get(format!("{}/invoices", self.api_url))
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", tokens.access.expose()),
            )
            .body(Full::default());
        let answer = match request {
            Ok(request) => self.client.send(request).await,
            Err(_) => None,
        };
        Report {
            ok: answer.is_some_and(|(status, _)| status == StatusCode::OK),
            refreshed,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a naive gateway reads the clock wherever it likes"
    )]
    async fn refresh(&self, tokens: &Tokens) -> anyhow::Result<Tokens> {
        let config = SandboxConfig::default();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", tokens.refresh.expose())
            .append_pair("client_id", &config.client_id)
            .append_pair("client_secret", &config.client_secret)
            .finish();
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.token_url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))?;
        let (status, body) = self
            .client
            .send(request)
            .await
            .context("the connection failed")?;
        if status != StatusCode::OK {
            bail!("the provider answered {status}");
        }
        let reply: Value = serde_json::from_slice(&body)?;
        let text = |name: &str| {
            reply[name]
                .as_str()
                .map(Secret::new)
                .with_context(|| format!("no {name}"))
        };
        let newer = Tokens {
            access: text("access_token")?,
            refresh: text("refresh_token")?,
            expires: Instant::now()
                + Duration::from_secs(reply["expires_in"].as_u64().unwrap_or(0)),
        };
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = newer.clone();
        Ok(newer)
    }
}
