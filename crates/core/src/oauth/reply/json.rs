//! One JSON object, read as leniently as can be done without guessing.
//!
//! An answer that has arrived holds tokens that exist nowhere else, so the form of what stands
//! beside them must not cost them: raw control characters and bad escapes in strings, lone
//! surrogates, `NaN`, numbers out of range, trailing commas, any depth. What is cut off is refused:
//! nobody knows what is missing.

use serde_json::{Map, Number, Value};

/// Deeper values are passed over.
const DEEPEST: usize = 64;

/// The one object of a text, and whether nothing stands around it.
///
/// `None` when the first brace does not begin an object, or when there is a second one.
pub(super) fn only_object(text: &str) -> Option<(Map<String, Value>, bool)> {
    let open = text.find('{')?;
    let mut reader = Reader { text, at: open };
    let Value::Object(fields) = reader.value(0)? else {
        return None;
    };
    let (before, after) = (&text[..open], &text[reader.at..]);
    if after.contains('{') {
        return None;
    }
    let blank = |text: &str| text.chars().all(|c| c.is_whitespace() || c.is_control());
    Some((fields, blank(before) && blank(after)))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes the byte if it comes next, after blanks.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte <= b' ') {
            self.at += 1;
        }
    }

    /// As long as `part` says so of ASCII bytes.
    fn word(&mut self, part: impl Fn(u8) -> bool) -> &'a str {
        let from = self.at;
        while self.peek().is_some_and(&part) {
            self.at += 1;
        }
        &self.text[from..self.at]
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_blanks();
        match self.peek()? {
            b'{' | b'[' if depth >= DEEPEST => self.pass_over(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            b'0'..=b'9' | b'-' | b'+' | b'.' => Some(self.number()),
            byte if byte.is_ascii_alphabetic() => {
                Some(match self.word(|byte| byte.is_ascii_alphanumeric()) {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    // `null`, and what other languages print in its place.
                    _ => Value::Null,
                })
            }
            _ => None,
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.at += 1;
        let mut fields = Map::new();
        while !self.take(b'}') {
            self.skip_blanks();
            if self.peek()? != b'"' {
                return None;
            }
            let name = self.string()?;
            if !self.take(b':') {
                return None;
            }
            let value = self.value(depth + 1)?;
            fields.insert(name, value);
            if !self.take(b',') {
                self.skip_blanks();
                if self.peek()? != b'}' {
                    return None;
                }
            }
        }
        Some(Value::Object(fields))
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take(b']') {
            items.push(self.value(depth + 1)?);
            if !self.take(b',') {
                self.skip_blanks();
                if self.peek()? != b']' {
                    return None;
                }
            }
        }
        Some(Value::Array(items))
    }

    /// Brackets and what is in them, by counting.
    fn pass_over(&mut self) -> Option<Value> {
        let mut open = 0_usize;
        loop {
            match self.peek()? {
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                b'"' => {
                    self.string()?;
                    continue;
                }
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Some(Value::Null);
            }
        }
    }

    /// An integer that fits is a number; a larger one keeps its digits as text, as does `-inf`.
    fn number(&mut self) -> Value {
        let text = self.word(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'));
        let integer = text
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| text.parse::<u64>().map(Number::from));
        let whole = !text.contains(['.', 'e', 'E']);
        match integer {
            Ok(number) => Value::Number(number),
            Err(_) if whole => Value::String(text.to_owned()),
            Err(_) => text
                .parse::<f64>()
                .ok()
                .and_then(Number::from_f64)
                .map_or_else(|| Value::String(text.to_owned()), Value::Number),
        }
    }

    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            // Byte by byte: in UTF-8 these two are part of no other character.
            let special = |byte: u8| byte == b'"' || byte == b'\\';
            let end = rest.bytes().position(special)?;
            self.at += end + 1;
            let ends = rest.as_bytes()[end] == b'"';
            if ends && string.is_empty() {
                return Some(rest[..end].to_owned());
            }
            string.push_str(&rest[..end]);
            if ends {
                return Some(string);
            }
            let escaped = self.text[self.at..].chars().next()?;
            self.at += escaped.len_utf8();
            string.push(match escaped {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => self.unicode(),
                // `"`, `\`, `/`, and what needs no escape but has one.
                other => other,
            });
        }
    }

    /// What follows `\u`; the replacement character for what is not a character.
    fn unicode(&mut self) -> char {
        let Some(first) = self.hex() else {
            return char::REPLACEMENT_CHARACTER;
        };
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        let after = self.at;
        if self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            if let Some(second) = self.hex().filter(|code| (0xDC00..0xE000).contains(code)) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
        }
        self.at = after;
        char::REPLACEMENT_CHARACTER
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = all
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()?;
        self.at += 4;
        Some(code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_other_readers_refuse_is_read() {
        for (text, expected) in [
            ("{\"a\":\"x\ny\u{0}\"}", json!({"a": "x\ny\u{0}"})),
            (
                r#"{"a":"\ud800","b":"\ud83d\ude00"}"#,
                json!({"a": "\u{fffd}", "b": "😀"}),
            ),
            (
                r#"{"a":"\x\u12","b":1}"#,
                json!({"a": "x\u{fffd}12", "b": 1}),
            ),
            (
                r#"{"a":NaN,"b":1e400,"c":-inf}"#,
                json!({"a": null, "b": "1e400", "c": "-inf"}),
            ),
            (
                r#"{"a":123456789012345678901}"#,
                json!({"a": "123456789012345678901"}),
            ),
            (r#"{"a":[1,],"b":{},}"#, json!({"a": [1], "b": {}})),
        ] {
            let (fields, clean) = only_object(text).unwrap();
            assert!(clean);
            assert_eq!(Value::Object(fields), expected, "{text}");
        }
        let deep = format!(
            r#"{{"a":{}"]"{},"b":1}}"#,
            "[".repeat(9_000),
            "]".repeat(9_000)
        );
        assert_eq!(only_object(&deep).unwrap().0["b"], 1);
    }

    #[test]
    fn noise_around_the_one_object_is_seen() {
        for text in [
            ")]}',\n{\"a\":1}",
            "cb({\"a\":1});",
            "<b>Warning</b>\n{\"a\":1}",
        ] {
            let (fields, clean) = only_object(text).unwrap();
            assert_eq!((fields["a"].as_i64(), clean), (Some(1), false), "{text}");
        }
        assert!(only_object("\u{0}\r\n {\"a\":1}\u{1b}\n").unwrap().1);
        for bad in [
            "{\"a\":1}{\"a\":2}",
            "[{\"a\":1},{\"a\":2}]",
            "{x} {\"a\":1}",
            "{\"a\":\"cut",
            "{\"a\":{\"b\":1}",
            "{\"a\":{\"b\":1},\"c",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
            "no braces",
        ] {
            assert!(only_object(bad).is_none(), "{bad}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Proper JSON means what it means to everybody.
        #[test]
        fn proper_json_is_read_as_by_others(value in any_json(), pretty in any::<bool>()) {
            let value = json!({ "a": value });
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let (fields, clean) = only_object(&text).unwrap();
            prop_assert!(clean);
            prop_assert_eq!(Value::Object(fields), value);
        }

        /// A text that was cut anywhere is refused.
        #[test]
        fn what_is_cut_off_is_refused(value in any_json(), cut in any::<prop::sample::Index>()) {
            let text = json!({ "a": value }).to_string();
            let mut cut = cut.index(text.len());
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            prop_assert!(only_object(&text[..cut]).is_none());
        }

        /// No text makes the reader panic.
        #[test]
        fn any_text_is_read(text in "([{}\\[\\]\":,\\\\u0-9eE.+-]|true|null|\\PC|[\\u{0}-\\u{20}]){0,40}") {
            let _ = only_object(&text);
            let _ = only_object(&format!("{{\"a\":{text}"));
        }
    }
}
