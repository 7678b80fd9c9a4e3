use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_800_000_000_000;

fn read_with(status: u16, content_type: &str, body: &str, dialect: &TokenDialect) -> TokenReply {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    read_token_reply(
        StatusCode::from_u16(status).unwrap(),
        &headers,
        body.as_bytes(),
        dialect,
        &[&Secret::new("rt-sent")],
        NOW,
    )
}

fn read(status: u16, content_type: &str, body: &str) -> TokenReply {
    read_with(status, content_type, body, &TokenDialect::default())
}

fn granted_of(reply: TokenReply) -> TokenResponse {
    match reply {
        TokenReply::Granted(response) => response,
        other => panic!("not granted: {other:?}"),
    }
}

/// The seven replies that strict libraries refuse or misread.
#[test]
fn off_spec_successes_are_read() {
    let json = "application/json";
    for (status, content_type, body) in [
        (200, json, r#"{"access_token":"at","expires_in":3600}"#),
        (
            201,
            json,
            r#"{"access_token":"at","token_type":"bearer","expires_in":3600}"#,
        ),
        (
            200,
            json,
            r#"{"access_token":"at","token_type":"bearer","expires_in":"3600"}"#,
        ),
        (
            200,
            "application/x-www-form-urlencoded; charset=utf-8",
            "access_token=at&expires_in=3600&token_type=bearer",
        ),
        (
            200,
            "text/javascript",
            r#"{"access_token":"at","expires_in":3600.0}"#,
        ),
        (
            200,
            "text/plain",
            r#"{"access_token":"at","expires_in":3600}"#,
        ),
    ] {
        let response = granted_of(read(status, content_type, body));
        assert_eq!(response.access_token.expose(), "at");
        assert_eq!(
            response.expires_in,
            Some(Duration::from_secs(3600)),
            "{body}"
        );
    }
}

#[test]
fn an_error_inside_a_200_is_an_error() {
    let reply = read(
        200,
        "application/json",
        r#"{"error":"bad_refresh_token","error_description":"x"}"#,
    );
    assert!(matches!(reply, TokenReply::Misconfigured(_)), "{reply:?}");
    let dialect = TokenDialect {
        dead_errors: vec!["bad_refresh_token".into()],
        ..TokenDialect::default()
    };
    let reply = read_with(
        200,
        "application/json",
        r#"{"error":"bad_refresh_token"}"#,
        &dialect,
    );
    assert!(matches!(reply, TokenReply::Refused(_)), "{reply:?}");
    assert!(matches!(
        read(200, "application/json", r#"{"ok":false}"#),
        TokenReply::Misconfigured(_)
    ));
    // An access token next to an error is not a success.
    assert!(matches!(
        read(
            200,
            "application/json",
            r#"{"access_token":"at","error":"invalid_grant"}"#
        ),
        TokenReply::Refused(_)
    ));
}

#[test]
fn scopes_are_split_on_space_and_comma() {
    for scope in [r#""a b""#, r#""a,b""#, r#"["a","b"]"#] {
        let body = format!(r#"{{"access_token":"at","scope":{scope}}}"#);
        assert_eq!(
            granted_of(read(200, "application/json", &body)).scope,
            ["a", "b"]
        );
    }
}

#[test]
fn a_blank_refresh_token_is_no_refresh_token() {
    for body in [
        r#"{"access_token":"at","refresh_token":""}"#,
        r#"{"access_token":"at","refresh_token":null}"#,
        r#"{"access_token":"at","refresh_token":"  "}"#,
        r#"{"access_token":"at"}"#,
    ] {
        assert_eq!(
            granted_of(read(200, "application/json", body)).refresh_token,
            None
        );
    }
}

#[test]
fn absolute_expiry_in_each_form() {
    let dialect = TokenDialect {
        expires_at_field: Some("expires_at".into()),
        ..TokenDialect::default()
    };
    for at in [
        "1800003600",
        "1800003600000",
        r#""1800003600""#,
        r#""2027-01-15T09:00:00Z""#,
    ] {
        let body = format!(r#"{{"access_token":"at","expires_at":{at}}}"#);
        let response = granted_of(read_with(200, "application/json", &body, &dialect));
        assert_eq!(response.expires_in, Some(Duration::from_secs(3600)), "{at}");
    }
}

#[test]
fn metadata_fields_of_the_connector_are_kept() {
    let dialect = TokenDialect {
        metadata: vec!["instance_url".into()],
        ..TokenDialect::default()
    };
    let response = granted_of(read_with(
        200,
        "application/json",
        r#"{"access_token":"at","instance_url":"https://x.my.salesforce.com","signature":"s"}"#,
        &dialect,
    ));
    assert_eq!(response.metadata.len(), 1);
    assert_eq!(
        response.metadata["instance_url"],
        "https://x.my.salesforce.com"
    );
}

#[test]
fn the_four_kinds() {
    let json = "application/json";
    assert!(matches!(
        read(400, json, r#"{"error":"invalid_grant"}"#),
        TokenReply::Refused(_)
    ));
    assert!(matches!(
        read(401, json, r#"{"error":"invalid_client"}"#),
        TokenReply::Misconfigured(_)
    ));
    assert!(matches!(
        read(404, "text/html", "<html>"),
        TokenReply::Misconfigured(_)
    ));
    assert!(matches!(
        read(429, "text/html", "slow"),
        TokenReply::Throttled { .. }
    ));
    assert!(matches!(
        read(400, json, r#"{"error":"temporarily_unavailable"}"#),
        TokenReply::Throttled { .. }
    ));
    assert!(matches!(
        read(503, json, "{}"),
        TokenReply::Unreadable { .. }
    ));
    assert!(matches!(
        read(500, json, r#"{"error":"invalid_grant"}"#),
        TokenReply::Unreadable { .. }
    ));
    assert!(matches!(
        read(200, json, "<html>"),
        TokenReply::Unreadable { .. }
    ));
    assert!(matches!(
        read(200, json, r#"{"access_token":""}"#),
        TokenReply::Unreadable { .. }
    ));
    assert!(matches!(read(200, json, ""), TokenReply::Unreadable { .. }));
}

#[test]
fn echoed_secrets_are_removed() {
    let TokenReply::Refused(refusal) = read(
        400,
        "application/json",
        r#"{"error":"invalid_grant","error_description":"token rt-sent is spent"}"#,
    ) else {
        panic!("not refused")
    };
    assert_eq!(
        refusal.to_string(),
        "invalid_grant (HTTP 400): token [secret] is spent"
    );
}

#[test]
fn retry_after_forms() {
    assert_eq!(
        parse_retry_after("120", NOW),
        Some(Duration::from_secs(120))
    );
    assert_eq!(
        parse_retry_after(" 0.5 ", NOW),
        Some(Duration::from_millis(500))
    );
    assert_eq!(
        parse_retry_after("999999999", NOW),
        Some(Duration::from_secs(86_400))
    );
    assert_eq!(
        parse_retry_after("Fri, 15 Jan 2027 08:01:00 GMT", NOW),
        Some(Duration::from_secs(60))
    );
    assert_eq!(
        parse_retry_after("Fri, 15 Jan 2021 08:01:00 GMT", NOW),
        Some(Duration::ZERO)
    );
    for bad in ["-1", "NaN", "soon", ""] {
        assert_eq!(parse_retry_after(bad, NOW), None, "{bad}");
    }
}

#[test]
fn introspection() {
    let read = |body: &str| read_introspection(StatusCode::OK, body.as_bytes());
    assert_eq!(
        read(r#"{"active":true,"exp":1800000060}"#),
        Some(Introspection {
            active: true,
            expires_at_ms: Some(NOW + 60_000)
        })
    );
    assert_eq!(read("[]"), None);
}

proptest! {
    /// No bytes make the reader panic, and nothing that it says holds what was sent.
    #[test]
    fn any_bytes_are_read(status in 200_u16..600, body in prop::collection::vec(any::<u8>(), 0..200), form in any::<bool>()) {
        let content_type = if form { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        headers.insert(header::RETRY_AFTER, "3".parse().unwrap());
        let _ = read_token_reply(StatusCode::from_u16(status).unwrap(), &headers, &body, &TokenDialect::default(), &[], NOW);
        let _ = read_introspection(StatusCode::OK, &body);
    }

    #[test]
    fn errors_never_hold_the_sent_secret(prefix in ".{0,20}", suffix in ".{0,20}") {
        let body = serde_json::json!({"error": "invalid_grant", "error_description": format!("{prefix}rt-sent{suffix}")});
        let reply = read(400, "application/json", &body.to_string());
        let text = format!("{reply:?}");
        prop_assert!(!text.contains("rt-sent"), "{}", text);
    }

    #[test]
    fn any_retry_after_is_read(value in ".{0,40}") {
        if let Some(wait) = parse_retry_after(&value, NOW) {
            prop_assert!(wait <= Duration::from_secs(86_400));
        }
    }
}
