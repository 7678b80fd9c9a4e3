//! Where `/proxy` lets a token go, read by the parser that the connection is made with.

use async_trait::async_trait;
use proptest::{prelude::*, sample::select};
use tokenward::{
    ConnectionKey, Secret, Vault, VaultConfig,
    connector::Catalogue,
    oauth::TokenRequest,
    observe::Blind,
    seal::{Key, Keyring},
    spool::NoSpool,
    store::MemoryStore,
    time::{Clock, SeededChance, TokioClock},
    transport::{Answer, Patience, Transport, TransportError},
    vault::{Import, VaultParts},
};

use super::*;

const CONNECTOR: &str = r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[authorization]
url = "https://id.acme.example/authorize"
[token]
url = "https://id.acme.example/token"
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[api]
base_url = "https://api.acme.example/v1"
hosts = ["https://api.acme.example", "https://*.pods.acme.example", "https://10.1.2.3"]
[settings.tenant]
label = "Tenant"
"#;

#[derive(Debug)]
struct Silence;

#[async_trait]
impl Transport for Silence {
    async fn exchange(&self, _: TokenRequest, _: Patience) -> Result<Answer, TransportError> {
        Err(TransportError::NotSent("there is no network".to_owned()))
    }
}

/// A connection whose setting `tenant` has this value.
fn connection(tenant: &str) -> Arc<Resolved> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let mut catalogue = Catalogue::default();
        catalogue.add("acme.toml", CONNECTOR).unwrap();
        let parts = VaultParts {
            store: Arc::new(MemoryStore::new(clock.clone())),
            keyring: Keyring::new(vec![Key::generate()]).unwrap(),
            transport: Arc::new(Silence),
            spool: Arc::new(NoSpool),
            observer: Arc::new(Blind),
            clock,
            chance: Arc::new(SeededChance::new(1)),
            catalogue,
            config: VaultConfig::default(),
        };
        let vault = Vault::open(parts).await.unwrap();
        let key = ConnectionKey::new("app", "cust", "crm", "acme");
        let settings = [("tenant".to_owned(), tenant.into())];
        let import = Import {
            access_token: Some(Secret::new("at")),
            settings: Some(settings.into_iter().collect()),
            ..Import::default()
        };
        vault.import(&key, import).await.unwrap();
        vault.resolve(&key).await.unwrap()
    })
}

/// Whether hyper would connect to a host of the list.
fn listed(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let pod = host
        .strip_suffix(".pods.acme.example")
        .is_some_and(|front| !front.is_empty());
    uri.scheme_str() == Some("https")
        && uri.port_u16().is_none()
        && !uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        && (host == "api.acme.example" || pod)
}

#[test]
fn a_relative_url_is_under_the_base() {
    let resolved = connection("t-1");
    let rules = AddressRules::default();
    let target = resolve(&Asked::Url("/x/{tenant}?y".into()), &resolved, None, &rules).unwrap();
    assert_eq!(target.uri(), "https://api.acme.example/v1/x/t-1?y");
    assert!(
        resolve(
            &Asked::Url("https://evil.example/".into()),
            &resolved,
            None,
            &rules
        )
        .is_err()
    );
}

/// Where a request in the path form leads.
fn to(rest: &str, resolved: &Resolved) -> Result<String, u16> {
    let target = resolve(
        &Asked::Below(rest),
        resolved,
        None,
        &AddressRules::default(),
    );
    let uri = target.map(|target| target.uri().to_string());
    uri.map_err(|error| error.status().as_u16())
}

