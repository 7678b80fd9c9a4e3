//! The authorization request and its callback (RFC 6749 section 4.1, RFC 7636).

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use url::{Url, form_urlencoded};

use crate::{endpoint::Endpoint, secret::Secret};

/// A PKCE pair, method `S256` (RFC 7636 section 4).
#[derive(Clone, Debug)]
pub struct Pkce {
    /// Kept by us until the code is exchanged.
    pub verifier: Secret,
    /// Sent with the authorization request.
    pub challenge: String,
}

impl Pkce {
    /// A pair from 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        let verifier = URL_SAFE_NO_PAD.encode(random);
        let challenge =
            URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        Self {
            verifier: Secret::new(verifier),
            challenge,
        }
    }
}

/// What goes into an authorization URL.
#[derive(Clone, Debug)]
pub struct AuthorizationRequest<'a> {
    /// The connector's endpoint; a query that it already has is kept (RFC 6749 section 3.1).
    pub endpoint: &'a Endpoint,
    /// The client's public identifier.
    pub client_id: &'a str,
    /// Where the provider sends the browser back to.
    pub redirect_uri: &'a str,
    /// Binds the callback to the browser's session (RFC 6749 section 10.12).
    pub state: &'a str,
    /// Scopes, in order.
    pub scopes: &'a [String],
    /// What stands between scopes: a space, for some providers a comma.
    pub scope_separator: &'a str,
    /// The S256 challenge.
    pub code_challenge: Option<&'a str>,
    /// The connector's static parameters.
    pub extra: &'a [(String, String)],
}

impl AuthorizationRequest<'_> {
    /// The URL to send the browser to.
    pub fn url(&self) -> Url {
        let mut url = self.endpoint.url().clone();
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("response_type", "code")
                .append_pair("client_id", self.client_id)
                .append_pair("redirect_uri", self.redirect_uri)
                .append_pair("state", self.state);
            if !self.scopes.is_empty() {
                query.append_pair("scope", &self.scopes.join(self.scope_separator));
            }
            if let Some(challenge) = self.code_challenge {
                query
                    .append_pair("code_challenge", challenge)
                    .append_pair("code_challenge_method", "S256");
            }
            for (name, value) in self.extra {
                query.append_pair(name, value);
            }
        }
        url
    }
}

/// A callback's query, read.
#[derive(Clone, Debug)]
pub struct Callback {
    /// The authorization code.
    pub code: Secret,
    /// The state that was sent.
    pub state: String,
    /// `iss` (RFC 9207), where the provider sends it.
    pub issuer: Option<String>,
}

/// A callback without a code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// The provider or the user said no (RFC 6749 section 4.1.2.1).
    #[error("the provider answered {error}{}", .description.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// The error code.
        error: String,
        /// The provider's words.
        description: Option<String>,
        /// The state, if it came back.
        state: Option<String>,
        /// `iss` (RFC 9207), where the provider sends it.
        issuer: Option<String>,
    },
    /// A parameter is missing, empty or given twice.
    #[error("the callback has no usable `{0}`")]
    Malformed(&'static str),
}

/// Reads the query of a callback. `code_param` is `code` but for a few providers.
///
/// # Errors
///
/// [`CallbackError`], also when a parameter is repeated (RFC 6749 section 3.1).
pub fn read_callback(query: &str, code_param: &str) -> Result<Callback, CallbackError> {
    let one = |name: &str, label: &'static str| -> Result<Option<String>, CallbackError> {
        let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(CallbackError::Malformed(label)),
            (Some((_, value)), None) if !value.is_empty() => Ok(Some(value.into_owned())),
            _ => Ok(None),
        }
    };
    let state = one("state", "state")?;
    if let Some(error) = one("error", "error")? {
        return Err(CallbackError::Refused {
            error: crate::secret::scrub(&error, &[]),
            description: one("error_description", "error_description")?
                .map(|text| crate::secret::scrub(&text, &[])),
            state,
            issuer: one("iss", "iss")?,
        });
    }
    Ok(Callback {
        code: Secret::new(one(code_param, "code")?.ok_or(CallbackError::Malformed("code"))?),
        state: state.ok_or(CallbackError::Malformed("state"))?,
        issuer: one("iss", "iss")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkce_matches_the_rfcs_example() {
        // RFC 7636 appendix B.
        let bytes = URL_SAFE_NO_PAD
            .decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
            .unwrap();
        let pkce = Pkce::new(bytes.try_into().unwrap());
        assert_eq!(
            pkce.challenge,
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn authorization_url() {
        let request = AuthorizationRequest {
            endpoint: &Endpoint::from_operator("https://id.example/auth?filter=1".parse().unwrap())
                .unwrap(),
            client_id: "c",
            redirect_uri: "https://app/cb",
            state: "s",
            scopes: &["a".into(), "b".into()],
            scope_separator: " ",
            code_challenge: Some("x"),
            extra: &[("prompt".into(), "consent".into())],
        };
        assert_eq!(
            request.url().as_str(),
            "https://id.example/auth?filter=1&response_type=code&client_id=c&redirect_uri=https%3A%2F%2Fapp%2Fcb&state=s&scope=a+b&code_challenge=x&code_challenge_method=S256&prompt=consent"
        );
    }

    #[test]
    fn callbacks() {
        let good = read_callback("state=s&code=c&iss=https%3A%2F%2Fid", "code").unwrap();
        assert_eq!(
            (
                good.code.expose(),
                good.state.as_str(),
                good.issuer.as_deref()
            ),
            ("c", "s", Some("https://id"))
        );
        assert!(matches!(
            read_callback("error=access_denied&state=s", "code"),
            Err(CallbackError::Refused { error, state: Some(_), .. }) if error == "access_denied"
        ));
        for (query, missing) in [
            ("state=s", "code"),
            ("code=c", "state"),
            ("code=a&code=b&state=s", "code"),
            ("code=&state=s", "code"),
        ] {
            assert_eq!(
                read_callback(query, "code").unwrap_err(),
                CallbackError::Malformed(missing),
                "{query}"
            );
        }
    }

    proptest::proptest! {
        /// Whatever comes back: a code and a state that each stand there once, or an error.
        #[test]
        fn any_callback_is_read(query in "[a-z=&%+0-9.]{0,40}", code in "[a-z%&=]{0,6}", error in proptest::option::of("[a-z]{0,4}")) {
            let error = error.map(|error| format!("&error={error}")).unwrap_or_default();
            let query = format!("{query}&state=s&code={code}{error}");
            let count = |name| form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).count();
            match read_callback(&query, "code") {
                Ok(callback) => {
                    proptest::prop_assert!(!callback.code.is_empty() && !callback.state.is_empty());
                    proptest::prop_assert_eq!((count("code"), count("state")), (1, 1));
                    proptest::prop_assert!(error.is_empty() || error == "&error=");
                }
                Err(CallbackError::Refused { .. }) => proptest::prop_assert_eq!(count("error"), 1),
                Err(CallbackError::Malformed(_)) => {}
            }
        }
    }
}
