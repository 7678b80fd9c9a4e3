//! What must hold for any bytes, one function for each parser of foreign bytes.
//!
//! The targets in `fuzz_targets/` call these; so does the test below, on the corpora.

mod http1;
mod vault;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokenward::{
    Secret,
    connector::{Catalogue, Connector, EndpointKind, validate_settings},
    endpoint::{Context, HostPattern, Template},
    oauth::{self, CallbackError, TokenDialect, TokenReply, TokenSet},
    seal::Keyring,
};
use tokenward_server::{fuzz as gateway, import};

pub use self::{
    http1::{http_answer, http_chunks, http_pipeline, http_request},
    vault::{proxy_target, spool_entry},
};

/// A time at which the seeds were made, in milliseconds.
const NOW: i64 = 1_795_413_600_000;
const DAY: Duration = Duration::from_secs(86_400);

/// The first line of the input, and what follows it.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, b""),
    }
}

/// Headers in the form `name: value`, one a line, up to an empty line; and the rest.
fn headers(mut data: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    while !data.is_empty() {
        let (first, rest) = line(data);
        data = rest;
        if first.is_empty() {
            break;
        }
        let Some(colon) = first.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&first[..colon], first[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    (headers, data)
}

/// A dialect, as the header `x-dialect` has it: the fields of `[token]` as TOML on one line.
fn dialect(headers: &HeaderMap) -> TokenDialect {
    headers
        .get("x-dialect")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| toml::from_str(&format!("it = {{ {text} }}")).ok())
        .and_then(|mut table: toml::Table| table.remove("it")?.try_into().ok())
        .unwrap_or_default()
}

/// A token reply: status, headers, an empty line, body. What was sent is never repeated, a
/// success has a usable access token, and a failure of the server is never the grant's death.
pub fn token_reply(data: &[u8]) {
    let (status, rest) = line(data);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let status = status
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::OK);
    let (headers, body) = headers(rest);
    let sent = Secret::new("rt-that-was-sent");
    let dialect = dialect(&headers);
    let reply = oauth::read_token_reply(status, &headers, body, &dialect, &[&sent], NOW);
    match &reply {
        TokenReply::Granted(response) => {
            assert!(status.is_success());
            let (access, refresh) = (&response.access_token, &response.refresh_token);
            let graphic = |token: &Secret| token.expose().bytes().all(|b| b.is_ascii_graphic());
            assert!(
                access
                    .as_ref()
                    .is_none_or(|token| !token.is_empty() && graphic(token))
            );
            assert!(refresh.as_ref().is_none_or(|token| !token.is_empty()));
            assert!(access.is_some() || refresh.is_some());
            assert!(
                response
                    .expires_in
                    .is_none_or(|lifetime| lifetime <= 3650 * DAY)
            );
            let old = TokenSet {
                access_token: None,
                refresh_token: Some(Secret::new("old")),
                scope: Vec::new(),
                metadata: Default::default(),
                client_credentials: false,
            };
            // What is sealed can be read again, and a refresh token is never lost.
            let new = old.succeeded_by(response.clone());
            assert!(new.refresh_token.is_some());
            assert_eq!(TokenSet::from_plain(&new.to_plain()), Some(new));
        }
        TokenReply::Refused(_) => assert!(!status.is_server_error()),
        TokenReply::Throttled { retry_after, .. } => {
            assert!(retry_after.is_none_or(|wait| wait <= DAY));
        }
        TokenReply::Misconfigured { .. } | TokenReply::Unreadable { .. } => {}
    }
    if !matches!(reply, TokenReply::Granted(_)) {
        assert!(!format!("{reply:?}").contains(sent.expose()));
    }
}

/// An introspection reply.
pub fn introspection(data: &[u8]) {
    if let Some(read) = oauth::read_introspection(StatusCode::OK, data) {
        let fields: serde_json::Value = serde_json::from_slice(data).expect("it was read");
        assert_eq!(fields["active"], read.active);
    }
    assert_eq!(
        oauth::read_introspection(StatusCode::BAD_GATEWAY, data),
        None
    );
}

