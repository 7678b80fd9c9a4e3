//! Strings with places: `https://{settings.login_host}/services/oauth2/token`.

use std::{collections::BTreeMap, fmt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

use super::is_plain;

/// A string with `{client.NAME}`, `{settings.NAME}` and `{token.NAME}` places.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Space, String),
}

/// Who supplies a place's value, from the most to the least trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// The operator, with the OAuth client.
    Client,
    /// The provider, with the tokens.
    Token,
    /// The connection's settings.
    Settings,
}

/// The values for a template's places.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// `{client.NAME}`.
    pub client: Option<&'a BTreeMap<String, String>>,
    /// `{settings.NAME}`.
    pub settings: Option<&'a BTreeMap<String, String>>,
    /// `{token.NAME}`.
    pub token: Option<&'a BTreeMap<String, String>>,
}

/// Why a template could not be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A place has no value.
    #[error("`{0}` has no value")]
    Missing(String),
    /// A value would change what the rest of the URL means.
    #[error("the value of `{0}` cannot stand where it would in the URL")]
    Unfit(String),
    /// The result is not a URL.
    #[error("`{0}` is not an absolute http(s) URL")]
    NotAUrl(String),
}

/// What stays as it is in a path or query; everything else is percent-encoded.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where in a URL a place stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// At the very beginning: the value brings scheme and host along.
    Start,
    Authority,
    /// Path, query or fragment.
    Rest,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// In words for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            if rest.as_bytes()[open] == b'}' {
                return Err(format!("`{text}`: `}}` without `{{`"));
            }
            let close = rest[open..]
                .find('}')
                .ok_or_else(|| format!("`{text}`: `{{` without `}}`"))?
                + open;
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let place = &rest[open + 1..close];
            let (space, name) = match place.split_once('.') {
                Some(("client", name)) => (Space::Client, name),
                Some(("settings", name)) => (Space::Settings, name),
                Some(("token", name)) => (Space::Token, name),
                _ => {
                    return Err(format!(
                        "`{text}`: `{{{place}}}` is not `{{client.NAME}}`, `{{settings.NAME}}` or `{{token.NAME}}`"
                    ));
                }
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("`{text}`: `{name}` is not a name"));
            }
            parts.push(Part::Place(space, name.to_owned()));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Whether any value goes into it.
    pub fn has_places(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Place(..)))
    }

    /// Whether values of connections' settings go into it.
    pub fn names_settings(&self) -> bool {
        self.settings().next().is_some()
    }

    /// Whether values of connections or providers go into it.
    pub fn names_strangers(&self) -> bool {
        let stranger = |part: &Part| matches!(part, Part::Place(Space::Settings | Space::Token, _));
        self.parts.iter().any(stranger)
    }

    /// The settings that it names.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(Space::Settings, name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The text, if there are no places in it.
    pub fn literal(&self) -> Option<String> {
        self.fill(&Context::default()).ok()
    }

    /// Puts values in as they are. For headers; [`fill_url`](Self::fill_url) is for URLs.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Missing`].
    pub fn fill(&self, context: &Context<'_>) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Place(space, name) => text.push_str(value(*space, name, context)?),
            }
        }
        Ok(text)
    }

    /// Puts values in and reads the result as a URL.
    ///
    /// # Errors
    ///
    /// [`TemplateError`].
    pub fn fill_url(&self, context: &Context<'_>) -> Result<Url, TemplateError> {
        let text = self.fill_url_text(context)?;
        match Url::parse(&text) {
            Ok(url) if is_plain(&url) => Ok(url),
            _ => Err(TemplateError::NotAUrl(text)),
        }
    }

    /// Puts values in; the result is the text of a URL that is yet to be read and checked.
    ///
    /// The operator's values go in as they are. A value of a connection or a provider may not
    /// change what the rest of the URL means: in the authority it may be (a part of) a host and a
    /// port, in path and query it is percent-encoded. At the very beginning a setting may be an
    /// origin, and a provider's value a URL without query.
    ///
    /// # Errors
    ///
    /// [`TemplateError`].
    pub fn fill_url_text(&self, context: &Context<'_>) -> Result<String, TemplateError> {
        let mut text = String::new();
        let mut stranger = None;
        for part in &self.parts {
            let (space, name) = match part {
                Part::Text(part) => {
                    text.push_str(part);
                    continue;
                }
                Part::Place(space, name) => (*space, name),
            };
            let value = value(space, name, context)?;
            if space == Space::Client {
                text.push_str(value);
                continue;
            }
            let unfit = || TemplateError::Unfit(format!("{}.{name}", space.name()));
            stranger = Some((space, name));
            match position(&text) {
                Position::Start if leads(space, value) => {
                    text.push_str(value.trim_end_matches('/'));
                }
                Position::Authority if is_host(value) => text.push_str(value),
                Position::Rest => text.extend(utf8_percent_encode(value, UNRESERVED)),
                Position::Start | Position::Authority => return Err(unfit()),
            }
        }
        match stranger {
            Some((space, name)) if climbs(&text) => {
                Err(TemplateError::Unfit(format!("{}.{name}", space.name())))
            }
            _ => Ok(text),
        }
    }
}