#[test]
fn what_is_below_the_base_is_sent_to_the_byte() {
    let resolved = connection("t");
    // Before an origin is known, and after.
    for _ in 0..2 {
        for rest in [
            "",
            "/",
            "?x",
            "/x?y",
            "/a%2Fb%20c/",
            "//x",
            "/./x",
            "/{tenant}|\"^?`{tenant}",
            "/a:b@c?https://evil.example/../",
        ] {
            let told = to(rest, &resolved);
            assert_eq!(
                told,
                Ok(format!("https://api.acme.example/v1{rest}")),
                "{rest}"
            );
        }
        for rest in [
            "/..",
            "/../x",
            "/%2e%2e/x",
            "/a/%252e%252e/..",
            "/..\\x",
            "/a%5C..%5Cb",
        ] {
            assert_eq!(to(rest, &resolved), Err(400), "{rest}");
        }
        let pod = "https://eu.pods.acme.example/v2?x";
        assert_eq!(to(&format!("/{pod}"), &resolved).as_deref(), Ok(pod));
        for elsewhere in [
            "/https://evil.example/",
            "/http://api.acme.example/",
            "/https:/evil.example",
            "/https://api.acme.example@evil.example/",
            "/https://u@api.acme.example/",
        ] {
            assert_eq!(to(elsewhere, &resolved), Err(400), "{elsewhere}");
        }
    }
}

#[test]
fn links_lead_by_the_gateway_where_a_token_may_go() {
    let resolved = connection("t");
    let from = Target::for_tests("https://api.acme.example/v1/things?page=1");
    let here = "https://gw.example/proxy/c/crm/acme";
    let told = |reference: &str| {
        let rules = AddressRules::default();
        let told = told(reference.as_bytes(), &from, here, &resolved, None, &rules);
        told.map_or_else(
            || reference.to_owned(),
            |told| told.to_str().unwrap().to_owned(),
        )
    };
    for (reference, is) in [
        (
            "https://api.acme.example/v1/things?page=2#a",
            "https://gw.example/proxy/c/crm/acme/things?page=2#a",
        ),
        (
            "https://api.acme.example/v1",
            "https://gw.example/proxy/c/crm/acme",
        ),
        (
            "https://api.acme.example/v1?x",
            "https://gw.example/proxy/c/crm/acme?x",
        ),
        (
            "?page=2",
            "https://gw.example/proxy/c/crm/acme/things?page=2",
        ),
        ("/v1/x%2Fy", "https://gw.example/proxy/c/crm/acme/x%2Fy"),
        (
            "/v10/x",
            "https://gw.example/proxy/c/crm/acme/https://api.acme.example/v10/x",
        ),
        (
            "https://eu.pods.acme.example/x",
            "https://gw.example/proxy/c/crm/acme/https://eu.pods.acme.example/x",
        ),
        ("https://evil.example/v1", "https://evil.example/v1"),
        ("//evil.example/x", "https://evil.example/x"),
        (
            "http://api.acme.example/v1/x",
            "http://api.acme.example/v1/x",
        ),
        (
            "https://u:p@api.acme.example/v1/x",
            "https://u:p@api.acme.example/v1/x",
        ),
        ("mailto:a@b", "mailto:a@b"),
    ] {
        assert_eq!(told(reference), is, "{reference}");
        // And by the gateway one comes to where the link has led.
        if let Some(rest) = is.strip_prefix(here) {
            let url = from
                .uri()
                .to_string()
                .parse::<Url>()
                .unwrap()
                .join(reference)
                .unwrap();
            let url = url.as_str().split('#').next().unwrap().to_owned();
            assert_eq!(to(rest.split('#').next().unwrap(), &resolved), Ok(url));
        }
    }
}

#[test]
fn a_setting_stays_in_its_place() {
    let rules = AddressRules::default();
    for fit in ["t-1", "a.b", "a b", "\u{e4}"] {
        let target = resolve(
            &Asked::Url("/x/{tenant}/y".into()),
            &connection(fit),
            None,
            &rules,
        );
        assert!(target.is_ok(), "{fit}");
    }
    for unfit in [
        ".", "..", "a/b", "a?b", "a#b", "a@b", "a:1", "a\\b", "a%2fb", "%2e%2e",
    ] {
        let target = resolve(
            &Asked::Url("/x/{tenant}/y".into()),
            &connection(unfit),
            None,
            &rules,
        );
        assert!(target.is_err(), "{unfit}: {}", target.unwrap().uri());
    }
}