/// The query of a callback: never with an empty code or state, and an error is an error even if
/// a code stands beside it.
pub fn callback(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else {
        return;
    };
    let pairs: Vec<_> = url::form_urlencoded::parse(data).collect();
    let count = |name: &str| pairs.iter().filter(|(key, _)| key == name).count();
    match oauth::read_callback(query, "code") {
        Ok(callback) => {
            assert!(!callback.code.is_empty() && !callback.state.is_empty());
            assert_eq!((count("code"), count("state")), (1, 1));
            assert!(
                pairs
                    .iter()
                    .all(|(key, value)| key != "error" || value.is_empty())
            );
        }
        Err(CallbackError::Refused { error, .. }) => {
            assert_eq!(count("error"), 1);
            assert!(error.len() < 4096);
        }
        Err(CallbackError::Malformed(_)) => {}
    }
}

/// `Retry-After`: at most a day.
pub fn retry_after(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for now in [0, NOW, i64::MAX, i64::MIN] {
        assert!(oauth::parse_retry_after(text, now).is_none_or(|wait| wait <= DAY));
    }
}

/// An import: an error never repeats a string of the input.
pub fn import(data: &[u8]) {
    match import::read(data) {
        Ok(read) => {
            assert!(!read.access_token.as_ref().is_some_and(Secret::is_empty));
            assert!(!read.refresh_token.as_ref().is_some_and(Secret::is_empty));
        }
        Err(why) => {
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else {
                return;
            };
            for token in ["access_token", "refresh_token"] {
                if let Some(token) = value["credentials"][token]
                    .as_str()
                    .filter(|token| token.len() > 12)
                {
                    assert!(
                        !why.contains(token)
                            || "the import must be a JSON object with `credentials`"
                                .contains(token)
                    );
                }
            }
        }
    }
}

/// A connector file: what is taken is complete and consistent, what is refused changes nothing.
pub fn connector_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut catalogue = Catalogue::default();
    match catalogue.add("fuzz.toml", text) {
        Ok(connector) => {
            assert!(catalogue.find(connector.id.as_str()).is_some());
            assert!(!connector.unified_apis.is_empty());
            let _ = connector.gate_limits();
            let _ = connector.lifetime(None, true);
            let url = "https://evil.example/".parse().expect("a URL");
            for host in &connector.api.hosts {
                let _ = host.matches(&url, &Context::default());
            }
            for kind in EndpointKind::ALL {
                // Without values only what the file itself says can be an endpoint.
                let template = connector.endpoint_template(kind);
                if connector.endpoint(kind, &Context::default()).is_ok() {
                    assert!(template.is_some_and(|template| !template.has_places()));
                }
            }
        }
        Err(error) => {
            assert_eq!(catalogue.iter().count(), 0);
            assert!(error.line <= text.lines().count() + 1, "{error}");
        }
    }
}

/// A connector's URL template and what strangers say: a line for the template, one for the value,
/// one for the host list. What is filled is on the list, and looks as its template does.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let (Some(template), Some(host), Some(value)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let (Ok(template), Ok(host)) = (Template::parse(template), HostPattern::parse(host)) else {
        return;
    };
    let values = [("x".to_owned(), value.to_owned())].into();
    let context = Context {
        client: None,
        settings: Some(&values),
        token: Some(&values),
    };
    if let Ok(endpoint) = template.fill_endpoint(&context, std::slice::from_ref(&host)) {
        let url = endpoint.url();
        assert!(host.matches(url, &context));
        assert!(url.username().is_empty() && url.password().is_none());
        let shown = template.to_string();
        // The path has as many parts as its template, where the template has a host of its own.
        if let Some((_, rest)) = shown.split_once("://")
            && let Some((_, path)) = rest.split_once('/')
            && !path.contains(['?', '#', '\\', '\t', '\r', '\n', '.', '%'])
            && !rest.contains(|c: char| c.is_control() || c == ' ')
        {
            let parts = url.path_segments().map(Iterator::count);
            assert_eq!(parts, Some(path.split('/').count()), "{shown} {url}");
        }
    }
}

