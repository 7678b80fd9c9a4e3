//! Every state of the customers' page, with made-up people.

use tokenward::time::StoreTime;
use tokenward_server::page::{
    Locale,
    href::Href,
    text::{Name, Words},
    theme::{Looks, Theme},
    view::{
        Allowed, At, Choice, Consent, Detail, Developer, Ending, Field, FieldKind, FieldProblem,
        FormToken, Frame, Integration, Item, Leaving, List, Misconfiguration, Next, Notice,
        Outcome, Question, Receipt, SettingsForm, Status, Switch, Tenant, Tenants, View,
    },
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(Name::unnamed)
}

fn own(path: &str) -> Option<Href> {
    Href::own(path)
}

fn theme(primary_color: Option<&str>) -> Theme {
    let looks = Looks {
        vault_name: Some("Ledgerline"),
        primary_color,
        ..Looks::default()
    };
    Theme::of(&looks, None)
}

/// A session's frame, in a language.
pub(crate) fn frame(locale: Locale) -> Frame {
    Frame {
        locale,
        theme: Theme {
            privacy: own("/privacy"),
            terms: own("/terms"),
            ..theme(None)
        },
        consumer: Some(name("Harbour Bakery Ltd")),
        return_to: own("/back"),
        here: own("/vault/page?x=1"),
        form_token: FormToken("token".to_owned()),
        ..Frame::default()
    }
}

/// The same, with an application's own colour.
pub(crate) fn coloured(locale: Locale, colour: &str) -> Frame {
    let mut frame = frame(locale);
    frame.theme = theme(Some(colour));
    frame
}

const INTEGRATIONS: [(&str, &str, &str); 13] = [
    ("xero", "Xero", "Accounting for small businesses"),
    (
        "salesforce",
        "Salesforce",
        "Customer relationship management",
    ),
    ("hubspot", "HubSpot", "Marketing, sales and service"),
    ("quickbooks", "QuickBooks", "Accounting and invoicing"),
    ("pipedrive", "Pipedrive", "A CRM for sales teams"),
    (
        "exact-online",
        "Exact Online",
        "Accounting in the Netherlands",
    ),
    ("jira", "Jira", "Issues and projects"),
    ("slack", "Slack", "Messages for teams"),
    ("gusto", "Gusto", "Payroll and benefits"),
    ("bamboohr", "BambooHR", "People and time off"),
    ("zendesk", "Zendesk", "Customer support"),
    ("shopify", "Shopify", "Shops and orders"),
    ("personio", "Personio", "People operations"),
];

fn at(service: &str) -> At {
    At {
        unified_api: "accounting".to_owned(),
        service_id: service.to_owned(),
    }
}

fn integration(index: usize) -> Integration {
    let (_, title, about) = INTEGRATIONS[index % INTEGRATIONS.len()];
    Integration {
        name: name(title),
        about: Words::new(about),
        website: None,
        picture: None,
    }
}

fn item(index: usize, status: Status) -> Item {
    let signed_in = matches!(
        status,
        Status::Connected | Status::Retrying | Status::Disabled
    );
    Item {
        at: at(INTEGRATIONS[index % INTEGRATIONS.len()].0),
        integration: integration(index),
        status,
        account: signed_in.then(|| name("kim@harbour-bakery.example")),
    }
}

fn list(items: Vec<Item>, query: &str, page: usize) -> View {
    View::List(List {
        items,
        query: query.to_owned(),
        page,
    })
}

fn every_status() -> Vec<Item> {
    let ours = Status::ALL
        .iter()
        .filter(|status| **status != Status::Available);
    let ours = ours.enumerate().map(|(index, status)| item(index, *status));
    let others = (8..INTEGRATIONS.len()).map(|index| item(index, Status::Available));
    ours.chain(others).collect()
}

fn detail(status: Status) -> Detail {
    let known = !matches!(status, Status::Available | Status::Unauthorized);
    Detail {
        at: at("xero"),
        integration: integration(0),
        status,
        account: known.then(|| name("kim@harbour-bakery.example")),
        organisation: known.then(|| name("Harbour Bakery Ltd")),
        since: known.then_some(StoreTime(1_780_000_000_000)),
        missing_permissions: Vec::new(),
        connect: own("/vault/authorize/xero/ledgerline?state=x"),
        allowed: Allowed::default(),
        has_tenants: known,
        settings: None,
        notice: None,
    }
}

fn field(id: &str, label: &str, required: bool, kind: FieldKind) -> Field {
    Field {
        name: id.to_owned(),
        label: name(label),
        hint: None,
        required,
        kind,
        problem: None,
    }
}

