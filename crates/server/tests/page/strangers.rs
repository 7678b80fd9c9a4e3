//! What strangers write into names, settings and errors stays text.

use tokenward::time::StoreTime;
use tokenward_server::page::{
    self, Locale,
    href::Href,
    text::{Name, Words},
    theme::{Looks, Theme},
    view::{
        Allowed, At, Choice, Consent, Detail, Developer, Ending, Field, FieldKind, FormToken,
        Frame, Integration, Item, Leaving, List, Misconfiguration, Next, Outcome, Question,
        Receipt, SettingsForm, Status, Switch, Tenant, Tenants, View,
    },
};

/// What they would like to be more than text.
const TEXTS: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onfocus=alert(1) autofocus x='",
    "</title></textarea></option><svg onload=alert(1)>",
    "javascript:alert(1)//",
    "\u{202e}\u{2066}gpj.exe<b>\u{200b}",
];

fn at(text: &str) -> At {
    At {
        unified_api: text.to_owned(),
        service_id: text.to_owned(),
    }
}

fn integration(text: &str) -> Integration {
    Integration {
        name: name(text),
        about: Words::new(text),
        website: None,
        picture: None,
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("something can be seen")
}

fn href() -> Href {
    Href::own("/vault/authorize/x?state=%22%3E").expect("a path")
}

/// Every page with a text wherever a stranger's may come.
fn views(text: &str) -> Vec<View> {
    let account = || Some(name(text));
    let plain = |id: &str, kind| Field {
        name: format!("{id}{text}"),
        label: name(text),
        hint: Words::new(text),
        required: true,
        kind,
        problem: None,
    };
    let choices = || {
        vec![Choice {
            value: text.to_owned(),
            label: name(text),
        }]
    };
    let form = SettingsForm {
        fields: vec![
            plain("a", FieldKind::Text(text.to_owned())),
            plain("b", FieldKind::TextArea(text.to_owned())),
            plain("c", FieldKind::Number(text.to_owned())),
            plain("d", FieldKind::Host(text.to_owned())),
            plain("e", FieldKind::Checkbox(true)),
            plain(
                "f",
                FieldKind::Select {
                    choices: choices(),
                    value: Some(text.to_owned()),
                },
            ),
            plain(
                "g",
                FieldKind::MultiSelect {
                    choices: choices(),
                    values: vec![text.to_owned()],
                },
            ),
            plain("h", FieldKind::Secret { kept: true }),
        ],
        problem: Words::new(text),
    };
    let detail = Detail {
        at: at(text),
        integration: integration(text),
        status: Status::Connected,
        account: account(),
        organisation: account(),
        since: Some(StoreTime(i64::MAX)),
        missing_permissions: vec![name(text)],
        connect: Some(href()),
        allowed: Allowed::default(),
        has_tenants: true,
        settings: Some(form),
        notice: None,
    };
    let item = Item {
        at: at(text),
        integration: integration(text),
        status: Status::Connected,
        account: account(),
    };
    let list = List {
        items: vec![item; 30],
        query: String::new(),
        page: usize::MAX,
    };
    let searched = List {
        query: text.to_owned(),
        ..list.clone()
    };
    let tenant = Tenant {
        id: text.to_owned(),
        name: name(text),
    };
    let developer = |problem| {
        View::Developer(Developer {
            integration: integration(text),
            problem,
            words: Words::new(text),
            application_id: name(text),
            service_id: name(text),
            request_id: account(),
        })
    };
    let mut redirect: url::Url = "https://vault.example/callback".parse().expect("a URL");
    redirect.set_query(Some(text));
    let mut views = vec![
        View::List(list),
        View::List(searched),
        View::Detail(Box::new(detail)),
        View::Switch(Switch {
            at: at(text),
            integration: integration(text),
            kept: name(text),
            came: account(),
            connect: href(),
        }),
        View::Tenants(Tenants {
            at: at(text),
            integration: integration(text),
            tenants: vec![tenant; 30],
            chosen: Some(text.to_owned()),
            query: text.to_owned(),
            refused: true,
        }),
        View::Consent(Consent {
            integration: integration(text),
            application: name(text),
            consumer: name(text),
            account: account(),
            answer_to: href(),
            attempt: text.to_owned(),
        }),
        View::Leaving(Leaving {
            integration: integration(text),
            to: Href::web(&redirect).expect("a page"),
        }),
        developer(Misconfiguration::RedirectUri(redirect.clone())),
        developer(Misconfiguration::Client),
        developer(Misconfiguration::NoClient),
        View::ServerError {
            request_id: account(),
        },
    ];
    for ending in [Ending::Disconnect, Ending::Remove] {
        views.push(View::Question(Question {
            at: at(text),
            integration: integration(text),
            account: account(),
            ending,
        }));
    }
    let outcomes = [
        Outcome::Connected {
            account: account(),
            next: Next::Settings,
        },
        Outcome::Denied,
        Outcome::ProviderError {
            words: Words::new(text),
        },
        Outcome::OtherAccount {
            kept: name(text),
            came: name(text),
            switch: Some(href()),
        },
        Outcome::Failed,
    ];
    for outcome in outcomes {
        views.push(View::Receipt(Receipt {
            at: Some(at(text)),
            integration: Some(integration(text)),
            outcome,
            still_connected: true,
            again: Some(href()),
            has_session: true,
        }));
    }
    views
}

/// The tags of a page, without what stands between them.
fn tags(html: &str) -> Vec<&str> {
    html.split('<')
        .skip(1)
        .filter_map(|it| it.split('>').next())
        .collect()
}

/// What stands between the tags of a page, but for the values of a form, which come whole.
fn shown(html: &str) -> impl Iterator<Item = &str> {
    html.split('<')
        .filter(|it| !it.starts_with("textarea"))
        .filter_map(|it| Some(it.split_once('>')?.1))
}

fn frame(locale: Locale, text: &str) -> Frame {
    let looks = Looks {
        vault_name: Some(text),
        logo: Some(text),
        primary_color: Some(text),
        privacy_url: Some(text),
        terms_url: Some(text),
    };
    Frame {
        locale,
        theme: Theme::of(&looks, None),
        consumer: Name::new(text),
        return_to: Some(href()),
        here: Some(href()),
        form_token: FormToken(text.to_owned()),
        ..Frame::default()
    }
}

#[test]
fn names_settings_and_errors_of_strangers_stay_text() {
    // What the pages are made of when nobody means harm.
    let harmless = views("Acme");
    for text in TEXTS {
        for (view, same) in views(text).iter().zip(&harmless) {
            for locale in [Locale::En, Locale::Ar] {
                let html = page::render(&frame(locale, text), view);
                let html = html.text();
                let plain = page::render(&frame(locale, "Acme"), same);
                let names = |html: &str| -> Vec<String> {
                    let name = |tag: &&str| !tag.is_empty();
                    let first = |tag: &str| tag.split(' ').next().unwrap_or_default().to_owned();
                    tags(html).into_iter().filter(name).map(first).collect()
                };
                assert_eq!(
                    names(html),
                    names(plain.text()),
                    "{text:?} makes tags: {view:?}"
                );
                for shown in shown(html) {
                    let turns = |c| matches!(c, '\u{200b}' | '\u{202e}' | '\u{2066}');
                    // Texts of ours bring their isolates' ends along.
                    let lone = shown.contains(turns) && !shown.contains('\u{2069}');
                    assert!(!lone, "{text:?} turns what is around it: {shown:?}");
                }
                for tag in tags(html) {
                    let quotes = tag.matches('"').count();
                    assert!(quotes % 2 == 0, "{text:?} opens a value: {tag}");
                    let bare: String = tag.split('"').step_by(2).collect();
                    assert!(
                        !bare.contains("onerror")
                            && !bare.contains("onfocus")
                            && !bare.contains("onload"),
                        "{tag}"
                    );
                    assert!(
                        !tag.contains("href=\"javascript") && !tag.contains("src=\"javascript"),
                        "{tag}"
                    );
                }
            }
        }
    }
}

#[test]
fn endless_names_are_cut() {
    let long = "w".repeat(10_000);
    let html = page::render(&frame(Locale::En, &long), &views(&long)[0]);
    let ours = html.text().replace(&"w".repeat(10_000), "");
    assert!(!ours.contains(&"w".repeat(65)), "a name is shown whole");
    assert!(ours.contains(&format!("{}…", "w".repeat(64))));
}