fn value<'a>(space: Space, name: &str, context: &Context<'a>) -> Result<&'a str, TemplateError> {
    let values = match space {
        Space::Client => context.client,
        Space::Settings => context.settings,
        Space::Token => context.token,
    };
    values
        .and_then(|values| values.get(name))
        .map(String::as_str)
        .ok_or_else(|| TemplateError::Missing(format!("{}.{name}", space.name())))
}

fn position(before: &str) -> Position {
    match before.split_once("://") {
        None if before.is_empty() => Position::Start,
        None => Position::Authority,
        Some((_, rest)) if rest.contains(['/', '\\', '?', '#']) => Position::Rest,
        Some(_) => Position::Authority,
    }
}

/// Whether it is (a part of) a host, perhaps with a port: nothing in it ends the authority, names a
/// user or is decoded.
fn is_host(value: &str) -> bool {
    let (host, port) = value.split_once(':').unwrap_or((value, "0"));
    !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !host.starts_with('.')
        && !host.contains("..")
        && port.parse::<u16>().is_ok()
}

/// Whether it may begin a URL.
fn leads(space: Space, value: &str) -> bool {
    let (scheme, rest) = value.split_once("://").unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    matches!(scheme, "https" | "http")
        && is_host(authority)
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'%'))
        && (space == Space::Token || path.is_empty())
}

/// Whether the path has a segment that goes nowhere or up.
fn climbs(text: &str) -> bool {
    let (_, rest) = text.split_once("://").unwrap_or(("", text));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '\\']).skip(1).any(|segment| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        matches!(plain.as_str(), "." | "..")
    })
}

impl Space {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Settings => "settings",
            Self::Token => "token",
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Place(space, name) => write!(f, "{{{}.{name}}}", space.name())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_places() {
        let settings = [("host".to_owned(), "x.example".to_owned())].into();
        let context = Context {
            settings: Some(&settings),
            ..Context::default()
        };
        let template = Template::parse("https://{settings.host}/a/{token.b}").unwrap();
        assert_eq!(
            template.fill(&context),
            Err(TemplateError::Missing("token.b".into()))
        );
        let template = Template::parse("https://{settings.host}/a").unwrap();
        assert_eq!(
            template.fill_url(&context).unwrap().as_str(),
            "https://x.example/a"
        );
        assert!(template.names_settings());
        assert_eq!(template.to_string(), "https://{settings.host}/a");
    }

