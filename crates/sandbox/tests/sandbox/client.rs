//! A raw client: one connection per request, so that a dropped one is seen as such.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokenward_sandbox::{IssuedTokens, Sandbox, SandboxConfig};
use tokio::net::TcpStream;
use url::{Url, form_urlencoded};

pub(crate) const ID: &str = "sandbox-client";
pub(crate) const SECRET: &str = "sandbox-client-secret";

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

pub(crate) async fn start(config: SandboxConfig) -> Sandbox {
    Sandbox::start(config).await.unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test is outside of the server that it calls"
)]
/// Sends a request. An error is a connection that ended without an answer.
pub(crate) async fn send(request: Request<String>) -> hyper::Result<Answer> {
    let url = Url::parse(&request.uri().to_string()).unwrap();
    let stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap()))
        .await
        .unwrap();
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request.map(Full::from)).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        drop(sender);
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    };
    tokio::join!(exchange, connection).0
}

pub(crate) async fn get(url: &str, token: Option<&str>) -> Answer {
    let mut request = Request::get(url).header(header::HOST, "sandbox");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    send(request.body(String::new()).unwrap()).await.unwrap()
}

pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

pub(crate) async fn post(url: &str, fields: &[(&str, &str)]) -> hyper::Result<Answer> {
    let request = Request::post(url)
        .header(header::HOST, "sandbox")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form(fields))
        .unwrap();
    send(request).await
}

/// Posts a form as the default client.
pub(crate) async fn as_client(url: &str, fields: &[(&str, &str)]) -> hyper::Result<Answer> {
    let mut fields = fields.to_vec();
    fields.extend([("client_id", ID), ("client_secret", SECRET)]);
    post(url, &fields).await
}

pub(crate) async fn refresh(sandbox: &Sandbox, token: &str) -> hyper::Result<Answer> {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
    as_client(&sandbox.token_url(), &fields).await
}

/// Refreshes, and expects to be granted.
pub(crate) async fn refreshed(sandbox: &Sandbox, token: &str) -> Answer {
    let answer = refresh(sandbox, token).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    answer
}

/// Refreshes, and expects `invalid_grant`.
pub(crate) async fn refused(sandbox: &Sandbox, token: &str) {
    let answer = refresh(sandbox, token).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.text("error"), "invalid_grant");
}

pub(crate) async fn api(sandbox: &Sandbox, token: &str) -> StatusCode {
    let url = sandbox.api_url() + "/things";
    get(&url, Some(token)).await.status
}

/// A sandbox with one grant.
pub(crate) async fn with_grant(config: SandboxConfig) -> (Sandbox, IssuedTokens) {
    let sandbox = start(config).await;
    let issued = sandbox.issue(ID);
    (sandbox, issued)
}
