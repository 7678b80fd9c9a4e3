use serde_json::json;

use super::*;

fn identity(issuer: Option<&str>, subject: Option<&str>, tenant: Option<&str>) -> Identity {
    let text = |text: Option<&str>| text.map(str::to_owned);
    Identity {
        issuer: text(issuer),
        subject: text(subject),
        tenant: text(tenant),
        name: Some("somebody".to_owned()),
    }
}

#[test]
fn an_account_is_the_same_as_far_as_it_is_known() {
    let (i, s, t) = (Some("i"), Some("s"), Some("t"));
    for (kept, came, expected) in [
        ((i, s, t), (i, s, t), Sameness::Same),
        ((None, None, None), (i, s, t), Sameness::Same),
        ((None, s, None), (i, s, t), Sameness::Same),
        ((i, s, t), (i, Some("x"), t), Sameness::Other),
        ((i, s, t), (i, s, Some("x")), Sameness::Other),
        ((i, s, t), (Some("x"), s, t), Sameness::Other),
        ((i, s, t), (i, None, t), Sameness::Untold),
        ((i, s, t), (None, None, None), Sameness::Untold),
        // What is known to be another is not only untold.
        ((i, s, t), (i, None, Some("x")), Sameness::Other),
    ] {
        let of = |(issuer, subject, tenant)| identity(issuer, subject, tenant);
        assert_eq!(of(kept).compare(&of(came)), expected, "{kept:?} {came:?}");
    }
    let renamed = Identity {
        name: Some("somebody else".to_owned()),
        ..identity(i, s, t)
    };
    assert_eq!(identity(i, s, t).compare(&renamed), Sameness::Same);
}

fn token(claims: &Value) -> Secret {
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    Secret::new(format!("e30.{payload}.sig"))
}

#[test]
fn an_id_token_is_for_us_or_is_not_believed() {
    let nonce = Secret::new("n-1");
    let check = IdTokenCheck {
        issuer: Some("https://id.example"),
        client_id: "us",
        nonce: Some(&nonce),
        now: StoreTime(1_000_000_000),
    };
    let good = json!({
        "iss": "https://id.example", "aud": "us", "sub": "anna", "exp": 1_000_001, "nonce": "n-1",
    });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (claims, believed) in [
        (good.clone(), true),
        (with("aud", json!(["us"])), true),
        (with("exp", json!(999_701)), true),
        (with("exp", json!(999_000)), false),
        (with("exp", Value::Null), false),
        (with("iss", json!("https://other.example")), false),
        (with("iss", json!("https://id.example/")), false),
        (with("iss", Value::Null), false),
        (with("aud", json!("them")), false),
        (with("aud", json!([])), false),
        (with("aud", json!(["us", "them"])), false),
        (with("azp", json!("them")), false),
        (with("nonce", json!("n-2")), false),
        (with("nonce", Value::Null), false),
    ] {
        let read = read_id_token(&token(&claims), &check);
        assert_eq!(read.is_ok(), believed, "{claims}: {read:?}");
    }
    let mut party = with("aud", json!(["us", "them"]));
    party["azp"] = json!("us");
    assert!(read_id_token(&token(&party), &check).is_ok());
    for text in ["", "a.b", "e30.e30", "e30.!.x", "e30.W10.x", "a.b.c.d"] {
        assert!(read_id_token(&Secret::new(text), &check).is_err(), "{text}");
    }
}

#[test]
fn an_account_is_read_where_the_connector_says() {
    let rules: IdentityRules = toml::from_str(
        r#"
        userinfo = "https://id.example/me"
        subject = { from = "userinfo", field = "id" }
        tenant = { from = "callback", field = "realm" }
        name = { from = "id_token", field = "email" }
        "#,
    )
    .unwrap();
    let claims = json!({"iss": "https://id.example", "email": "a\n@b"});
    let userinfo = json!({"id": 7});
    let callback = BTreeMap::from([("realm".to_owned(), "r".to_owned())]);
    let sources = Sources {
        id_token: claims.as_object(),
        userinfo: userinfo.as_object(),
        reply: &BTreeMap::new(),
        callback: &callback,
    };
    let read = Identity::read(&rules, &sources);
    let expected = Identity {
        // Nobody but the userinfo endpoint vouches for the subject.
        issuer: None,
        subject: Some("7".to_owned()),
        tenant: Some("r".to_owned()),
        name: Some("a @b".to_owned()),
    };
    assert_eq!(read, expected);
    let endless = BTreeMap::from([("realm".to_owned(), "r".repeat(10_000))]);
    let sources = Sources {
        callback: &endless,
        ..sources
    };
    assert_eq!(Identity::read(&rules, &sources).tenant, None);
}
