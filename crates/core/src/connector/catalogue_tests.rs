use super::*;
use crate::{endpoint::Context, refresh::replay::ReplayPolicy};

const GOOD: &str = r#"id = "acme"
name = "Acme"
unified_apis = ["crm"]

[authorization]
url = "https://id.acme.example/authorize"

[token]
url = "https://id.acme.example/token"

[refresh]
rotation = "always"
replay = { policy = "grace", seconds = 60 }

[api]
base_url = "https://api.acme.example"
hosts = ["https://api.acme.example"]
"#;

fn error_of(text: &str) -> String {
    Catalogue::default()
        .add("acme.toml", text)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_dropped_in_file_is_read() {
    let mut catalogue = Catalogue::shipped();
    let acme = catalogue.add("acme.toml", GOOD).unwrap();
    assert_eq!(acme.refresh.replay, ReplayPolicy::Grace { seconds: 60 });
    assert!(catalogue.find("acme").is_some() && catalogue.find("xero").is_some());
}

#[test]
fn errors_name_file_line_and_key() {
    for (from, to, expected) in [
        (
            "rotation = \"always\"",
            "rotation = \"sometimes\"",
            "acme.toml:12: ",
        ),
        (
            "url = \"https://id.acme.example/token\"",
            "url = \"https://{x}/token\"",
            "acme.toml:9: ",
        ),
        (
            "hosts = [\"https://api.acme.example\"]",
            "hosts = [\"api.acme.example\"]",
            "acme.toml:17: ",
        ),
        (
            "hosts = [\"https://api.acme.example\"]",
            "hosts = []",
            "acme.toml:17: `api.hosts`",
        ),
        (
            "name = \"Acme\"",
            "nam = \"Acme\"",
            "acme.toml:2: unknown field `nam`",
        ),
        ("id = \"acme\"", "id = \"Acme Inc\"", "acme.toml:1: `id`"),
        ("[refresh]", "[refresh", "acme.toml:11: "),
        (
            "url = \"https://id.acme.example/token\"",
            "url = \"https://{settings.h}/token\"",
            "acme.toml:1: `oauth.hosts`",
        ),
    ] {
        let message = error_of(&GOOD.replace(from, to));
        assert!(message.starts_with(expected), "{to}: {message}");
    }
    let message =
        error_of(&GOOD.replace("policy = \"grace\", seconds", "policy = \"grace\", secs"));
    assert!(
        message.contains("acme.toml:13") && message.contains("replay"),
        "{message}"
    );
}

#[test]
fn xero_is_complete() {
    let catalogue = Catalogue::shipped();
    let xero = catalogue.find("xero").unwrap();
    assert_eq!(xero.refresh.replay, ReplayPolicy::Grace { seconds: 1800 });
    assert!(xero.api.headers.contains_key("Xero-Tenant-Id"));
    assert_eq!(
        xero.api.meaning(
            401,
            &http::HeaderMap::new(),
            br#"{"Title":"Unauthorized","Detail":"AuthorizationUnsuccessful"}"#
        ),
        crate::connector::Meaning::NotExpired
    );
    assert_eq!(
        xero.api.meaning(
            401,
            &http::HeaderMap::new(),
            br#"{"Title":"Unauthorized","Detail":"TokenExpired: token expired at 01/02/2026"}"#
        ),
        crate::connector::Meaning::Expired
    );
}

#[test]
fn salesforce_is_complete() {
    let catalogue = Catalogue::shipped();
    let salesforce = catalogue.find("salesforce").unwrap();
    assert_eq!(salesforce.refresh.replay, ReplayPolicy::Revokes);
    assert!(salesforce.lifetime(None, true).is_some());
    let token = [(
        "instance_url".to_owned(),
        "https://acme.my.salesforce.com".to_owned(),
    )]
    .into();
    let context = Context {
        token: Some(&token),
        ..Context::default()
    };
    let base = salesforce
        .api
        .base_url
        .as_ref()
        .unwrap()
        .fill_url(&context)
        .unwrap();
    assert!(
        salesforce
            .api
            .hosts
            .iter()
            .any(|host| host.matches(&base, &context))
    );
    let evil = "https://acme.my.salesforce.com.evil.example"
        .parse()
        .unwrap();
    assert!(
        !salesforce
            .api
            .hosts
            .iter()
            .any(|host| host.matches(&evil, &context))
    );
}

#[test]
fn every_oauth_endpoint_with_places_needs_a_host_list() {
    for (from, key) in [
        ("https://id.acme.example/authorize", "authorization"),
        ("https://id.acme.example/token", "token"),
    ] {
        for place in ["{settings.x}", "{token.x}", "{client.x}"] {
            let text = GOOD.replace(from, &format!("https://id.acme.example/{place}"));
            let message = error_of(&text);
            let expected = format!("`oauth.hosts`: needed, because `{key}.url` has places");
            assert!(message.contains(&expected), "{message}");
        }
    }
    let other = format!("{GOOD}\n[oauth]\nhosts = [\"https://other.example\"]\n");
    assert!(error_of(&other).contains("not on the connector's list"));
    let own = format!("{GOOD}\n[oauth]\nhosts = [\"https://id.acme.example\"]\n");
    assert!(Catalogue::default().add("acme.toml", &own).is_ok());
}

#[test]
fn the_login_host_of_salesforce_is_anchored() {
    let catalogue = Catalogue::shipped();
    let salesforce = catalogue.find("salesforce").unwrap();
    for (host, good) in [
        ("login.salesforce.com", true),
        ("acme.my.salesforce.com", true),
        ("acme--dev.sandbox.my.salesforce.com", true),
        ("acme.my.salesforce.com/x?", false),
        ("acme.my.salesforce.com.evil.example", false),
        ("evil.example", false),
        ("loginXsalesforce.com", false),
    ] {
        let settings = [("login_host".to_owned(), host.into())]
            .into_iter()
            .collect();
        let checked = crate::connector::validate_settings(salesforce, &settings);
        assert_eq!(checked.is_ok(), good, "{host}: {checked:?}");
        let settings = [("login_host".to_owned(), host.to_owned())].into();
        let context = Context {
            settings: Some(&settings),
            ..Context::default()
        };
        let kinds = crate::connector::EndpointKind::ALL.into_iter();
        for kind in kinds.filter(|kind| salesforce.endpoint_template(*kind).is_some()) {
            assert_eq!(salesforce.endpoint(kind, &context).is_ok(), good, "{host}");
        }
    }
}

/// Every fact of a shipped file names where it was read.
#[test]
fn every_shipped_fact_has_a_source() {
    fn leaves(prefix: &str, value: &toml::Value, found: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    leaves(&path, value, found);
                }
            }
            _ => found.push(prefix.to_owned()),
        }
    }
    for (file, text) in SHIPPED {
        let table: toml::Table = text.parse().unwrap();
        let connector = parse(file, text).unwrap();
        let mut facts = Vec::new();
        leaves("", &toml::Value::Table(table), &mut facts);
        for fact in facts {
            // Names are ours, and so are the labels of settings.
            if fact.starts_with("sources.")
                || fact.starts_with("settings.")
                || ["id", "name", "description", "unified_apis"].contains(&fact.as_str())
            {
                continue;
            }
            let covered = connector.sources.iter().any(|(key, sources)| {
                (fact == *key || fact.starts_with(&format!("{key}.")))
                    && sources.iter().all(|source| source.len() > 8)
                    && !sources.is_empty()
            });
            assert!(covered, "{file}: `{fact}` has no entry in [sources]");
        }
    }
}