#[test]
fn a_path_that_leads_up_is_read_as_a_url_where_its_origin_is_known_too() {
    let resolved = connection("t-1");
    let rules = AddressRules::default();
    let go = |given: &str| {
        let asked = Asked::Url(given.into());
        resolve(&asked, &resolved, None, &rules).unwrap().uri()
    };
    // From now on the origin is known.
    go("/x");
    for up in ["..", ".", "%2e%2e", ".%2E", "%2E"] {
        let uri = go(&format!("https://api.acme.example/v1/a/{up}/b"));
        let path = if up == "." || up == "%2E" {
            "/v1/a/b"
        } else {
            "/v1/b"
        };
        assert_eq!(uri.path(), path, "{up}");
    }
}

#[test]
fn an_address_in_a_url_is_checked() {
    let resolved = connection("t-1");
    let url = "https://10.1.2.3/x";
    let error = resolve(
        &Asked::Url(url.into()),
        &resolved,
        None,
        &AddressRules::default(),
    )
    .unwrap_err();
    let words = error.into_response().into_body();
    assert!(String::from_utf8_lossy(&words).contains("private address"));
    let allowing = AddressRules::new(vec!["10.0.0.0/8".parse().unwrap()]);
    let target = resolve(&Asked::Url(url.into()), &resolved, None, &allowing).unwrap();
    assert_eq!(target.uri(), url);
}

const PIECES: [&str; 24] = [
    "https://",
    "http://",
    "HTTPS://",
    "//",
    "/",
    "\\",
    "@",
    ":",
    ":443",
    ":80",
    ".",
    "..",
    "?",
    "#",
    "%2f",
    "%40",
    "\t",
    "{tenant}",
    "api.acme.example",
    "eu.pods.acme.example",
    "evil.example",
    "user",
    "\u{ff0e}",
    "[::1]",
];

proptest! {
    #[test]
    fn a_token_goes_to_listed_hosts_only(pieces in prop::collection::vec(select(&PIECES[..]), 0..8), tenant in select(&["t", "evil.example", "a.b", "%2f", "..", " "][..])) {
        thread_local!(static CONNECTIONS: std::cell::RefCell<std::collections::HashMap<String, Arc<Resolved>>> = std::cell::RefCell::default());
        let resolved = CONNECTIONS.with_borrow_mut(|known| known.entry(tenant.to_owned()).or_insert_with(|| connection(tenant)).clone());
        let tail = pieces.concat();
        for given in [tail.clone(), format!("https://{tail}"), format!("https://api.acme.example{tail}"), format!("https://{{tenant}}.pods.acme.example{tail}")] {
            let rules = AddressRules::default();
            let uri = resolve(&Asked::Url(given.as_str().into()), &resolved, None, &rules).ok().map(|target| target.uri());
            if let Some(uri) = &uri {
                prop_assert!(listed(uri), "{:?} goes to {}", given, uri);
            }
            // What is known already where it leads leads there as well when it is read as a URL.
            resolved.attached(LastOrigin::default).unwrap().0.store(None);
            let read = resolve(&Asked::Url(given.as_str().into()), &resolved, None, &rules).ok().map(|target| target.uri());
            prop_assert_eq!(uri, read, "{:?}", given);
        }
        for rest in [format!("/{tail}"), format!("/https://{tail}"), format!("/https://api.acme.example{tail}"), format!("?{tail}")] {
            let rules = AddressRules::default();
            let uri = resolve(&Asked::Below(&rest), &resolved, None, &rules).ok().map(|target| target.uri());
            if let Some(uri) = &uri {
                prop_assert!(listed(uri), "{:?} goes to {}", rest, uri);
                let relative = path::absolute(&rest).is_none();
                prop_assert!(!relative || uri.to_string().starts_with("https://api.acme.example/v1"), "{:?} goes to {}", rest, uri);
            }
        }
    }
}
