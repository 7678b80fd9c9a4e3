//! Texts of strangers, made fit to be shown.

use maud::{Escaper, Markup, Render, html};
use std::fmt::Write as _;

/// How much of a name is shown.
const LONGEST_NAME: usize = 64;
/// How much of a sentence is shown: what a provider said.
const LONGEST_WORDS: usize = 300;
/// More marks than this on one letter are none that a language writes.
const MOST_MARKS: usize = 3;

/// A name that a stranger chose, on one line: of an account, an organisation, an integration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// A sentence of a stranger's: what a provider said, what a connector's file explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl Name {
    /// `None` if nothing of it can be seen.
    pub fn new(text: &str) -> Option<Self> {
        shown(text, LONGEST_NAME).map(Self)
    }

    /// For what has a name that cannot be shown.
    pub fn unnamed() -> Self {
        Self("…".to_owned())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The letter that stands for it where there is no picture.
    pub(super) fn initial(&self) -> String {
        let letter = self.0.chars().find(|c| c.is_alphanumeric());
        letter.map_or_else(|| "#".to_owned(), |letter| letter.to_uppercase().collect())
    }

    /// A number below `many` that is always the same for this name.
    pub(super) fn pick(&self, many: u32) -> u32 {
        let fold = |sum: u32, byte: u8| sum.wrapping_mul(31).wrapping_add(u32::from(byte));
        self.0.bytes().fold(7, fold) % many
    }
}

impl Words {
    /// `None` if nothing of it can be seen.
    pub fn new(text: &str) -> Option<Self> {
        shown(text, LONGEST_WORDS).map(Self)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whichever way it is written, the text around it keeps its order.
impl Render for Name {
    fn render(&self) -> Markup {
        html! { bdi { (self.0) } }
    }
}

impl Render for Words {
    fn render(&self) -> Markup {
        html! { bdi { (self.0) } }
    }
}

/// A text where no markup can be: a title.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'a>(pub(super) &'a str);

impl Render for Plain<'_> {
    fn render_to(&self, buffer: &mut String) {
        self.0.render_to(buffer);
    }
}

/// One line without what cannot be seen or turns the text around it, and no longer than `longest`
/// characters, nor three times as many bytes as HTML.
fn shown(text: &str, longest: usize) -> Option<String> {
    let mut line = String::new();
    let mut marks = 0;
    let (mut characters, mut bytes) = (0, 0);
    // What is far too long is not read to its end.
    for c in text.chars().take(longest * 4) {
        let c = if c.is_whitespace() || c.is_control() {
            ' '
        } else {
            c
        };
        if is_invisible(c) || c == ' ' && (line.is_empty() || line.ends_with(' ')) {
            continue;
        }
        marks = if is_mark(c) { marks + 1 } else { 0 };
        if marks > MOST_MARKS {
            continue;
        }
        characters += 1;
        bytes += escaped_length(c);
        if characters > longest || bytes > longest * 3 {
            line.truncate(line.trim_end().len());
            line.push('…');
            return Some(line);
        }
        line.push(c);
    }
    line.truncate(line.trim_end().len());
    (!line.is_empty()).then_some(line)
}

fn escaped_length(c: char) -> usize {
    let mut escaped = String::new();
    let _ = Escaper::new(&mut escaped).write_char(c);
    escaped.len()
}

/// Directions for the text's order, and characters without a form. The joiners stay: Persian and
/// Hindi are written with them.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
}

fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        Name::new(text).map(|name| name.0)
    }

    #[test]
    fn names_are_one_short_line() {
        assert_eq!(name(" Acme \n\t Ltd\u{0} ").unwrap(), "Acme Ltd");
        assert_eq!(name("\u{202e}\u{200b} \u{2067}"), None);
        assert_eq!(name("abc\u{202e}txt.exe").unwrap(), "abctxt.exe");
        let long = name(&"x".repeat(10_000)).unwrap();
        assert_eq!(long.chars().count(), LONGEST_NAME + 1);
        assert!(long.ends_with("x…"));
        assert_eq!(name(&"ö".repeat(LONGEST_NAME)).unwrap().chars().count(), 64);
        let marks = format!("a{}", "\u{301}".repeat(60));
        assert_eq!(name(&marks).unwrap().chars().count(), 1 + MOST_MARKS);
    }

    #[test]
    fn a_name_has_few_bytes_as_html_too() {
        for text in ["\"", "&", "𝕏", "<script>"] {
            let name = Name::new(&text.repeat(10_000)).unwrap();
            let html = name.render().into_string();
            assert!(html.len() < 220, "{} bytes: {html}", html.len());
            assert!(!html.contains("<script"));
        }
    }

    #[test]
    fn initials() {
        let initial = |text: &str| Name::new(text).unwrap().initial();
        assert_eq!(initial("acme"), "A");
        assert_eq!(initial("“ß”"), "SS");
        assert_eq!(initial("<>"), "#");
        assert_eq!(initial("شركة"), "ش");
    }
}
