//! The page's texts: one file a language, read once.
//!
//! Each text is a method of [`Messages`], and takes what the text has places for. A file that
//! lacks one, has one too many, or names other places is not read; a test reads them all.

use std::collections::BTreeMap;

use icu_plurals::{PluralCategory, PluralRules, PluralRulesPreferences};
use maud::{Markup, PreEscaped, Render};
use toml::{Table, Value};

/// A text with places for values: `Connect {integration}`.
#[derive(Debug)]
struct Phrase(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// The nth of the places that the text was declared with.
    Place(usize),
}

impl Phrase {
    fn read(text: &str, places: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` lacks a `}}`"))?;
            let place = places.iter().position(|place| *place == name);
            let place = place.ok_or_else(|| format!("`{text}` has no place for {{{name}}}"))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Place(place));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let missing = (0..places.len()).find(|place| !parts.contains(&Part::Place(*place)));
        match missing {
            Some(place) => Err(format!("`{text}` does not say {{{}}}", places[place])),
            None => Ok(Self(parts)),
        }
    }

    fn fill(&self, values: &[&dyn Render]) -> Markup {
        let mut html = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => text.render_to(&mut html),
                Part::Place(place) => values[*place].render_to(&mut html),
            }
        }
        PreEscaped(html)
    }
}

/// A text with a number in it, in the forms that the language has.
#[derive(Debug)]
struct Counted {
    language: PluralRulesPreferences,
    forms: Vec<(PluralCategory, Phrase)>,
}

const CATEGORIES: [(&str, PluralCategory); 6] = [
    ("zero", PluralCategory::Zero),
    ("one", PluralCategory::One),
    ("two", PluralCategory::Two),
    ("few", PluralCategory::Few),
    ("many", PluralCategory::Many),
    ("other", PluralCategory::Other),
];

/// They are not kept, since no thread may lend them to another; they cost a look into a table.
fn rules(language: PluralRulesPreferences) -> Result<PluralRules, String> {
    PluralRules::try_new_cardinal(language).map_err(|error| error.to_string())
}

impl Counted {
    /// Where a form says its number in words ("two"), it has no place for it.
    fn read(texts: &Table, language: &str) -> Result<Self, String> {
        let locale: icu_locale_core::Locale = language
            .parse()
            .map_err(|_| format!("{language} is no language"))?;
        let language = PluralRulesPreferences::from(&locale);
        let rules = rules(language)?;
        let mut forms = Vec::new();
        for (name, text) in texts {
            let known = CATEGORIES.iter().find(|(known, _)| known == name);
            let (_, category) = known.ok_or_else(|| format!("`{name}` is no plural form"))?;
            let text = text
                .as_str()
                .ok_or_else(|| format!("`{name}` is no text"))?;
            let places: &[&str] = if text.contains("{count}") {
                &["count"]
            } else {
                &[]
            };
            forms.push((*category, Phrase::read(text, places)?));
        }
        for (name, category) in CATEGORIES {
            let wanted = rules.categories().any(|it| it == category);
            let given = forms.iter().any(|(it, _)| *it == category);
            if wanted != given {
                return Err(format!(
                    "the form `{name}` is {}",
                    if given {
                        "none of the language"
                    } else {
                        "missing"
                    }
                ));
            }
        }
        Ok(Self { language, forms })
    }

    fn fill(&self, count: usize) -> Markup {
        let rules = rules(self.language);
        let category = rules.map_or(PluralCategory::Other, |rules| rules.category_for(count));
        let form = self.forms.iter().find(|(it, _)| *it == category);
        form.map_or_else(Markup::default, |(_, phrase)| phrase.fill(&[&count]))
    }
}

/// What a file says, by name; each is taken once.
struct File(BTreeMap<String, Value>);

impl File {
    fn take(&mut self, name: &str) -> Result<Value, String> {
        self.0
            .remove(name)
            .ok_or_else(|| format!("`{name}` is missing"))
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.take(name)? {
            Value::String(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(format!("`{name}` is no text")),
        }
    }

    fn table(&mut self, name: &str) -> Result<Table, String> {
        match self.take(name)? {
            Value::Table(table) => Ok(table),
            _ => Err(format!("`{name}` has no plural forms")),
        }
    }
}

macro_rules! messages {
    (
        texts { $($text:ident)* }
        phrases { $($phrase:ident($($place:ident),+))* }
        counted { $($counted:ident)* }
    ) => {
        /// All texts of a language.
        #[derive(Debug)]
        pub(super) struct Messages {
            $($text: String,)*
            $($phrase: Phrase,)*
            $($counted: Counted,)*
        }

        impl Messages {
            /// Reads a language's file.
            pub(super) fn read(file: &str, language: &str) -> Result<Self, String> {
                let parsed: BTreeMap<String, Value> =
                    toml::from_str(file).map_err(|error| format!("{language}: {error}"))?;
                let mut file = File(parsed);
                let messages = Self {
                    $($text: file.text(stringify!($text))?,)*
                    $($phrase: {
                        let text = file.text(stringify!($phrase))?;
                        Phrase::read(&text, &[$(stringify!($place)),+])?
                    },)*
                    $($counted: Counted::read(&file.table(stringify!($counted))?, language)
                        .map_err(|problem| format!("{}: {problem}", stringify!($counted)))?,)*
                };
                match file.0.keys().next() {
                    Some(name) => Err(format!("`{name}` is not asked for")),
                    None => Ok(messages),
                }
            }

            $(pub(super) fn $text(&self) -> &str { &self.$text })*
            $(pub(super) fn $phrase(&self, $($place: impl Render),+) -> Markup {
                self.$phrase.fill(&[$(&$place),+])
            })*
            $(pub(super) fn $counted(&self, count: usize) -> Markup { self.$counted.fill(count) })*
        }
    };
}

messages! {
    texts {
        about_disabled about_input about_tenant
        already_text back browser_text browser_title cancel close_window
        consent_from_any consent_no consent_yes
        disable disable_what disconnect disconnect_what disconnect_yes
        enable error_prefix error_text error_title expired_title
        fact_account fact_organisation fact_since failed_title
        group_attention group_available group_connected keep language leaving_text
        list_empty_title list_title manage_title not_found_text not_found_title nothing_changed
        notice_disabled notice_disconnected notice_enabled notice_saved
        optional other_came other_kept other_title page_next page_previous pages
        partial_title please_choose privacy reauthorize reauthorize_what reconnect
        remove remove_hint remove_what remove_yes request_id save
        search_all search_button search_label search_nothing
        secret_clear secret_kept secret_new secret_replace
        session_title settings_title setup_application setup_copy setup_developers setup_service
        setup_uri skip_to_content
        status_attention status_available status_connected status_disabled status_input
        status_invalid status_pending status_retrying status_unauthorized still_connected
        switch switch_from switch_hint switch_to switch_to_next switch_what
        tenant_change tenant_choose tenants_save tenants_search tenants_title terms
        the_application the_connections the_provider to_list to_settings try_again unknown_title
        wrong_choice wrong_form wrong_host wrong_missing wrong_number wrong_tenant wrong_text
    }
    phrases {
        about_attention(integration)
        about_available(integration, application)
        about_connected(application, integration)
        about_invalid(integration)
        about_pending(application)
        about_retrying(integration)
        about_unauthorized(integration)
        connect(integration)
        connected_as(account)
        connected_text(application, integration)
        connected_title(integration)
        consent_from(integration)
        consent_text(application, integration)
        consent_title(integration, application)
        consent_to(application)
        consent_warning(application)
        continue_to(integration)
        denied_text(integration, application)
        denied_title(integration)
        disable_hint(application)
        disconnect_hint(application)
        disconnect_text(application, integration)
        disconnect_title(integration)
        failed_text(integration)
        for_account(account)
        leaving_title(integration)
        list_empty(application)
        list_text(application)
        other_again(account)
        other_text(integration)
        page_of(page, pages)
        partial(integration)
        provider_says(integration)
        provider_silent(integration)
        provider_title(integration)
        reauthorize_hint(integration)
        remove_text(integration)
        remove_title(integration)
        return_to(application)
        session_text(application)
        setup_client(integration)
        setup_no_client(integration)
        setup_redirect(integration)
        setup_text(application)
        setup_title(integration)
        switch_no(account)
        switch_text(application)
        switch_title(integration)
        switch_yes(account)
        tenants_none(integration)
        tenants_some(shown, all)
        tenants_text(integration, application)
        trust(application)
        unknown_text(application)
    }
    counted {
        expired_text
        found
        problems
        wrong_length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Locale;

    #[test]
    fn every_language_says_everything() {
        for locale in Locale::ALL {
            // Reads the file: a text that is missing, unknown, or with other places is an error.
            let _ = locale.messages();
        }
    }

    #[test]
    fn a_file_that_lacks_something_is_not_read() {
        let english = include_str!("languages/en.toml");
        let read = |file: &str| Messages::read(file, "en").unwrap_err();
        let without = english.replace("save = ", "shave = ");
        assert_eq!(read(&without), "`save` is missing");
        assert_eq!(
            read(&format!("{english}\n[more]\n")),
            "`more` is not asked for"
        );
        let other = english.replace(
            "about_retrying = \"{integration}",
            "about_retrying = \"{acount}",
        );
        assert!(read(&other).contains("no place for {acount}"));
        let silent = english.replace(
            "connect = \"Connect {integration}\"",
            "connect = \"Connect\"",
        );
        assert_eq!(read(&silent), "`Connect` does not say {integration}");
        let arabic = Messages::read(english, "ar").unwrap_err();
        assert!(arabic.contains("the form `zero` is missing"), "{arabic}");
    }

    #[test]
    fn counting() {
        let found = |locale: Locale, count| locale.messages().found(count).into_string();
        assert_eq!(found(Locale::En, 1), "1 integration found.");
        assert_eq!(found(Locale::En, 2), "2 integrations found.");
        assert!(found(Locale::Fr, 0).ends_with("trouvée."));
        assert!(found(Locale::Fr, 2).ends_with("trouvées."));
        let arabic: std::collections::BTreeSet<_> = [0, 1, 2, 3, 11, 100]
            .map(|count| found(Locale::Ar, count).replace(char::is_numeric, ""))
            .into();
        assert_eq!(arabic.len(), 6, "six forms: {arabic:?}");
    }

    #[test]
    fn values_are_escaped_and_texts_too() {
        let phrase = Phrase::read("a < {x} & {y}", &["y", "x"]).unwrap();
        assert_eq!(
            phrase.fill(&[&"<y>", &"\"x\""]).into_string(),
            "a &lt; &quot;x&quot; &amp; &lt;y&gt;"
        );
    }
}