/// A setting, as a JSON document, for a connector of each kind of setting: what is taken is used,
/// and is what its kind says.
pub fn settings(data: &[u8]) {
    const FILE: &str = include_str!("../connector.toml");
    static CONNECTOR: std::sync::LazyLock<std::sync::Arc<Connector>> =
        std::sync::LazyLock::new(|| {
            let mut catalogue = Catalogue::default();
            catalogue.add("connector.toml", FILE).expect("a connector")
        });
    let Ok(serde_json::Value::Object(given)) = serde_json::from_slice(data) else {
        return;
    };
    let used = CONNECTOR.settings_text(&given);
    assert!(
        used.values()
            .all(|text| !text.chars().any(char::is_control))
    );
    if validate_settings(&CONNECTOR, &given).is_ok() {
        for (name, value) in &given {
            let text = value.as_str().filter(|text| !text.is_empty());
            assert!(text.is_none_or(|text| used.get(name).is_some_and(|used| used == text)));
        }
    }
    if let Some(host) = used.get("host") {
        assert!(!host.contains(['/', '?', '#', '@', '\\', '%']));
    }
    let context = Context {
        settings: Some(&used),
        ..Context::default()
    };
    for kind in EndpointKind::ALL {
        if let Ok(endpoint) = CONNECTOR.endpoint(kind, &context) {
            let host = endpoint.url().host_str().unwrap_or_default();
            assert!(host.ends_with(".acme.example"), "{endpoint}");
        }
    }
}

/// Headers of a request to `/proxy` and of the API's answer: nothing of ours, of the caller's key
/// or of the connection goes on.
pub fn proxy_headers(data: &[u8]) {
    let (headers, _) = headers(data);
    let mut answer = headers.clone();
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let headers = gateway::onward(&headers);
    for name in [
        header::AUTHORIZATION,
        header::COOKIE,
        header::HOST,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ] {
        assert!(!headers.contains_key(name));
    }
    assert!(
        headers
            .keys()
            .all(|name| !name.as_str().starts_with("x-apideck-"))
    );
    assert!(named.iter().all(|name| !headers.contains_key(name)));
    vault::finish(&mut answer, StatusCode::BAD_REQUEST);
    assert_eq!(answer["x-apideck-downstream-error"], "true");
    vault::finish(&mut answer, StatusCode::OK);
    assert!(!answer.contains_key("x-apideck-downstream-error"));
}

/// A key file: what is read seals and opens.
pub fn key_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Keyring::parse(&Secret::new(text)) {
        Ok(keyring) => {
            let purpose = tokenward::seal::Purpose::Vault { name: "fuzz" };
            let sealed = keyring.seal(purpose, b"x");
            assert_eq!(
                keyring.open(purpose, &sealed).expect("its own").as_slice(),
                b"x"
            );
        }
        Err(error) => {
            let said = error.to_string();
            // Nothing of a file that may hold half a key.
            assert!(said.len() < 80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpora_hold() {
        let targets: [(&str, fn(&[u8])); 16] = [
            ("token_reply", token_reply),
            ("introspection", introspection),
            ("callback", callback),
            ("retry_after", retry_after),
            ("import", import),
            ("connector_file", connector_file),
            ("endpoint", endpoint),
            ("settings", settings),
            ("proxy_target", proxy_target),
            ("proxy_headers", proxy_headers),
            ("spool_entry", spool_entry),
            ("key_file", key_file),
            ("http_request", http_request),
            ("http_answer", http_answer),
            ("http_chunks", http_chunks),
            ("http_pipeline", http_pipeline),
        ];
        for (name, target) in targets {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus")
                .join(name);
            let mut seeds = 0;
            for seed in std::fs::read_dir(&folder).expect("a corpus") {
                target(&std::fs::read(seed.expect("a seed").path()).expect("a seed"));
                seeds += 1;
            }
            assert!(seeds > 0, "{name}");
        }
    }
}
