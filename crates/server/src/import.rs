//! The import format, shared by the vault API and the command line: Apideck's, or a token response as a
//! provider sent it (RFC 6749 section 5.1).

use std::time::Duration;

use serde_json::{Map, Number, Value};
use tokenward::{Secret, vault::Import};

/// No access token is believed to live for longer.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads an import.
///
/// # Errors
///
/// In words for a person; never with a part of the input, which holds tokens.
pub fn read(bytes: &[u8]) -> Result<Import, String> {
    let mut body = match serde_json::from_slice(text(bytes)?) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err("the import must be a JSON object with `credentials`".to_owned()),
        Err(error) => {
            return Err(format!(
                "the import is not JSON: line {}, column {}",
                error.line(),
                error.column()
            ));
        }
    };
    if let Some(credentials) = body.remove("credentials") {
        let Value::Object(credentials) = credentials else {
            return Err("`credentials` must be an object".to_owned());
        };
        let fields = Fields {
            path: "credentials.",
            values: credentials,
        };
        return Ok(Import {
            settings: object(&mut body, "settings")?,
            metadata: object(&mut body, "metadata")?,
            ..fields.read(Others::Refused)?
        });
    }
    if ["access_token", "refresh_token"]
        .iter()
        .any(|name| body.contains_key(*name))
    {
        let fields = Fields {
            path: "",
            values: body,
        };
        return fields.read(Others::PassedOver);
    }
    Err("missing field `credentials`; or give a token response with `access_token`".to_owned())
}

/// The input without a byte order mark.
fn text(bytes: &[u8]) -> Result<&[u8], String> {
    let utf16 = matches!(
        bytes,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]
    );
    if utf16 {
        return Err("the import is in UTF-16; save it as UTF-8".to_owned());
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

fn object(body: &mut Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, String> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(format!("`{name}` must be an object")),
    }
}

/// What becomes of names that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// A misspelt one must not lose a token.
    Refused,
    /// Providers add names of their own; refused is only what looks like a token's.
    PassedOver,
}

/// Fields of a token response.
struct Fields {
    /// What stands before their names.
    path: &'static str,
    values: Map<String, Value>,
}

impl Fields {
    fn read(mut self, others: Others) -> Result<Import, String> {
        let import = Import {
            access_token: self.token("access_token")?,
            refresh_token: self.token("refresh_token")?,
            issued_at_ms: self.time("issued_at")?,
            expires_in: self.seconds("expires_in")?,
            scope: self.scope()?,
            ..Import::default()
        };
        self.bearer()?;
        self.values.remove("id_token");
        for name in self.values.keys() {
            if others == Others::Refused || name.to_lowercase().contains("token") {
                let path = self.path;
                return Err(format!(
                    "unknown field `{path}{name}`; known are access_token, refresh_token, issued_at, expires_in, scope, \
                     token_type and id_token"
                ));
            }
        }
        Ok(import)
    }

    /// A value that is there and not null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be text")),
        }
    }

    fn wrong(&self, name: &str, why: &str) -> String {
        format!("`{}{name}` {why}", self.path)
    }

    fn token(&mut self, name: &str) -> Result<Option<Secret>, String> {
        let text = self.text(name)?;
        Ok(text.map(Secret::new).filter(|token| !token.is_empty()))
    }

    fn time(&mut self, name: &str) -> Result<Option<i64>, String> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let time = text.parse::<jiff::Timestamp>().map_err(|_| {
            self.wrong(name, "is not an RFC 3339 time such as 2026-08-08T10:00:00Z")
        })?;
        Ok(Some(time.as_millisecond()))
    }

    /// A number, or one in text, as some providers have it.
    fn seconds(&mut self, name: &str) -> Result<Option<Duration>, String> {
        let seconds = match self.take(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => Number::as_f64(&number),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match lifetime {
            Some(lifetime) => Ok(Some(lifetime.min(LONGEST))),
            None => Err(self.wrong(name, "is not a number of seconds")),
        }
    }

    /// Text with spaces (RFC 6749 section 3.3), or a list.
    fn scope(&mut self) -> Result<Vec<String>, String> {
        let wrong = self.wrong("scope", "must be text, or a list of texts");
        match self.take("scope") {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split_whitespace().map(str::to_owned).collect()),
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|scope| match scope {
                    Value::String(scope) => Ok(scope),
                    _ => Err(wrong.clone()),
                })
                .collect(),
            Some(_) => Err(wrong),
        }
    }

    /// No other type can be used.
    fn bearer(&mut self) -> Result<(), String> {
        match self.text("token_type")? {
            Some(kind) if !kind.is_empty() && !kind.eq_ignore_ascii_case("bearer") => {
                Err(self.wrong("token_type", "is not `Bearer`: other tokens cannot be used"))
            }
            _ => Ok(()),
        }
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
                "unknown field `credentials.acess_token`",
            ),
            (
                r#"{"credentials":{"access_token":17}}"#,
                "`credentials.access_token` must be text",
            ),
            (
                r#"{"credentials":{"access_token":"at-secret","issued_at":"yesterday"}}"#,
                "issued_at",
            ),
            (
                r#"{"credentials":{"access_token":"at-secret","expires_in":-5}}"#,
                "expires_in",
            ),
            (
                r#"{"credentials":{"access_token":"at-secret","token_type":"mac"}}"#,
                "Bearer",
            ),
            (
                r#"{"access_token":"at-secret","refreshToken":"rt-secret"}"#,
                "unknown field `refreshToken`",
            ),
            (r#"{"credentials":"at-secret"}"#, "must be an object"),
            (
                r#"{"credentials":{},"settings":["at-secret"]}"#,
                "`settings` must be an object",
            ),
            ("{\0\"\0", "UTF-16"),
        ] {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
            assert!(!error.contains("at-secret"), "{error}");
            for rusts in ["struct", "f64", "a map", "expected"] {
                assert!(!error.contains(rusts), "{error}");
            }
        }
    }

    #[test]
    fn a_providers_own_answer_is_taken_as_it_is() {
        let answer = r#"{"access_token":"at","token_type":"bearer","expires_in":"3600","refresh_token":"rt",
            "scope":"read write","id_token":"eyJ","instance_url":"https://x.example"}"#;
        for prefix in ["", "\u{feff}"] {
            let import = read(format!("{prefix}{answer}").as_bytes()).unwrap();
            assert_eq!(import.access_token.unwrap().expose(), "at");
            assert_eq!(import.refresh_token.unwrap().expose(), "rt");
            assert_eq!(import.expires_in, Some(Duration::from_secs(3600)));
            assert_eq!(import.scope, ["read", "write"]);
        }
        let inside = format!(
            r#"{{"credentials":{}}}"#,
            answer.replace(r#","instance_url":"https://x.example""#, "")
        );
        assert_eq!(read(inside.as_bytes()).unwrap().scope.len(), 2);
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
