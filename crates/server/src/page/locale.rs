//! Which language a page is in.

use std::sync::LazyLock;

use super::messages::Messages;

/// A language of the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Locale {
    /// English.
    #[default]
    En,
    /// German.
    De,
    /// French.
    Fr,
    /// Spanish.
    Es,
    /// Arabic.
    Ar,
}

impl Locale {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::En, Self::De, Self::Fr, Self::Es, Self::Ar];

    /// What a person chose, if it is a language that we have; else the best of those that the
    /// browser asks for (`Accept-Language`); else English.
    pub fn choose(chosen: Option<&str>, accept_language: Option<&str>) -> Self {
        chosen
            .and_then(Self::of_tag)
            .or_else(|| Self::negotiate(accept_language?))
            .unwrap_or_default()
    }

    /// The language of a tag such as `de-AT`.
    pub fn of_tag(tag: &str) -> Option<Self> {
        let language = tag.trim().split(['-', '_']).next()?;
        let is = |locale: &Self| locale.tag().eq_ignore_ascii_case(language);
        Self::ALL.into_iter().find(is)
    }

    /// The one with the highest weight, of equal ones the first.
    fn negotiate(header: &str) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        for range in header.split(',').take(32) {
            let mut parts = range.split(';');
            let locale = parts.next().and_then(Self::of_tag);
            let weight = parts.find_map(|part| part.trim().strip_prefix("q="));
            let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse().ok());
            let (Some(locale), Some(weight)) = (locale, weight) else {
                continue;
            };
            if weight > best.map_or(0.0, |(_, best)| best) {
                best = Some((locale, weight));
            }
        }
        best.map(|(locale, _)| locale)
    }

    /// Its tag, for `lang`.
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
            Self::Fr => "fr",
            Self::Es => "es",
            Self::Ar => "ar",
        }
    }

    /// What those who speak it call it.
    pub(super) fn own_name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::De => "Deutsch",
            Self::Fr => "Français",
            Self::Es => "Español",
            Self::Ar => "العربية",
        }
    }

    /// Which way it is written, for `dir`.
    pub fn direction(self) -> &'static str {
        match self {
            Self::En | Self::De | Self::Fr | Self::Es => "ltr",
            Self::Ar => "rtl",
        }
    }

    /// Its texts.
    pub(super) fn messages(self) -> &'static Messages {
        macro_rules! read {
            ($file:literal) => {{
                static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
                    Messages::read(include_str!(concat!("languages/", $file, ".toml")), $file)
                        .expect("a test reads every language")
                });
                &MESSAGES
            }};
        }
        match self {
            Self::En => read!("en"),
            Self::De => read!("de"),
            Self::Fr => read!("fr"),
            Self::Es => read!("es"),
            Self::Ar => read!("ar"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_person_chooses_then_the_browser() {
        let cases = [
            (None, None, Locale::En),
            (None, Some("de-AT,de;q=0.9,en;q=0.8"), Locale::De),
            (None, Some("nl, fr;q=0.5, es;q=0.7"), Locale::Es),
            (None, Some("en;q=0.4,ar;q=0.9"), Locale::Ar),
            (None, Some("de;q=0, *"), Locale::En),
            (None, Some("de;q=nonsense,fr;q=0.1"), Locale::Fr),
            (None, Some(";;;,,q=,"), Locale::En),
            (Some("ar"), Some("de"), Locale::Ar),
            (Some("FR_ca"), None, Locale::Fr),
            (Some("xx\"><script>"), Some("es"), Locale::Es),
        ];
        for (chosen, header, expected) in cases {
            assert_eq!(
                Locale::choose(chosen, header),
                expected,
                "{chosen:?} {header:?}"
            );
        }
    }
}
