//! How it is known whose account a login is of.

use serde::Deserialize;

use crate::endpoint::Template;

/// An OAuth client's setting: `true` where its server says that every answer names its issuer
/// (`authorization_response_iss_parameter_supported`, RFC 9207 section 3).
pub const CALLBACK_ISSUER_SETTING: &str = "callback_issuer";

/// How it is known whose account a login is of. Without it any account is taken for the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRules {
    /// Scopes that are asked for to know it.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Who issues id tokens and answers; not checked where it cannot be filled.
    #[serde(default)]
    pub issuer: Option<Template>,
    /// Whether every answer names its issuer.
    #[serde(default)]
    pub callback_issuer: bool,
    /// Where to ask with the access token; asked only if something is to be found there.
    #[serde(default)]
    pub userinfo: Option<Template>,
    /// The person or service.
    #[serde(default)]
    pub subject: Option<Claim>,
    /// The organisation, where a grant is for one.
    #[serde(default)]
    pub tenant: Option<Claim>,
    /// What people call the account.
    #[serde(default)]
    pub name: Option<Claim>,
}

/// Where something about an account stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In what.
    pub from: ClaimSource,
    /// Under which name.
    pub field: String,
}

/// What comes with a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimSource {
    /// The id token.
    IdToken,
    /// The userinfo endpoint's answer.
    Userinfo,
    /// A field of the token reply that `token.metadata` keeps.
    Reply,
    /// A parameter of the callback.
    Callback,
}

impl IdentityRules {
    /// What is looked for.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        let claims = [&self.subject, &self.tenant, &self.name];
        claims.into_iter().flatten()
    }

    /// Whether something is to be found in a source.
    pub fn reads(&self, source: ClaimSource) -> bool {
        self.claims().any(|claim| claim.from == source)
    }
}
