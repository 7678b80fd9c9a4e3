//! The OAuth grammar: requests built, replies read. Pure: bytes in, values out.
//!
//! RFC 6749 (grants), 7636 (PKCE), 7009 (revocation), 7662 (introspection), 8414 (metadata).
//! Strict in what is sent, tolerant in what is read, because providers deviate: numbers as
//! strings, form-encoded replies, comma-separated scopes, errors inside a 200.

mod authorize;
mod client;
mod dialect;
mod kept;
mod metadata;
mod reply;
mod request;
mod token_set;

pub use authorize::{AuthorizationRequest, Callback, CallbackError, Pkce, read_callback};
pub use client::{CLIENT_AUTH_SETTING, ClientAuth, ClientCredentials};
pub use dialect::TokenDialect;
pub use kept::KeptReply;
pub use metadata::{ServerMetadata, metadata_urls, read_metadata};
pub use reply::{
    Introspection, Refusal, Subject, TokenReply, parse_retry_after, read_id_token_field,
    read_introspection, read_token_reply,
};
pub use request::{
    TokenRequest, client_credentials, code_exchange, introspect, metadata_request, refresh, revoke,
    userinfo,
};
pub use token_set::{TokenResponse, TokenSet};