/// Every kind of field.
pub(crate) fn form(wrong: bool) -> SettingsForm {
    let region = ["Europe", "United States", "Asia Pacific"];
    let choices: Vec<_> = region.iter().map(|it| Choice::plain(it)).collect();
    let resources = ["Invoices", "Contacts", "Payments", "Journals"];
    let resources: Vec<_> = resources.iter().map(|it| Choice::plain(it)).collect();
    let mut fields = vec![
        field(
            "host",
            "Login host",
            true,
            FieldKind::Host("login.example.com".to_owned()),
        ),
        field(
            "company",
            "Company name",
            true,
            FieldKind::Text("Harbour Bakery".to_owned()),
        ),
        field(
            "notes",
            "Remarks for the import",
            false,
            FieldKind::TextArea("First line\nSecond line".to_owned()),
        ),
        field(
            "limit",
            "Days to look back",
            false,
            FieldKind::Number("90".to_owned()),
        ),
        field(
            "region",
            "Region",
            true,
            FieldKind::Select {
                choices,
                value: Some("Europe".to_owned()),
            },
        ),
        field(
            "what",
            "What to work with",
            false,
            FieldKind::MultiSelect {
                choices: resources,
                values: vec!["Invoices".to_owned()],
            },
        ),
        field(
            "sandbox",
            "Use the sandbox",
            false,
            FieldKind::Checkbox(true),
        ),
        field("secret", "API key", true, FieldKind::Secret { kept: false }),
        field(
            "signing",
            "Signing secret",
            false,
            FieldKind::Secret { kept: true },
        ),
    ];
    fields[0].hint = Words::new("login.salesforce.com, test.salesforce.com or your My Domain");
    if wrong {
        let problems = [
            FieldProblem::NotAHost,
            FieldProblem::Missing,
            FieldProblem::TooLong(200),
            FieldProblem::NotANumber,
            FieldProblem::NotAChoice,
            FieldProblem::NotAChoice,
            FieldProblem::WrongForm,
            FieldProblem::NotText,
            FieldProblem::WrongForm,
        ];
        for (field, problem) in fields.iter_mut().zip(problems) {
            field.problem = Some(problem);
        }
    }
    SettingsForm {
        fields,
        problem: None,
    }
}

fn receipt(outcome: Outcome) -> Receipt {
    Receipt {
        at: Some(at("xero")),
        integration: Some(integration(0)),
        outcome,
        still_connected: false,
        again: own("/vault/authorize/xero/ledgerline?state=y"),
        has_session: true,
    }
}

fn tenants(many: usize, refused: bool) -> View {
    let tenant = |index: usize| Tenant {
        id: format!("7f1c2a90-0000-4000-8000-{index:012}"),
        name: name(
            [
                "Harbour Bakery Ltd",
                "Harbour Cafés GmbH",
                "Harbour Holding",
            ][index % 3],
        ),
    };
    View::Tenants(Tenants {
        at: at("xero"),
        integration: integration(0),
        tenants: (0..many).map(tenant).collect(),
        chosen: (many == 3 && !refused).then(|| "7f1c2a90-0000-4000-8000-000000000001".to_owned()),
        query: String::new(),
        refused,
    })
}

fn developer(problem: Misconfiguration, words: Option<&str>) -> View {
    View::Developer(Developer {
        integration: integration(0),
        problem,
        words: words.and_then(Words::new),
        application_id: name("ledgerline-production"),
        service_id: name("xero"),
        request_id: Some(name("0192f0c4-7e1a-7d3c-9a55-0b8fd2a6f001")),
    })
}

