//! Strings with places: `https://{settings.login_host}/services/oauth2/token`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

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
    /// The result is not a URL.
    #[error("`{0}` is not an absolute http(s) URL")]
    NotAUrl(String),
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

    /// Whether values of connections' settings go into it.
    pub fn names_settings(&self) -> bool {
        self.settings().next().is_some()
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

    /// Puts values in.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Missing`].
    pub fn fill(&self, context: &Context<'_>) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Place(space, name) => {
                    let values = match space {
                        Space::Client => context.client,
                        Space::Settings => context.settings,
                        Space::Token => context.token,
                    };
                    match values.and_then(|values| values.get(name)) {
                        Some(value) => text.push_str(value),
                        None => {
                            return Err(TemplateError::Missing(format!("{}.{name}", space.name())));
                        }
                    }
                }
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
        let text = self.fill(context)?;
        match Url::parse(&text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => Ok(url),
            _ => Err(TemplateError::NotAUrl(text)),
        }
    }
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
    }
}
