//! The fields of a reply, whatever its form: JSON or a form, by looking at it, because media types
//! are missing or wrong too often to be asked.

use std::borrow::Cow;

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::json::only_object;
use crate::secret::Secret;

/// The fields of a reply's one object or form.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Whether the body was nothing but this object or form.
    pub(super) clean: bool,
}

/// A token in a reply.
#[derive(Debug)]
pub(super) enum Found {
    /// No field, an empty one, or one that is no text.
    Nothing,
    /// One that can be sent.
    Usable(Secret),
    /// One that cannot.
    Unusable,
}

impl Fields {
    /// Reads a body; `None` if it is neither JSON nor a form.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let text = decode(body);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if !text.starts_with('{')
            && let Some(map) = form(text)
        {
            return Some(Self { map, clean: true });
        }
        let (map, clean) = only_object(text)?;
        Some(Self { map, clean })
    }

    /// The object at a JSON pointer, if there is one.
    pub(super) fn at(&self, pointer: &str) -> Option<Self> {
        let (first, rest) = pointer.strip_prefix('/')?.split_once('/').map_or_else(
            || (pointer.strip_prefix('/').unwrap_or_default(), String::new()),
            |(first, rest)| (first, format!("/{rest}")),
        );
        let first = first.replace("~1", "/").replace("~0", "~");
        match self.map.get(&first)?.pointer(&rest)? {
            Value::Object(map) => Some(Self {
                map: map.clone(),
                clean: self.clean,
            }),
            _ => None,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// A non-blank string (or a number as its text).
    pub(super) fn text(&self, name: &str) -> Option<String> {
        text(self.map.get(name)?)
    }

    /// A number, or a string that holds one; also one that is not finite.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        match self.map.get(name)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// An access token: what an `Authorization` header can carry, so visible ASCII.
    pub(super) fn access_token(&self) -> Found {
        self.token("access_token", |byte| byte.is_ascii_graphic())
    }

    /// A refresh token: it goes into a form, so spaces are possible (RFC 6749 appendix A.17).
    pub(super) fn refresh_token(&self) -> Found {
        self.token("refresh_token", |byte| matches!(byte, b' '..=b'~'))
    }

    fn token(&self, name: &str, fit: impl Fn(u8) -> bool) -> Found {
        let number;
        let text = match self.map.get(name) {
            Some(Value::String(text)) => text.as_str(),
            Some(Value::Number(value)) => {
                number = value.to_string();
                &number
            }
            _ => return Found::Nothing,
        };
        let token = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if token.is_empty() {
            Found::Nothing
        } else if token.bytes().all(fit) {
            Found::Usable(Secret::new(token))
        } else {
            Found::Unusable
        }
    }

    /// The error code, in OAuth's form or the common others (`{"error":{"code":..}}`,
    /// `{"ok":false,"error":..}`). A numeric code is its text; 0 is none.
    pub(super) fn error_code(&self) -> Option<String> {
        match self.get("error") {
            Some(Value::String(code)) if !code.trim().is_empty() => Some(code.trim().to_owned()),
            Some(Value::Number(code)) if code.as_f64() != Some(0.0) => Some(code.to_string()),
            Some(Value::Object(inner)) if !inner.is_empty() => ["code", "type"]
                .into_iter()
                .find_map(|name| text(inner.get(name)?))
                .or_else(|| Some("error".to_owned())),
            Some(Value::Array(items)) if !items.is_empty() => Some("error".to_owned()),
            Some(Value::Bool(true)) => Some("error".to_owned()),
            _ if self.get("ok") == Some(&Value::Bool(false)) => Some("not_ok".to_owned()),
            _ => None,
        }
    }

    /// The provider's words for an error.
    pub(super) fn description(&self) -> Option<String> {
        let inner = || text(self.get("error")?.get("message")?);
        self.text("error_description")
            .or_else(|| self.text("message"))
            .or_else(inner)
    }
}

fn text(value: &Value) -> Option<String> {
    let blank = |text: &str| text.chars().all(|c| c.is_whitespace() || c.is_control());
    match value {
        Value::String(text) if !blank(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// UTF-8, with or without a byte order mark, or UTF-16 with one. Bytes that are neither become
/// replacement characters: they may stand in fields that nobody needs, and no token has one.
fn decode(body: &[u8]) -> Cow<'_, str> {
    let wide = |rest: &[u8], read: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = rest
            .chunks_exact(2)
            .map(|pair| read([pair[0], pair[1]]))
            .collect();
        Cow::Owned(String::from_utf16_lossy(&units))
    };
    // Nearly all are in order, and that is seen faster than what is not.
    let narrow = |rest| match std::str::from_utf8(rest) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(rest),
    };
    match body {
        [0xEF, 0xBB, 0xBF, rest @ ..] => narrow(rest),
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => narrow(body),
    }
}

/// A form that has one of the fields that make it a reply. A page of text never looks like one: it
/// has blanks or markup.
fn form(text: &str) -> Option<Map<String, Value>> {
    let foreign = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"');
    if text.contains(foreign) {
        return None;
    }
    let fields: Map<String, Value> = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    let known = |name: &str| matches!(name, "access_token" | "refresh_token" | "error");
    fields.keys().any(|name| known(name)).then_some(fields)
}