/// The page's states by name.
pub(crate) fn views() -> Vec<(String, View)> {
    let mut views: Vec<(String, View)> = Vec::new();
    let mut add = |name: &str, view: View| views.push((name.to_owned(), view));
    add("list", list(every_status(), "", 1));
    add(
        "list-few",
        list(every_status().into_iter().take(4).collect(), "", 1),
    );
    add("list-empty", list(Vec::new(), "", 1));
    add("list-nothing-found", list(every_status(), "zzz", 1));
    let many = (0..60)
        .map(|index| item(index, Status::Available))
        .collect();
    add("list-many", list(many, "", 2));
    for status in Status::ALL {
        let state = format!("{status:?}").to_lowercase();
        let mut detail = detail(status);
        if matches!(status, Status::InputRequired | Status::InvalidSettings) {
            detail.settings = Some(form(false));
        }
        add(&format!("detail-{state}"), View::Detail(Box::new(detail)));
    }
    let partial = Detail {
        missing_permissions: vec![
            name("accounting.transactions"),
            name("accounting.contacts.read"),
        ],
        notice: Some(Notice::Saved),
        ..detail(Status::Connected)
    };
    add("detail-partial", View::Detail(Box::new(partial)));
    let tenant = Detail {
        organisation: None,
        ..detail(Status::InputRequired)
    };
    add("detail-choose-organisation", View::Detail(Box::new(tenant)));
    let refused = Detail {
        settings: Some(form(true)),
        ..detail(Status::Connected)
    };
    add("detail-settings-refused", View::Detail(Box::new(refused)));
    for (state, ending) in [
        ("disconnect", Ending::Disconnect),
        ("remove", Ending::Remove),
    ] {
        let question = Question {
            at: at("xero"),
            integration: integration(0),
            account: Some(name("kim@harbour-bakery.example")),
            ending,
        };
        add(state, View::Question(question));
    }
    for (state, came) in [
        ("switch", None),
        ("switch-known", Some(name("alex@harbour-bakery.example"))),
    ] {
        let switch = Switch {
            at: at("xero"),
            integration: integration(0),
            kept: name("kim@harbour-bakery.example"),
            came,
            connect: Href::own("/vault/authorize/xero/ledgerline?switch=1").expect("a path"),
        };
        add(state, View::Switch(switch));
    }
    add("tenants", tenants(3, false));
    add("tenants-many", tenants(60, false));
    add("tenants-none", tenants(0, false));
    add("tenants-refused", tenants(3, true));
    let consent = Consent {
        integration: integration(0),
        application: name("Ledgerline"),
        consumer: name("Harbour Bakery Ltd"),
        account: None,
        answer_to: Href::own("/vault/consent").expect("a path"),
        attempt: "0192f0c4".to_owned(),
    };
    add("consent", View::Consent(consent));
    let leaving = Leaving {
        integration: integration(0),
        to: Href::own("/elsewhere").expect("a path"),
    };
    add("leaving", View::Leaving(leaving));
    receipts(&mut add);
    let uri = "https://vault.ledgerline.example/vault/callback/ledgerline-production/xero";
    let uri = uri.parse().expect("a URL");
    add(
        "developer-redirect-uri",
        developer(
            Misconfiguration::RedirectUri(uri),
            Some("invalid_redirect_uri: the redirect_uri does not match"),
        ),
    );
    add(
        "developer-client",
        developer(Misconfiguration::Client, Some("invalid_client")),
    );
    add(
        "developer-no-client",
        developer(Misconfiguration::NoClient, None),
    );
    add("session-expired", View::SessionExpired);
    add("not-found", View::NotFound);
    let request_id = Some(name("0192f0c4-7e1a-7d3c-9a55-0b8fd2a6f001"));
    add("server-error", View::ServerError { request_id });
    views
}

fn receipts(add: &mut dyn FnMut(&str, View)) {
    let account = || Some(name("kim@harbour-bakery.example"));
    let nexts = [
        ("receipt-connected", Next::Nothing),
        ("receipt-connected-settings", Next::Settings),
        ("receipt-connected-tenant", Next::Tenant),
    ];
    for (state, next) in nexts {
        let account = account();
        add(
            state,
            View::Receipt(receipt(Outcome::Connected { account, next })),
        );
    }
    add(
        "receipt-already-done",
        View::Receipt(receipt(Outcome::AlreadyDone)),
    );
    let denied = Receipt {
        still_connected: true,
        ..receipt(Outcome::Denied)
    };
    add("receipt-denied", View::Receipt(denied));
    let words = Words::new("access_denied: the app is not approved for this edition");
    add(
        "receipt-provider-error",
        View::Receipt(receipt(Outcome::ProviderError { words })),
    );
    add(
        "receipt-expired",
        View::Receipt(receipt(Outcome::Expired { minutes: 30 })),
    );
    let unknown = Receipt {
        at: None,
        integration: None,
        again: None,
        has_session: false,
        ..receipt(Outcome::Unknown)
    };
    add("receipt-day-old", View::Receipt(unknown));
    add(
        "receipt-other-browser",
        View::Receipt(receipt(Outcome::OtherBrowser)),
    );
    let other = Outcome::OtherAccount {
        kept: name("kim@harbour-bakery.example"),
        came: name("alex@elsewhere.example"),
        switch: own("/vault/page/connections/accounting/xero/switch"),
    };
    let other = Receipt {
        still_connected: true,
        ..receipt(other)
    };
    add("receipt-other-account", View::Receipt(other));
    add("receipt-failed", View::Receipt(receipt(Outcome::Failed)));
}
