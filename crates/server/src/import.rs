//! The import format, shared by the vault API and the command line.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenward::{Secret, vault::Import};

#[derive(Deserialize)]
struct Body {
    credentials: Credentials,
    #[serde(default)]
    settings: Option<Map<String, Value>>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

/// Only these four keys, as Apideck has it: a misspelt one must not lose a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    #[serde(default)]
    access_token: Option<Secret>,
    #[serde(default)]
    refresh_token: Option<Secret>,
    #[serde(default)]
    issued_at: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Reads an import.
///
/// # Errors
///
/// In words for a person; never with a part of the input, which holds tokens.
pub fn read(bytes: &[u8]) -> Result<Import, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "the import is not JSON: line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    if !value.is_object() {
        return Err("the import must be a JSON object with `credentials`".to_owned());
    }
    let body: Body = serde_json::from_value(value).map_err(|error| explain(&error))?;
    let Credentials {
        access_token,
        refresh_token,
        issued_at,
        expires_in,
    } = body.credentials;
    let issued_at_ms = issued_at
        .map(|text| {
            text.parse::<jiff::Timestamp>()
                .map(jiff::Timestamp::as_millisecond)
                .map_err(|_| {
                    "`credentials.issued_at` is not an RFC 3339 time such as 2026-08-08T10:00:00Z"
                        .to_owned()
                })
        })
        .transpose()?;
    let expires_in = expires_in
        .map(|seconds| {
            Duration::try_from_secs_f64(seconds)
                .map(|lifetime| lifetime.min(Duration::from_secs(10 * 365 * 86_400)))
                .map_err(|_| "`credentials.expires_in` is not a number of seconds".to_owned())
        })
        .transpose()?;
    let token = |token: Option<Secret>| token.filter(|token| !token.is_empty());
    Ok(Import {
        access_token: token(access_token),
        refresh_token: token(refresh_token),
        issued_at_ms,
        expires_in,
        settings: body.settings,
        metadata: body.metadata,
        ..Import::default()
    })
}

/// serde's message without the values that it quotes: they may be tokens.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("unknown field") {
        return text;
    }
    match text.split_once("expected ") {
        Some((_, expected)) => format!("a value has the wrong type: expected {expected}"),
        None => "a value has the wrong type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_apidecks_example() {
        let import = read(br#"{"credentials":{"access_token":"at","refresh_token":"rt","issued_at":"2026-08-08T10:00:00.000Z","expires_in":3600},"settings":{"region":"eu"},"consumer_id":"ignored"}"#).unwrap();
        assert_eq!(import.expires_in, Some(Duration::from_secs(3600)));
        assert_eq!(import.issued_at_ms, Some(1_786_183_200_000));
        assert_eq!(import.settings.unwrap()["region"], "eu");
    }

    #[test]
    fn errors_name_the_field_and_never_the_value() {
        for (body, expected) in [
            ("", "not JSON"),
            ("[]", "must be a JSON object"),
            ("{}", "missing field `credentials`"),
            (
                r#"{"credentials":{"acess_token":"at-secret"}}"#,
                "unknown field `acess_token`",
            ),
            (
                r#"{"credentials":{"access_token":17}}"#,
                "wrong type: expected a string",
            ),
            (
                r#"{"credentials":{"access_token":"at-secret","issued_at":"yesterday"}}"#,
                "issued_at",
            ),
            (
                r#"{"credentials":{"access_token":"at-secret","expires_in":-5}}"#,
                "expires_in",
            ),
            (r#"{"credentials":"at-secret"}"#, "wrong type"),
        ] {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
            assert!(!error.contains("at-secret"), "{error}");
        }
    }

    proptest::proptest! {
        /// Whatever stands in an import: it is read, or refused without a word of what it holds.
        #[test]
        fn any_import_is_read_and_no_value_is_repeated(
            key in "(access_token|refresh_token|issued_at|expires_in|[a-z_]{1,12})",
            kind in 0..4,
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
        ) {
            let _ = read(&noise);
            let secret = "at-0123456789-secret";
            let value = match kind {
                0 => serde_json::json!(secret),
                1 => serde_json::json!([secret]),
                2 => serde_json::json!({ "x": secret }),
                _ => serde_json::json!(-1e300),
            };
            for body in [
                serde_json::json!({ "credentials": { key.clone(): value } }),
                serde_json::json!({ "credentials": value }),
                serde_json::json!({ "credentials": {}, "settings": value, key: value }),
            ] {
                if let Err(why) = read(body.to_string().as_bytes()) {
                    proptest::prop_assert!(!why.contains("secret"), "{}", why);
                }
            }
        }
    }
}
