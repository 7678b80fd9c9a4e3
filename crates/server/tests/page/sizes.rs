//! How large pages are, and that they ask for nothing more.

use tokenward_server::page::{
    self, HEADERS, Locale,
    text::{Name, Words},
    view::{At, FieldKind, Frame, Integration, Item, List, Status, View},
};

use crate::states;

/// What a page may weigh, with all that it names.
const MOST: usize = 30_000;

/// The page, and the files of ours that it names.
fn weight(frame: &Frame, view: &View) -> usize {
    let html = page::render(frame, view);
    let named = html
        .text()
        .split('"')
        .filter_map(|it| it.strip_prefix("/vault/page/"));
    let files = named
        .filter_map(page::asset)
        .map(|asset| asset.text().len());
    html.text().len() + files.sum::<usize>()
}

#[test]
fn every_state_in_every_language_is_small_and_says_what_it_is() {
    for (name, view) in states::views() {
        for locale in Locale::ALL {
            for frame in [states::frame(locale), states::coloured(locale, "e4572e")] {
                let weight = weight(&frame, &view);
                assert!(weight <= MOST, "{name} {locale:?}: {weight} bytes");
                let html = page::render(&frame, &view);
                let text = html.text();
                let (lang, dir) = (locale.tag(), locale.direction());
                assert!(
                    text.contains(&format!("<html lang=\"{lang}\" dir=\"{dir}\">")),
                    "{name}"
                );
                assert_eq!(text.matches("<h1").count(), 1, "{name} {locale:?}");
                for never in [
                    "<script",
                    " style=",
                    " onclick",
                    "<style",
                    "{",
                    "http://",
                    "javascript:",
                ] {
                    assert!(!text.contains(never), "{name} {locale:?}: {never}");
                }
            }
        }
    }
}

#[test]
fn a_list_of_long_names_is_small_too() {
    for letter in ["\"", "ش", "𝕏", "&", "a\u{301}"] {
        let long = letter.repeat(10_000);
        let item = |index: usize| Item {
            at: At {
                unified_api: "accounting".to_owned(),
                service_id: format!("integration-{index}"),
            },
            integration: Integration {
                name: Name::new(&long).expect("letters"),
                about: Words::new(&long),
                website: None,
                picture: None,
            },
            status: Status::NeedsAttention,
            account: Name::new(&long),
        };
        let list = List {
            items: (0..500).map(item).collect(),
            query: long.clone(),
            page: 3,
        };
        let mut frame = states::coloured(Locale::Ar, "e4572e");
        frame.theme.name = Name::new(&long);
        frame.consumer = Name::new(&long);
        let mut list = View::List(list);
        let weight = weight(&frame, &list);
        assert!(
            weight <= MOST,
            "nothing is found for {letter:?}: {weight} bytes"
        );
        if let View::List(list) = &mut list {
            list.query.clear();
        }
        let weight = self::weight(&frame, &list);
        assert!(weight <= MOST, "{letter:?}: {weight} bytes");
    }
}

#[test]
fn the_policy_allows_nothing_unsafe() {
    let [(name, policy), ..] = &HEADERS;
    assert_eq!(name, "content-security-policy");
    let policy = policy.to_str().expect("text");
    assert!(policy.starts_with("default-src 'none';"));
    for part in [
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{part}");
    }
    for never in ["unsafe", "script-src", "*", "http"] {
        assert!(!policy.contains(never), "{never}");
    }
}

/// A secret has no place in the model, so that none can be shown.
#[test]
fn a_kept_secret_is_asked_for_without_a_value() {
    for field in states::form(false).fields {
        if let FieldKind::Secret { kept } = field.kind {
            assert!(kept || field.required);
        }
    }
    for (name, view) in states::views() {
        let html = page::render(&states::frame(Locale::En), &view);
        for input in html
            .text()
            .split("<input")
            .filter(|it| it.contains("type=\"password\""))
        {
            let tag = input.split('>').next().expect("a tag");
            assert!(!tag.contains("value="), "{name}: {tag}");
        }
    }
}
