//! Requests to the token, revocation and introspection endpoints.

use std::fmt;

use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::client::{ClientAuth, ClientCredentials};
use crate::{endpoint::Endpoint, secret::Secret};

/// A request that carries secrets in its headers and body. `Debug` shows only where it goes.
#[derive(Clone)]
pub struct TokenRequest {
    /// Always `POST` but for metadata.
    pub method: Method,
    /// Where to: checked.
    pub endpoint: Endpoint,
    /// Headers; `authorization` is marked sensitive.
    pub headers: HeaderMap,
    /// The body, zeroized when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("method", &self.method)
            .field("host", &self.endpoint.url().host_str())
            .field("path", &self.endpoint.url().path())
            .finish_non_exhaustive()
    }
}

/// The `refresh_token` grant (RFC 6749 section 6). Scope is left out: the same scope goes on.
pub fn refresh(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    refresh_token: &Secret,
    extra: &[(String, String)],
) -> TokenRequest {
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose()),
    ];
    post(endpoint, auth, client, &fields, extra)
}

/// The `authorization_code` grant (RFC 6749 section 4.1.3) with PKCE (RFC 7636 section 4.5).
pub fn code_exchange(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    code: &Secret,
    redirect_uri: &str,
    verifier: Option<&Secret>,
    extra: &[(String, String)],
) -> TokenRequest {
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("code", code.expose()),
        ("redirect_uri", redirect_uri),
    ];
    if let Some(verifier) = verifier {
        fields.push(("code_verifier", verifier.expose()));
    }
    post(endpoint, auth, client, &fields, extra)
}

/// The `client_credentials` grant (RFC 6749 section 4.4).
pub fn client_credentials(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    scope: &str,
    extra: &[(String, String)],
) -> TokenRequest {
    let mut fields = vec![("grant_type", "client_credentials")];
    if !scope.is_empty() {
        fields.push(("scope", scope));
    }
    post(endpoint, auth, client, &fields, extra)
}

/// Revokes a refresh token (RFC 7009 section 2.1).
pub fn revoke(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    token: &Secret,
) -> TokenRequest {
    let fields = [
        ("token", token.expose()),
        ("token_type_hint", "refresh_token"),
    ];
    post(endpoint, auth, client, &fields, &[])
}

/// Asks about an access token (RFC 7662 section 2.1).
pub fn introspect(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    token: &Secret,
) -> TokenRequest {
    let fields = [
        ("token", token.expose()),
        ("token_type_hint", "access_token"),
    ];
    post(endpoint, auth, client, &fields, &[])
}

/// Asks who has logged in (OpenID Connect Core section 5.3.1).
pub fn userinfo(endpoint: &Endpoint, token: &Secret) -> TokenRequest {
    let mut request = metadata_request(endpoint.clone());
    let value = Zeroizing::new(format!("Bearer {}", token.expose()));
    // A token that a reply was read with fits.
    if let Ok(mut value) = HeaderValue::try_from(value.as_str()) {
        value.set_sensitive(true);
        request.headers.insert(header::AUTHORIZATION, value);
    }
    request
}

/// Asks for a metadata document (RFC 8414 section 3.1). It carries no secret.
pub fn metadata_request(endpoint: Endpoint) -> TokenRequest {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    TokenRequest {
        method: Method::GET,
        endpoint,
        headers,
        body: Zeroizing::default(),
    }
}

