//! How a provider's token replies deviate from RFC 6749: what connector files fill in.

use serde::{Deserialize, Deserializer};

/// How a provider's token replies deviate.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenDialect {
    /// Error codes that mean the grant is dead. `invalid_grant` where none are given.
    #[serde(default = "invalid_grant", deserialize_with = "codes")]
    pub dead_errors: Vec<String>,
    /// Error codes that mean "not now".
    #[serde(default, deserialize_with = "codes")]
    pub throttled_errors: Vec<String>,
    /// A JSON pointer (RFC 6901) to the object that holds the tokens, where it is not the whole.
    #[serde(default)]
    pub tokens_at: Option<String>,
    /// The field of an absolute expiry.
    #[serde(default)]
    pub expires_at_field: Option<String>,
    /// The field of the refresh token's own lifetime in seconds.
    #[serde(default)]
    pub refresh_expires_in_field: Option<String>,
    /// Fields that are kept with the tokens, such as `instance_url`.
    #[serde(default)]
    pub metadata: Vec<String>,
}

impl Default for TokenDialect {
    fn default() -> Self {
        Self {
            dead_errors: invalid_grant(),
            throttled_errors: Vec::new(),
            tokens_at: None,
            expires_at_field: None,
            refresh_expires_in_field: None,
            metadata: Vec::new(),
        }
    }
}

impl TokenDialect {
    /// Whether an error is the provider's last word on a grant. An entry may name the code, or
    /// `code: words` that the description must contain.
    pub fn is_dead(&self, code: &str, description: Option<&str>) -> bool {
        says(&self.dead_errors, code, description)
    }

    /// Whether an error means that nothing was done and a later try may succeed.
    pub fn is_throttled(&self, code: &str, description: Option<&str>) -> bool {
        matches!(code, "temporarily_unavailable" | "slow_down")
            || says(&self.throttled_errors, code, description)
    }
}

fn says(entries: &[String], code: &str, description: Option<&str>) -> bool {
    entries.iter().any(|entry| match entry.split_once(": ") {
        Some((entry_code, words)) => {
            entry_code == code && description.is_some_and(|text| text.contains(words))
        }
        None => entry == code,
    })
}

fn invalid_grant() -> Vec<String> {
    vec!["invalid_grant".to_owned()]
}

/// Codes may be written as numbers, because some providers' are.
fn codes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Text(String),
        Number(i64),
    }
    let codes = Vec::<Code>::deserialize(deserializer)?;
    let text = |code| match code {
        Code::Text(text) => text,
        Code::Number(number) => number.to_string(),
    };
    Ok(codes.into_iter().map(text).collect())
}