    #[test]
    fn refuses_nonsense() {
        for bad in [
            "{",
            "}",
            "{x}",
            "{settings.}",
            "{env.HOME}",
            "{settings.a b}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    fn filled(template: &str, value: &str) -> Result<String, TemplateError> {
        let values = [("x".to_owned(), value.to_owned())].into();
        let context = Context {
            settings: Some(&values),
            token: Some(&values),
            client: Some(&values),
        };
        let template = Template::parse(template).unwrap();
        template.fill_url(&context).map(String::from)
    }

    #[test]
    fn strangers_values_do_not_steer_a_url() {
        for evil in [
            "a.example/elsewhere?",
            "a.example#",
            "a.example?x=",
            "a.example\\x",
            "user@a.example",
            "a.example:443@b",
            "a.example:port",
            "a%2eexample",
            ".a.example",
            "a..example",
            "",
            "a.example\n",
            "\u{ff41}.example",
        ] {
            for template in ["https://{settings.x}/t", "https://{token.x}/t"] {
                let unfit = matches!(filled(template, evil), Err(TemplateError::Unfit(_)));
                assert!(unfit, "{template} {evil:?}");
            }
        }
        assert_eq!(
            filled("https://{settings.x}/t", "a.example:8443").unwrap(),
            "https://a.example:8443/t"
        );
        assert_eq!(
            filled(
                "https://id.example/{settings.x}/t?q={settings.x}",
                "a/b?c#d%2f e"
            )
            .unwrap(),
            "https://id.example/a%2Fb%3Fc%23d%252f%20e/t?q=a%2Fb%3Fc%23d%252f%20e"
        );
        for dots in [".", "..", "%2e%2E"] {
            assert_eq!(
                filled("https://id.example/{settings.x}/t", dots).is_err(),
                !dots.contains('%'),
                "{dots}"
            );
        }
        assert!(filled("https://id.example/.{settings.x}/t", ".").is_err());
    }

    #[test]
    fn a_value_may_begin_a_url() {
        for (template, value, good) in [
            ("{token.x}/t", "https://a.example", true),
            ("{token.x}/t", "https://a.example/", true),
            ("{token.x}/t", "https://a.example/pod/7", true),
            ("{token.x}/t", "https://a.example/../t", false),
            ("{token.x}/t", "https://a.example/x?", false),
            ("{token.x}/t", "https://u@a.example", false),
            ("{token.x}/t", "javascript:x", false),
            ("{token.x}/t", "a.example", false),
            ("{settings.x}/t", "https://a.example", true),
            ("{settings.x}/t", "https://a.example/pod", false),
            // The operator may say what they like.
            ("{client.x}", "https://a.example/x?y=z", true),
        ] {
            assert_eq!(filled(template, value).is_ok(), good, "{template} {value}");
        }
    }

    proptest::proptest! {
        /// What is read is shown as it was written, and read again the same; values go in as they
        /// are, and are not read for places themselves.
        #[test]
        fn any_template_is_read(text in "([a-z/:]|[{}.]|\\{(client|token|settings)\\.[a-z]{1,2}\\}){0,12}", value in ".{0,8}") {
            let Ok(template) = Template::parse(&text) else { return Ok(()) };
            proptest::prop_assert_eq!(&template.to_string(), &text);
            proptest::prop_assert_eq!(&Template::parse(&text).unwrap(), &template);
            let values: BTreeMap<_, _> = ('a'..='z')
                .flat_map(|a| std::iter::once(a.to_string()).chain(('a'..='z').map(move |b| format!("{a}{b}"))))
                .map(|name| (name, value.clone()))
                .collect();
            let context = Context { client: Some(&values), settings: Some(&values), token: Some(&values) };
            let filled = template.fill(&context).unwrap();
            let places = text.matches('{').count();
            let letters = text.len() - text.split('{').skip(1).map(|part| part.find('}').unwrap_or(0) + 2).sum::<usize>();
            proptest::prop_assert_eq!(filled.len(), letters + places * value.len());
            proptest::prop_assert_eq!(template.literal().is_some(), places == 0);
        }

        /// Whatever a stranger's value is: the URL keeps its host's end, its path's shape and its
        /// one parameter.
        #[test]
        fn no_value_steers_a_url(value in "([a-z.:/?#@%\\\\&=2ef]|\\PC|[\u{0}-\u{20}]){0,10}") {
            let template = "https://{settings.x}.acme.example:8443/{token.x}/a{settings.x}b/t?q={token.x}";
            if let Ok(filled) = filled(template, &value) {
                let url: Url = filled.parse().unwrap();
                proptest::prop_assert!(url.host_str().unwrap().ends_with(".acme.example"), "{}", url);
                proptest::prop_assert_eq!((url.port(), url.username(), url.fragment()), (Some(8443), "", None));
                proptest::prop_assert_eq!(url.path_segments().unwrap().count(), 3, "{}", url);
                let pairs: Vec<_> = url.query_pairs().collect();
                proptest::prop_assert_eq!(pairs, [("q".into(), value.into())]);
            }
        }

        /// As above, where only the path takes the value: every value that is no dot segment fits.
        #[test]
        fn a_path_segment_holds_any_value(value in "([a-z./?#@%\\\\&=2ef]|\\PC|[\u{0}-\u{20}]){1,10}") {
            let filled = filled("https://id.example/{settings.x}/t", &value);
            if matches!(value.as_str(), "." | "..") {
                proptest::prop_assert!(filled.is_err());
            } else {
                let url: Url = filled.unwrap().parse().unwrap();
                let segment = url.path_segments().unwrap().next().unwrap();
                let decoded = percent_encoding::percent_decode_str(segment).decode_utf8().unwrap();
                proptest::prop_assert_eq!(decoded, value);
                proptest::prop_assert_eq!(url.path_segments().unwrap().count(), 2);
            }
        }
    }
}
