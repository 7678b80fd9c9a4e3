//! Authorization server metadata (RFC 8414; OpenID Connect Discovery).

use serde::Deserialize;
use url::Url;

/// The endpoints that a server publishes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ServerMetadata {
    /// Must equal the issuer that was asked for (RFC 8414 section 3.3).
    pub issuer: String,
    /// Where the browser goes.
    pub authorization_endpoint: Option<Url>,
    /// Where tokens come from.
    pub token_endpoint: Url,
    /// RFC 7009.
    pub revocation_endpoint: Option<Url>,
    /// RFC 7662.
    pub introspection_endpoint: Option<Url>,
    /// Missing means `client_secret_basic` (RFC 8414 section 2).
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Whether every answer to an authorization request names its issuer (RFC 9207 section 3).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// Where an issuer's metadata may stand: OpenID Connect's place first, then RFC 8414's.
pub fn metadata_urls(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url.set_query(None);
        url
    };
    [
        at(format!("{path}/.well-known/openid-configuration")),
        at(format!("/.well-known/oauth-authorization-server{path}")),
    ]
}

/// Reads a metadata document.
///
/// # Errors
///
/// In words for a person, when it is not one or belongs to another issuer.
pub fn read_metadata(issuer: &Url, body: &[u8]) -> Result<ServerMetadata, String> {
    let metadata: ServerMetadata = serde_json::from_slice(body)
        .map_err(|error| format!("not a metadata document: {error}"))?;
    if metadata.issuer.trim_end_matches('/') != issuer.as_str().trim_end_matches('/') {
        return Err(format!(
            "the document is for issuer {}, not {issuer}",
            metadata.issuer
        ));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_issuer_check() {
        let issuer: Url = "https://id.example/tenant".parse().unwrap();
        let [oidc, oauth] = metadata_urls(&issuer);
        assert_eq!(
            oidc.as_str(),
            "https://id.example/tenant/.well-known/openid-configuration"
        );
        assert_eq!(
            oauth.as_str(),
            "https://id.example/.well-known/oauth-authorization-server/tenant"
        );
        let body =
            br#"{"issuer":"https://id.example/tenant","token_endpoint":"https://id.example/t"}"#;
        assert!(read_metadata(&issuer, body).is_ok());
        assert!(read_metadata(&"https://evil.example".parse().unwrap(), body).is_err());
    }
}