fn post(
    endpoint: &Endpoint,
    auth: ClientAuth,
    client: &ClientCredentials,
    fields: &[(&str, &str)],
    extra: &[(String, String)],
) -> TokenRequest {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    // Without it any coding is acceptable (RFC 9110 section 12.5.3).
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    match (auth, &client.secret) {
        (ClientAuth::ClientSecretBasic, Some(secret)) => {
            let encode = |text| utf8_percent_encode(text, UNRESERVED).to_string();
            let secret = Zeroizing::new(encode(secret.expose()));
            headers.insert(header::AUTHORIZATION, basic(&encode(&client.id), &secret));
        }
        (ClientAuth::ClientSecretBasicUnencoded, Some(secret)) => {
            headers.insert(header::AUTHORIZATION, basic(&client.id, secret.expose()));
        }
        (ClientAuth::ClientSecretPost, Some(secret)) => {
            form.append_pair("client_id", &client.id)
                .append_pair("client_secret", secret.expose());
        }
        (ClientAuth::None, _) | (_, None) => {
            form.append_pair("client_id", &client.id);
        }
    }
    for (name, value) in extra {
        form.append_pair(name, value);
    }
    let body = Zeroizing::new(form.finish().into_bytes());
    TokenRequest {
        method: Method::POST,
        endpoint: endpoint.clone(),
        headers,
        body,
    }
}

/// `application/x-www-form-urlencoded` leaves these as they are (and a space becomes `%20` here,
/// which every decoder takes).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn basic(id: &str, secret: &str) -> HeaderValue {
    use base64::Engine as _;
    let pair = Zeroizing::new(format!("{id}:{secret}"));
    let text = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair.as_bytes())
    );
    let mut value = HeaderValue::try_from(text).expect("base64 is a header value");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientCredentials {
        ClientCredentials {
            id: "my client".into(),
            secret: Some(Secret::new("p:ss&word")),
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint::from_operator("https://id.example/token".parse().unwrap()).unwrap()
    }

    fn body(request: &TokenRequest) -> String {
        String::from_utf8(request.body.to_vec()).unwrap()
    }

    #[test]
    fn basic_encodes_each_part_first() {
        use base64::Engine as _;
        let request = refresh(
            &endpoint(),
            ClientAuth::ClientSecretBasic,
            &client(),
            &Secret::new("r+t"),
            &[],
        );
        let header = request.headers[header::AUTHORIZATION]
            .to_str()
            .unwrap()
            .to_owned();
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(header.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(decoded, b"my%20client:p%3Ass%26word");
        assert_eq!(
            body(&request),
            "grant_type=refresh_token&refresh_token=r%2Bt"
        );
        assert!(request.headers[header::AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn basic_can_go_unencoded() {
        use base64::Engine as _;
        let auth = ClientAuth::ClientSecretBasicUnencoded;
        let request = refresh(&endpoint(), auth, &client(), &Secret::new("rt"), &[]);
        let header = request.headers[header::AUTHORIZATION].to_str().unwrap();
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(header.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(decoded, b"my client:p:ss&word");
        assert!(!body(&request).contains("client"));
    }

    #[test]
    fn an_answer_is_asked_for_uncompressed() {
        let request = refresh(
            &endpoint(),
            ClientAuth::None,
            &client(),
            &Secret::new("rt"),
            &[],
        );
        assert_eq!(request.headers[header::ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn post_and_public_clients() {
        let request = refresh(
            &endpoint(),
            ClientAuth::ClientSecretPost,
            &client(),
            &Secret::new("rt"),
            &[],
        );
        assert!(body(&request).ends_with("&client_id=my+client&client_secret=p%3Ass%26word"));
        let public = ClientCredentials {
            id: "pub".into(),
            secret: None,
        };
        let request = code_exchange(
            &endpoint(),
            ClientAuth::ClientSecretBasic,
            &public,
            &Secret::new("c"),
            "https://app/cb",
            Some(&Secret::new("v")),
            &[("audience".into(), "x".into())],
        );
        assert_eq!(
            body(&request),
            "grant_type=authorization_code&code=c&redirect_uri=https%3A%2F%2Fapp%2Fcb&code_verifier=v&client_id=pub&audience=x"
        );
        assert!(!request.headers.contains_key(header::AUTHORIZATION));
    }

    #[test]
    fn debug_shows_no_secret() {
        let request = refresh(
            &endpoint(),
            ClientAuth::ClientSecretPost,
            &client(),
            &Secret::new("rt-secret"),
            &[],
        );
        let shown = format!("{request:?}");
        assert!(
            shown.contains("id.example") && !shown.contains("rt-secret") && !shown.contains("p:ss"),
            "{shown}"
        );
    }
}
