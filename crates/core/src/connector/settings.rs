//! A connection's settings: data from strangers, checked against what the connector declares.
//!
//! Whoever holds an application's key, and the customer on the connect page, may write them; URLs
//! and headers are made of them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

use super::Connector;

/// No setting may be longer than this, unless its connector says less.
const LONGEST_VALUE: usize = 1024;
/// No name is longer; a longer one in an error is cut.
const LONGEST_NAME: usize = 64;
/// How many entries a connection's metadata may have, and how many bytes as JSON.
const MOST_METADATA: usize = 64;
const LARGEST_METADATA: usize = 16 * 1024;

/// A value that a connection may carry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The label for people.
    pub label: String,
    /// The value where a connection has none.
    #[serde(default)]
    pub default: Option<String>,
    /// Whether API calls need it.
    #[serde(default)]
    pub required: bool,
    /// What it holds.
    #[serde(default, rename = "type")]
    pub kind: SettingKind,
    /// What the whole value must look like.
    #[serde(default)]
    pub pattern: Option<Pattern>,
    /// The only values that there are; any where none are given.
    #[serde(default)]
    pub options: Vec<String>,
    /// How many bytes it may have.
    #[serde(default)]
    pub max_length: Option<usize>,
}

/// What a setting holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingKind {
    /// Any text without control characters.
    #[default]
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A host name, perhaps with a port.
    Host,
}

/// A regular expression that a whole value must match.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex_lite::Regex,
}

