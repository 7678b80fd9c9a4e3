use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::*;
use crate::connect::link::{Link, Links, Purpose};

const KEY: [u8; 32] = [7; 32];
const NOW: StoreTime = StoreTime(1_800_000_000_500);

fn session() -> Session {
    Session {
        application_id: "app".into(),
        consumer_id: "acme ü".into(),
        consumer_metadata: json!({ "user_name": "Kim" }).as_object().unwrap().clone(),
        redirect_uri: "https://app.example.test/back".to_owned(),
        settings: SessionSettings::default(),
        theme: SessionTheme::default(),
    }
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn with_part(token: &str, index: usize, value: &Value) -> String {
    let mut parts: Vec<String> = token.split('.').map(Into::into).collect();
    parts[index] = URL_SAFE_NO_PAD.encode(value.to_string());
    parts.join(".")
}

#[test]
fn a_session_is_read_as_it_was_made_until_it_ends() {
    let sessions = Sessions::new(&KEY);
    let token = sessions.issue(&session(), DEFAULT_LENGTH, NOW);
    let token = token.expose();
    assert_eq!(sessions.read(token, NOW), Some(session()));
    let last = StoreTime(1_800_003_599_999);
    assert_eq!(sessions.read(token, last), Some(session()));
    assert_eq!(sessions.read(token, StoreTime(1_800_003_600_000)), None);
    // What Apideck's component reads without verifying.
    let claims = part(token, 1);
    assert_eq!(
        (&claims["application_id"], &claims["consumer_id"]),
        (&json!("app"), &json!("acme ü"))
    );
    assert_eq!(claims["redirect_uri"], "https://app.example.test/back");
    assert_eq!(part(token, 0)["alg"], "HS256");
    let longest = sessions.issue(&session(), Duration::MAX, NOW);
    let exp = part(longest.expose(), 1)["exp"].as_i64();
    assert_eq!(exp, Some(1_800_000_000 + 7 * 24 * 3600));
}

#[test]
fn no_other_jwt_is_a_session() {
    let sessions = Sessions::new(&KEY);
    let token = sessions.issue(&session(), DEFAULT_LENGTH, NOW);
    let token = token.expose();
    let refused = |token: &str| assert_eq!(sessions.read(token, NOW), None, "{token}");

    let mut other = part(token, 1);
    other["consumer_id"] = "victim".into();
    refused(&with_part(token, 1, &other));
    for alg in ["none", "None", "HS384", "RS256"] {
        refused(&with_part(token, 0, &json!({ "typ": "JWT", "alg": alg })));
    }
    refused(token.rsplit_once('.').unwrap().0);
    refused(&format!("{}.", token.rsplit_once('.').unwrap().0));
    refused("");
    refused("null");
    let elsewhere = Sessions::new(&[8; 32]).issue(&session(), DEFAULT_LENGTH, NOW);
    refused(elsewhere.expose());

    // Signed with the right key, but not as a session.
    let signed = |alg, claims: &Value| {
        let key = EncodingKey::from_secret(&KEY);
        jsonwebtoken::encode(&Header::new(alg), claims, &key).unwrap()
    };
    let claims = part(token, 1);
    assert_eq!(
        sessions.read(&signed(Algorithm::HS256, &claims), NOW),
        Some(session())
    );
    refused(&signed(Algorithm::HS512, &claims));
    for name in ["iss", "aud", "exp", "application_id", "consumer_id"] {
        let mut without = claims.clone();
        without.as_object_mut().unwrap().remove(name);
        refused(&signed(Algorithm::HS256, &without));
    }
    for (name, value) in [
        ("iss", json!("other")),
        ("aud", json!("authorize")),
        ("exp", json!(1)),
    ] {
        let mut changed = claims.clone();
        changed[name] = value;
        refused(&signed(Algorithm::HS256, &changed));
    }
}

#[test]
fn a_link_is_no_session_and_opens_one_door() {
    let (sessions, links) = (Sessions::new(&KEY), Links::new(&KEY));
    let link = Link {
        application: "app".into(),
        consumer: "acme".into(),
        unified_api: "crm".into(),
        service: "books".into(),
        origin: None,
        session: true,
    };
    let state = links.state(Purpose::Authorize, &link, NOW);
    assert_eq!(sessions.read(&state, NOW), None);
    let token = sessions.issue(&session(), DEFAULT_LENGTH, NOW);
    assert_eq!(links.read(Purpose::Authorize, token.expose(), NOW), None);
    assert_eq!(links.read(Purpose::Revoke, &state, NOW), None);
    assert_eq!(
        links.read(Purpose::Authorize, &state, NOW),
        Some(link.clone())
    );
    assert_eq!(
        links.read(Purpose::Authorize, &state, StoreTime(NOW.0 + 30 * 60_000)),
        None
    );
    // New each time, also within a second.
    assert_ne!(links.state(Purpose::Authorize, &link, NOW), state);
}

#[test]
fn lengths_are_read_and_bounded() {
    for (text, seconds) in [
        ("30m", 1800),
        ("1h", 3600),
        ("7d", 604_800),
        ("1w", 604_800),
        (" 90 s ", 90),
    ] {
        assert_eq!(length(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for no in [
        "",
        "h",
        "1",
        "0s",
        "8d",
        "2w",
        "-1h",
        "1.5h",
        "1 hour",
        "99999999999w",
        "4294967295w",
        "1ä",
    ] {
        assert!(length(no).is_err(), "{no}");
    }
}

#[test]
fn what_is_allowed_is_what_is_named() {
    let mut session = session();
    assert!(session.is_about("crm") && session.allows("delete"));
    session.settings.unified_apis = vec!["hris".to_owned()];
    session.settings.allow_actions = Some(vec!["disable".to_owned()]);
    assert!(!session.is_about("crm") && session.is_about("hris"));
    assert!(!session.allows("delete") && session.allows("disable"));
    session.settings.allow_actions = Some(Vec::new());
    assert!(!session.allows("disable"));
}
