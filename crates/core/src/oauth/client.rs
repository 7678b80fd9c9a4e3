//! How a client proves to be itself at the token endpoint (RFC 6749 section 2.3).

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The setting of an OAuth client that overrides its connector's authentication method.
pub const CLIENT_AUTH_SETTING: &str = "client_auth";

/// The authentication method, in the words of RFC 7591 section 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// HTTP Basic, each part form-encoded first (RFC 6749 section 2.3.1).
    #[default]
    ClientSecretBasic,
    /// HTTP Basic with both parts as they are, for servers that do not decode them.
    ClientSecretBasicUnencoded,
    /// `client_id` and `client_secret` in the body.
    ClientSecretPost,
    /// A public client: `client_id` in the body, no secret.
    None,
}

impl ClientAuth {
    /// The method that a metadata document (RFC 8414 section 2) leaves, where it leaves none of
    /// those that are used without a document. Missing means Basic.
    pub fn from_metadata(supported: &[String]) -> Option<Self> {
        let has = |name: &str| supported.iter().any(|method| method == name);
        match () {
            () if supported.is_empty() || has("client_secret_basic") => {
                Some(Self::ClientSecretBasic)
            }
            () if has("client_secret_post") => Some(Self::ClientSecretPost),
            () if has("none") => Some(Self::None),
            () => None,
        }
    }

    /// Its name, as in files and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretBasicUnencoded => "client_secret_basic_unencoded",
            Self::ClientSecretPost => "client_secret_post",
            Self::None => "none",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::ClientSecretBasic,
            Self::ClientSecretBasicUnencoded,
            Self::ClientSecretPost,
            Self::None,
        ];
        all.into_iter().find(|method| method.name() == name)
    }
}

/// An application's registration at a provider.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// The public identifier.
    pub id: String,
    /// The secret; `None` for a public client.
    pub secret: Option<Secret>,
}