impl Pattern {
    /// Reads a pattern; it is anchored at both ends.
    ///
    /// # Errors
    ///
    /// In words for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        // First as it is: `a)|(b` would undo the anchors.
        regex_lite::Regex::new(text).map_err(|error| format!("`{text}`: {error}"))?;
        let regex = regex_lite::Regex::new(&format!("^(?:{text})$"))
            .map_err(|error| format!("`{text}`: {error}"))?;
        let text = text.to_owned();
        Ok(Self { text, regex })
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A setting (or an entry of the metadata) that is refused. The value is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` {problem}")]
pub struct SettingError {
    /// Its name, cut if it is long.
    pub name: String,
    /// What is wrong.
    pub problem: SettingProblem,
}

/// What is wrong with a setting, in words that follow its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingProblem {
    /// The connector has no such setting.
    #[error("is not a setting of connector {connector}; it has: {known}")]
    Unknown {
        /// The connector.
        connector: String,
        /// What there is.
        known: String,
    },
    /// Neither text, number nor boolean, or not the one that is wanted.
    #[error("must be {0}")]
    WrongType(&'static str),
    /// Not one of the options.
    #[error("must be one of: {0}")]
    NotAnOption(String),
    /// It does not look as it must.
    #[error("does not match the pattern {0}")]
    NoMatch(String),
    /// Too long.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// Too many or too large in all.
    #[error("makes the metadata larger than {MOST_METADATA} entries or {LARGEST_METADATA} bytes")]
    TooMuch,
}

impl Setting {
    /// Whether a text may be its value.
    ///
    /// # Errors
    ///
    /// [`SettingProblem`].
    pub fn check_text(&self, text: &str) -> Result<(), SettingProblem> {
        let longest = self.max_length.unwrap_or(LONGEST_VALUE);
        if text.len() > longest {
            return Err(SettingProblem::TooLong(longest));
        }
        let (fits, wanted) = match self.kind {
            SettingKind::Text => (
                !text.chars().any(char::is_control),
                "text without control characters",
            ),
            SettingKind::Number => (text.parse::<f64>().is_ok_and(f64::is_finite), "a number"),
            SettingKind::Boolean => (matches!(text, "true" | "false"), "true or false"),
            SettingKind::Host => (is_host_name(text), "a host name such as login.example.com"),
        };
        if !fits {
            return Err(SettingProblem::WrongType(wanted));
        }
        if !self.options.is_empty() && !self.options.iter().any(|option| option == text) {
            return Err(SettingProblem::NotAnOption(self.options.join(", ")));
        }
        match &self.pattern {
            Some(pattern) if !pattern.matches(text) => {
                Err(SettingProblem::NoMatch(pattern.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The value as text; `None` for one that means "no value".
    fn text(&self, value: &Value) -> Result<Option<String>, SettingProblem> {
        let text = match value {
            Value::Null => return Ok(None),
            Value::String(text) if text.is_empty() => return Ok(None),
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(SettingProblem::WrongType("text, a number, true or false"));
            }
        };
        self.check_text(&text)?;
        Ok(Some(text))
    }
}

/// Labels of letters, digits and `-`, perhaps a port.
fn is_host_name(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label) && port.parse::<u16>().is_ok()
}

fn named(name: &str, problem: SettingProblem) -> SettingError {
    let shown: String = name
        .chars()
        .take(LONGEST_NAME)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    SettingError {
        name: shown,
        problem,
    }
}

/// Checks changes to a connection's settings against what its connector declares. A `null` or an
/// empty text takes a value away, which is always allowed.
///
/// # Errors
///
/// [`SettingError`] for the first that does not fit.
pub fn validate_settings(
    connector: &Connector,
    settings: &Map<String, Value>,
) -> Result<(), SettingError> {
    for (name, value) in settings {
        match connector.settings.get(name) {
            Some(setting) => {
                setting
                    .text(value)
                    .map_err(|problem| named(name, problem))?;
            }
            None if value.is_null() => {}
            None => {
                let known: Vec<_> = connector.settings.keys().map(String::as_str).collect();
                let known = match known.as_slice() {
                    [] => "none".to_owned(),
                    known => known.join(", "),
                };
                let connector = connector.id.to_string();
                return Err(named(name, SettingProblem::Unknown { connector, known }));
            }
        }
    }
    Ok(())
}

/// Checks a connection's metadata as it would stand after a change.
///
/// # Errors
///
/// [`SettingError`] for the first entry that is too long or too much.
pub fn validate_metadata(metadata: &Map<String, Value>) -> Result<(), SettingError> {
    let mut bytes = 0;
    for (index, (name, value)) in metadata.iter().enumerate() {
        if name.len() > LONGEST_NAME {
            return Err(named(name, SettingProblem::TooLong(LONGEST_NAME)));
        }
        bytes += name.len() + value.to_string().len();
        if index >= MOST_METADATA || bytes > LARGEST_METADATA {
            return Err(named(name, SettingProblem::TooMuch));
        }
    }
    Ok(())
}

impl Connector {
    /// A connection's settings as text, with the connector's defaults. What does not fit the
    /// connector (any more) is left out, as if it had no value.
    pub fn settings_text(&self, settings: &Map<String, Value>) -> BTreeMap<String, String> {
        let own = |name: &str, setting: &Setting| setting.text(settings.get(name)?).ok()?;
        self.settings
            .iter()
            .filter_map(|(name, setting)| {
                let text = own(name, setting).or_else(|| setting.default.clone())?;
                Some((name.clone(), text))
            })
            .collect()
    }

    /// The required settings that have no value, given a connection's settings as
    /// [`settings_text`](Self::settings_text) makes them.
    pub fn missing_required<'a>(
        &'a self,
        settings: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a str> {
        self.settings
            .iter()
            .filter(|(name, setting)| setting.required && !settings.contains_key(*name))
            .map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connector::Catalogue;

    fn connector() -> std::sync::Arc<Connector> {
        let text = r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[oauth]
hosts = ["https://*.acme.example"]
[authorization]
url = "https://{settings.host}/authorize"
[token]
url = "https://{settings.host}/token"
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[api]
hosts = ["https://api.acme.example"]
[settings.host]
label = "Host"
type = "host"
pattern = '[a-z]+\.acme\.example'
default = "id.acme.example"
[settings.region]
label = "Region"
options = ["eu", "us"]
required = true
[settings.company]
label = "Company"
type = "number"
max_length = 6
[settings.sandbox]
label = "Sandbox"
type = "boolean"
[settings.note]
label = "Note"
"#;
        Catalogue::default().add("acme.toml", text).unwrap()
    }

    #[test]
    fn settings_are_what_the_connector_declares() {
        let connector = connector();
        for (name, value, good) in [
            ("host", json!("eu.acme.example"), true),
            ("host", json!("eu.acme.example/x?"), false),
            ("host", json!("eu.acme.example.evil.example"), false),
            ("host", json!("evil.example#eu.acme.example"), false),
            ("host", json!("eu.acme.example\n"), false),
            ("region", json!("eu"), true),
            ("region", json!("moon"), false),
            ("company", json!(17), true),
            ("company", json!("17"), true),
            ("company", json!("x"), false),
            ("company", json!("NaN"), false),
            ("company", json!(1_234_567), false),
            ("sandbox", json!(true), true),
            ("sandbox", json!("yes"), false),
            ("note", json!("Zürich & co"), true),
            ("note", json!("a\r\nb"), false),
            ("note", json!("x".repeat(1025)), false),
            ("note", json!({ "a": 1 }), false),
            ("note", json!(["a"]), false),
            ("note", json!(null), true),
            ("other", json!("x"), false),
            ("other", json!(null), true),
        ] {
            let settings = [(name.to_owned(), value.clone())].into_iter().collect();
            let checked = validate_settings(&connector, &settings);
            assert_eq!(checked.is_ok(), good, "{name} {value}: {checked:?}");
            if let Err(error) = checked {
                assert!(
                    error.to_string().starts_with(&format!("`{name}` ")),
                    "{error}"
                );
            }
            // What got in otherwise, in an older version or past us, is not used.
            let text = connector.settings_text(&settings);
            let default = connector
                .settings
                .get(name)
                .and_then(|it| it.default.as_ref());
            assert!(good || text.get(name) == default, "{name} {value}");
        }
    }

    #[test]
    fn defaults_and_what_is_missing() {
        let connector = connector();
        let text = connector.settings_text(&Map::new());
        assert_eq!(text["host"], "id.acme.example");
        assert_eq!(
            connector.missing_required(&text).collect::<Vec<_>>(),
            ["region"]
        );
        let settings = [("region".to_owned(), json!("eu"))].into_iter().collect();
        let text = connector.settings_text(&settings);
        assert_eq!(connector.missing_required(&text).count(), 0);
    }

    #[test]
    fn metadata_is_bounded() {
        let many = |count: usize, size: usize| -> Map<String, Value> {
            (0..count)
                .map(|number| (format!("k{number}"), json!("x".repeat(size))))
                .collect()
        };
        assert!(validate_metadata(&many(64, 100)).is_ok());
        assert!(validate_metadata(&many(65, 1)).is_err());
        assert!(validate_metadata(&many(2, 9_000)).is_err());
        let long = [("k".repeat(65), json!(1))].into_iter().collect();
        assert!(validate_metadata(&long).is_err());
    }

    #[test]
    fn patterns_are_anchored() {
        let pattern = Pattern::parse("a|b").unwrap();
        assert!(pattern.matches("a") && pattern.matches("b"));
        for other in ["ab", "xa", "a\n", "bx", ""] {
            assert!(!pattern.matches(other), "{other:?}");
        }
        assert!(Pattern::parse("a)|(b").is_err() && Pattern::parse("(").is_err());
    }

    proptest::proptest! {
        /// What is accepted is used, at its own length and without control characters; what is
        /// refused is not, and its value is not repeated.
        #[test]
        fn any_setting_is_used_or_refused(
            name in "(host|region|company|sandbox|note|[a-z]{1,3})",
            text in "([a-z0-9.:/#?@-]|\\PC|[\\u{0}-\\u{20}]){0,12}",
        ) {
            let connector = connector();
            let settings = [(name.clone(), json!(text))].into_iter().collect();
            let used = connector.settings_text(&settings).get(&name).cloned();
            match validate_settings(&connector, &settings) {
                Ok(()) if text.is_empty() => {}
                Ok(()) => {
                    proptest::prop_assert!(!text.chars().any(char::is_control));
                    proptest::prop_assert_eq!(used, Some(text));
                }
                Err(_) => {
                    let default = connector.settings.get(&name).and_then(|it| it.default.clone());
                    proptest::prop_assert_eq!(used, default);
                }
            }
        }
    }
}