proptest::proptest! {
    /// A shipped file with a line changed, doubled or left out is read or refused with the place
    /// of the fault; a catalogue is never half changed.
    #[test]
    fn any_connector_file_is_read(
        which in 0..SHIPPED.len(),
        cut in proptest::prelude::any::<proptest::sample::Index>(),
        paste in proptest::prelude::any::<proptest::sample::Index>(),
        noise in ".{0,12}",
    ) {
        let lines: Vec<&str> = SHIPPED[which].1.lines().collect();
        let (cut, paste) = (cut.index(lines.len()), paste.index(lines.len()));
        for replacement in ["", lines[paste], noise.as_str()] {
            let mut changed = lines.clone();
            changed[cut] = replacement;
            let text = changed.join("\n");
            let mut catalogue = Catalogue::default();
            match catalogue.add("x.toml", &text) {
                Ok(connector) => {
                    proptest::prop_assert!(catalogue.find(connector.id.as_str()).is_some());
                    proptest::prop_assert!(!connector.unified_apis.is_empty());
                }
                Err(error) => {
                    proptest::prop_assert!(error.line >= 1 && error.line <= lines.len() + 1, "{}", error);
                    proptest::prop_assert_eq!(catalogue.iter().count(), 0);
                }
            }
        }
    }
}
