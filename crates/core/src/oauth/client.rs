//! How a client proves to be itself at the token endpoint (RFC 6749 section 2.3).

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The authentication method, in the words of RFC 7591 section 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// HTTP Basic, each part form-encoded first (RFC 6749 section 2.3.1).
    #[default]
    ClientSecretBasic,
    /// `client_id` and `client_secret` in the body.
    ClientSecretPost,
    /// A public client: `client_id` in the body, no secret.
    None,
}

/// An application's registration at a provider.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// The public identifier.
    pub id: String,
    /// The secret; `None` for a public client.
    pub secret: Option<Secret>,
}
