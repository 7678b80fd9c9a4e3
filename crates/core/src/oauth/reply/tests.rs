use std::time::Duration;

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
        assert_eq!(response.access_token.as_ref().unwrap().expose(), "at");
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
    assert!(
        matches!(reply, TokenReply::Misconfigured { .. }),
        "{reply:?}"
    );
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
        TokenReply::Misconfigured { .. }
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
        TokenReply::Misconfigured { .. }
    ));
    assert!(matches!(
        read(404, "text/html", "<html>"),
        TokenReply::Misconfigured { .. }
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
    // The provider's own word that nothing was done.
    assert!(matches!(
        read(503, json, r#"{"error":"temporarily_unavailable"}"#),
        TokenReply::Throttled { .. }
    ));
    // And that something went wrong, wherever in it.
    for status in [200, 400, 500, 503] {
        assert!(matches!(
            read(status, json, r#"{"error":"server_error"}"#),
            TokenReply::Unreadable { .. }
        ));
    }
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
    for date in [
        "Friday, 15-Jan-27 08:01:00 GMT",
        "Fri Jan 15 08:01:00 2027",
        "Fri, 15 Jan 2027 09:01:00 +0100",
    ] {
        assert_eq!(
            parse_retry_after(date, NOW),
            Some(Duration::from_secs(60)),
            "{date}"
        );
    }
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

/// What arrived is read whatever its dress; a token's own bytes are never touched.
#[test]
fn the_form_of_an_answer_costs_no_token() {
    let utf16 = |text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        let units = text.encode_utf16().flat_map(bytes);
        mark.into_iter().chain(units).collect()
    };
    let plain = r#"{"access_token":"at-2","refresh_token":"rt-2","expires_in":3600}"#;
    let bodies: Vec<Vec<u8>> = vec![
        format!("\u{feff}{plain}").into(),
        format!("\r\n\t{plain}\u{0}\n").into(),
        format!("<br />\n<b>Warning</b>: x in y.php on line 3<br />\n{plain}").into(),
        format!(")]}}',\n{plain}").into(),
        format!("callback({plain});").into(),
        format!("[{plain}]").into(),
        utf16(plain, [0xFF, 0xFE], u16::to_le_bytes),
        utf16(plain, [0xFE, 0xFF], u16::to_be_bytes),
        plain.replace("3600}", "3600,\"note\":\"a\nb\tc\",}").into(),
        plain
            .replace("3600}", r#"3600,"name":"\ud800 \x","n":NaN,"m":1e999}"#)
            .into(),
        plain.replace("\"at-2\"", "\" at-2\\r\\n\"").into(),
        plain.replace("\"rt-2\"", "\"rt-2\n\"").into(),
        plain.replace("3600", "\" 3600 \"").into(),
        [
            b"{\"name\":\"\xff\xfe\",".as_slice(),
            &plain.as_bytes()[1..],
        ]
        .concat(),
        b"access_token=at-2&refresh_token=rt-2&expires_in=3600".to_vec(),
        b"\nexpires_in=3600&x=%7B%7D&refresh_token=rt-2&access_token=at-2\n".to_vec(),
    ];
    for content_type in [
        "application/json",
        "APPLICATION/X-WWW-Form-UrlEncoded",
        "text/html",
        "",
    ] {
        for body in &bodies {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            let dialect = TokenDialect::default();
            let reply = read_token_reply(StatusCode::OK, &headers, body, &dialect, &[], NOW);
            let shown = String::from_utf8_lossy(body);
            let TokenReply::Granted(response) = reply else {
                panic!("{content_type}: {shown}: {reply:?}")
            };
            assert_eq!(response.access_token, Some(Secret::new("at-2")), "{shown}");
            assert_eq!(response.refresh_token, Some(Secret::new("rt-2")), "{shown}");
            assert_eq!(
                response.expires_in,
                Some(Duration::from_secs(3600)),
                "{shown}"
            );
        }
    }
}

#[test]
fn a_token_that_cannot_be_sent_is_not_granted() {
    for bad in ["a b", "a\nb", "a\u{0}b", "ä", "\u{fffd}", "a\u{7f}b"] {
        let body = serde_json::json!({ "access_token": bad }).to_string();
        let reply = read(200, "application/json", &body);
        assert!(
            matches!(reply, TokenReply::Unreadable { .. }),
            "{bad:?}: {reply:?}"
        );
        // The new refresh token is all that is left of the grant.
        for access_token in [serde_json::json!(bad), serde_json::json!(null)] {
            let body = serde_json::json!({
                "access_token": access_token, "refresh_token": "rt-2", "expires_in": 3600,
            });
            let response = granted_of(read(200, "application/json", &body.to_string()));
            assert_eq!(response.access_token, None);
            assert_eq!(response.refresh_token, Some(Secret::new("rt-2")));
            assert_eq!(response.notes.len(), 1, "{:?}", response.notes);
        }
        // With the old one in its place the next refresh would end the grant.
        if bad != "a b" {
            let body = serde_json::json!({ "access_token": "at", "refresh_token": bad });
            let reply = read(200, "application/json", &body.to_string());
            assert!(
                matches!(reply, TokenReply::Unreadable { .. }),
                "{bad:?}: {reply:?}"
            );
        }
    }
    // Bytes that are no text, in the token itself.
    let body = b"{\"access_token\":\"a\xff\"}";
    let reply = read_token_reply(
        StatusCode::OK,
        &HeaderMap::new(),
        body,
        &TokenDialect::default(),
        &[],
        NOW,
    );
    assert!(matches!(reply, TokenReply::Unreadable { .. }), "{reply:?}");
}

#[test]
fn no_grant_dies_of_a_word_in_a_page() {
    let error = r#"{"error":"invalid_grant"}"#;
    assert!(matches!(
        read(400, "text/html", &format!("\u{feff}{error}\r\n")),
        TokenReply::Refused(_)
    ));
    for page in [
        format!("<script>var x = {error};</script>"),
        format!("{error}{error}"),
        "<p>error=invalid_grant</p>".to_owned(),
        "error = invalid_grant".to_owned(),
    ] {
        let reply = read(400, "text/html", &page);
        assert!(
            matches!(reply, TokenReply::Misconfigured { .. }),
            "{page}: {reply:?}"
        );
    }
}

#[test]
fn absurd_lifetimes_are_bounded() {
    let day = Duration::from_secs(86_400);
    for (said, expected) in [
        ("0", Some(Duration::ZERO)),
        ("-5", Some(Duration::ZERO)),
        ("-1e300", Some(Duration::ZERO)),
        (r#""-inf""#, Some(Duration::ZERO)),
        ("86400", Some(day)),
        ("86400.0", Some(day)),
        (r#""86400""#, Some(day)),
        ("1e15", None),
        ("1e300", None),
        ("1e999", None),
        ("NaN", None),
        (r#""NaN""#, None),
        (r#""soon""#, None),
        ("null", None),
        ("true", None),
    ] {
        let body = format!(r#"{{"access_token":"at","expires_in":{said}}}"#);
        let response = granted_of(read(200, "application/json", &body));
        assert_eq!(response.expires_in, expected, "{said}");
        let warned = matches!(said, "1e15" | "1e300" | "1e999" | r#""NaN""#);
        assert_eq!(response.notes.len(), usize::from(warned), "{said}");
    }
    let dialect = TokenDialect {
        expires_at_field: Some("expires_at".into()),
        ..TokenDialect::default()
    };
    for (at, expected) in [
        ("-1e300", Some(Duration::ZERO)),
        (r#""-inf""#, None),
        (r#""NaN""#, None),
        ("1e300", None),
        ("0", None),
        ("1", Some(Duration::ZERO)),
    ] {
        let body = format!(r#"{{"access_token":"at","expires_at":{at}}}"#);
        let response = granted_of(read_with(200, "application/json", &body, &dialect));
        assert_eq!(response.expires_in, expected, "{at}");
    }
    // A refresh token that "lives" for 0 s does not expire.
    let body = r#"{"access_token":"at","refresh_token_expires_in":0}"#;
    assert_eq!(
        granted_of(read(200, "application/json", body)).refresh_expires_in,
        None
    );
}

#[test]
fn numeric_codes_compare_by_their_text() {
    #[derive(serde::Deserialize)]
    struct File {
        token: TokenDialect,
    }
    let file: File =
        toml::from_str("[token]\ndead_errors = [190, \"x: gone\"]\nthrottled_errors = [4]")
            .unwrap();
    for (error, expected) in [
        ("190", "refused"),
        (r#""190""#, "refused"),
        (r#"{"code":190,"message":"m"}"#, "refused"),
        ("4", "throttled"),
        ("191", "grant"),
        (r#""x""#, "grant"),
    ] {
        let body = format!(r#"{{"error":{error}}}"#);
        let reply = read_with(400, "application/json", &body, &file.token);
        let kind = match reply {
            TokenReply::Refused(_) => "refused",
            TokenReply::Throttled { .. } => "throttled",
            TokenReply::Misconfigured {
                subject: Subject::Grant,
                ..
            } => "grant",
            _ => "other",
        };
        assert_eq!(kind, expected, "{error}");
    }
    // 0 and empty ones say that there is none.
    for none in ["0", "0.0", "null", "\"\"", "false", "{}", "[]"] {
        let body = format!(r#"{{"access_token":"at","error":{none}}}"#);
        granted_of(read(200, "application/json", &body));
    }
}

#[test]
fn tokens_may_stand_one_level_down() {
    let dialect = TokenDialect {
        tokens_at: Some("/data/0/a~1b".into()),
        ..TokenDialect::default()
    };
    let read = |body| read_with(200, "application/json", body, &dialect);
    let body = r#"{"code":0,"data":[{"a/b":{"access_token":"at","refresh_token":"rt"}}]}"#;
    let response = granted_of(read(body));
    assert_eq!(response.refresh_token, Some(Secret::new("rt")));
    for refused in [
        r#"{"error":"invalid_grant","data":[{"a/b":{"access_token":"at"}}]}"#,
        r#"{"data":[{"a/b":{"error":"invalid_grant"}}]}"#,
        r#"{"error":"invalid_grant"}"#,
    ] {
        assert!(matches!(read(refused), TokenReply::Refused(_)), "{refused}");
    }
}

#[test]
fn what_a_refusal_is_about() {
    for (status, body, expected) in [
        (401, r#"{"error":"invalid_client"}"#, Subject::Client),
        (400, r#"{"error":"unauthorized_client"}"#, Subject::Client),
        (401, "", Subject::Client),
        (400, r#"{"error":"invalid_request"}"#, Subject::Grant),
        (400, r#"{"error":"invalid_scope"}"#, Subject::Grant),
        (403, r#"{"error":"organisation_suspended"}"#, Subject::Grant),
        (400, r#"{"message":"no"}"#, Subject::Grant),
        (404, "<html>", Subject::Endpoint),
        (403, "<html>", Subject::Endpoint),
        (302, "", Subject::Endpoint),
    ] {
        match read(status, "application/json", body) {
            TokenReply::Misconfigured { subject, .. } => assert_eq!(subject, expected, "{body}"),
            other => panic!("{status} {body}: {other:?}"),
        }
    }
}

/// Values that fields of replies have had, and some that none should.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "0",
            "-1",
            "1e300",
            "-1e300",
            "1e999",
            "NaN",
            "\"NaN\"",
            "\"-inf\"",
            "\"inf\"",
            "3600",
            "\"3600\"",
            "1800003600000",
            "\"2027-01-15T09:00:00Z\"",
            "{}",
            "[]",
            "{\"code\":190}",
            "\"invalid_grant\"",
            "\"server_error\"",
            "\"\"",
            "\" \"",
            "\"at\\n\"",
            "\"a b\"",
            "\"\\ud800\"",
            "9223372036854775807",
            "-9223372036854775808",
        ])
        .prop_map(str::to_owned),
        "\"[ -~]{0,12}\"",
        "[0-9.eE+-]{1,10}",
    ]
}

fn any_dialect() -> impl Strategy<Value = TokenDialect> {
    let field = prop::sample::select(vec!["expires_in", "error", "access_token", "x", "y"]);
    let field = field.prop_map(str::to_owned);
    let pointer = prop::sample::select(vec!["", "/", "/x", "/x/y", "/error", "x", "/~"]);
    (
        prop::collection::vec("(invalid_grant|190|x: y|[a-z]{1,3})", 0..3),
        prop::collection::vec("(190|slow|[a-z]{1,3})", 0..3),
        prop::option::of(pointer.prop_map(str::to_owned)),
        prop::option::of(field.clone()),
        prop::option::of(field.clone()),
        prop::collection::vec(field, 0..3),
    )
        .prop_map(
            |(dead, throttled, tokens_at, expires_at, refresh_in, metadata)| TokenDialect {
                dead_errors: dead,
                throttled_errors: throttled,
                tokens_at,
                expires_at_field: expires_at,
                refresh_expires_in_field: refresh_in,
                metadata,
            },
        )
}

/// What must hold of any reply to any bytes.
fn check(reply: &TokenReply, status: StatusCode, dialect: &TokenDialect) {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
    let day = Duration::from_secs(86_400);
    match reply {
        TokenReply::Granted(response) => {
            assert!(status.is_success());
            let graphic = |token: &Secret| token.expose().bytes().all(|b| b.is_ascii_graphic());
            let access = response.access_token.as_ref();
            assert!(access.is_none_or(|token| !token.is_empty() && graphic(token)));
            let refresh = response.refresh_token.as_ref();
            assert!(refresh.is_none_or(|token| token.expose().trim() == token.expose()));
            assert!(refresh.is_none_or(|token| !token.is_empty() && token.expose().is_ascii()));
            assert!(access.is_some() || refresh.is_some());
            assert!(
                response
                    .expires_in
                    .is_none_or(|lifetime| lifetime <= TEN_YEARS)
            );
            assert!(
                response
                    .refresh_expires_in
                    .is_none_or(|lifetime| lifetime <= TEN_YEARS)
            );
            assert!(
                response
                    .metadata
                    .keys()
                    .all(|name| dialect.metadata.contains(name))
            );
        }
        TokenReply::Refused(refusal) => {
            assert!(!status.is_server_error());
            let code = refusal.error.as_deref().unwrap();
            assert!(dialect.is_dead(code, refusal.description.as_deref()));
        }
        TokenReply::Throttled { retry_after, .. } => {
            assert!(retry_after.is_none_or(|wait| wait <= day));
        }
        TokenReply::Misconfigured { .. } => {
            assert!(!status.is_server_error());
        }
        TokenReply::Unreadable { .. } => {}
    }
    // A success that is no refusal is either granted or unknown, never forgotten as "not used".
    if matches!(reply, TokenReply::Misconfigured { refusal, .. } if refusal.error.is_none()) {
        assert!(!status.is_success());
    }
}

proptest! {
    /// Whatever bytes come: no panic, and what is said of them holds.
    #[test]
    fn any_bytes_are_read(
        status in 200_u16..600,
        body in prop::collection::vec(any::<u8>(), 0..200),
        front in prop::sample::select(vec!["", "{\"access_token\":\"at", "access_token=", "\u{feff}{"]),
        dialect in any_dialect(),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = [(header::RETRY_AFTER, "3".parse().unwrap())].into_iter().collect();
        let body = [front.as_bytes(), &body].concat();
        check(&read_token_reply(status, &headers, &body, &dialect, &[], NOW), status, &dialect);
        if let Some(read) = read_introspection(status, &body) {
            prop_assert!(status.is_success());
            prop_assert!(String::from_utf8_lossy(&body).contains(&read.active.to_string()));
        }
    }

    /// Whatever stands in the fields, and whatever the dialect.
    #[test]
    fn any_fields_are_read_in_any_dialect(
        status in prop::sample::select(vec![200_u16, 201, 400, 401, 403, 429, 500, 503]),
        fields in prop::collection::vec(
            (prop::sample::select(vec![
                "access_token", "refresh_token", "expires_in", "refresh_token_expires_in",
                "error", "error_description", "scope", "x", "y", "ok",
            ]), any_value()),
            0..8,
        ),
        nested in any::<bool>(),
        dialect in any_dialect(),
        now in prop::sample::select(vec![0, NOW, i64::MAX, i64::MIN]),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let object = format!("{{{}}}", fields.join(","));
        let body = if nested { format!("{{\"x\":{object}}}") } else { object };
        let status = StatusCode::from_u16(status).unwrap();
        let reply = read_token_reply(status, &HeaderMap::new(), body.as_bytes(), &dialect, &[], now);
        check(&reply, status, &dialect);
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
