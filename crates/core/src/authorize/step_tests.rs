use super::*;
use crate::{
    authorize::{Initiator, Intent, NamedSecret, RECEIPT_KEPT},
    id::AttemptId,
};

const TTL: Duration = Duration::from_secs(20);
const PLACE: &str = "https://vault.example/vault/callback/app/acme";

fn at(seconds: i64) -> StoreTime {
    StoreTime(seconds * 1000)
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn visit() -> Visit {
    Visit {
        browser: Digest::of(&secret("cookie")),
        state: Digest::of(&secret("state")),
        issuer: Some("https://id.example".to_owned()),
        issuer_required: false,
    }
}

fn row() -> AttemptRow {
    let mut row = AttemptRow {
        id: AttemptId::new("id"),
        connection: ConnectionKey::new("app", "cust", "crm", "acme"),
        begun_by: Initiator::Page,
        intent: Intent::Connect,
        redirect_uri: PLACE.to_owned(),
        return_to: None,
        two_step: false,
        asked: Vec::new(),
        ticket: Digest::of(&secret("ticket")),
        visit: None,
        begun_at: at(0),
        expires_at: at(0),
        phase: Phase::Open,
        sealed: b"sealed".to_vec(),
        revision: 0,
    };
    row.begin(at(0));
    row
}

fn visited() -> AttemptRow {
    row().visited(visit(), Vec::new())
}

struct Answer {
    place: &'static str,
    state: &'static str,
    cookie: Option<&'static str>,
    issuer: Option<&'static str>,
    answered: Answered,
}

const GOOD: Answer = Answer {
    place: PLACE,
    state: "state",
    cookie: Some("cookie"),
    issuer: Some("https://id.example"),
    answered: Answered::Code,
};

fn back(row: &AttemptRow, answer: &Answer, now: StoreTime) -> Result<Turn, Refused> {
    let (state, cookie) = (secret(answer.state), answer.cookie.map(secret));
    let event = CameBack {
        at: answer.place,
        state: &state,
        cookie: cookie.as_ref(),
        issuer: answer.issuer,
        answered: answer.answered.clone(),
    };
    row.come_back(&event, &"p".into(), TTL, now)
}

fn exchanging(row: &AttemptRow, now: StoreTime) -> AttemptRow {
    match back(row, &GOOD, now) {
        Ok(Turn::Exchange(next)) => *next,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_browser_is_the_attempts_own() {
    let late = at(1800);
    let arrive = |row: &AttemptRow, ticket, cookie: Option<&str>, now| {
        row.admit(&secret(ticket), cookie.map(secret).as_ref(), now)
    };
    assert_eq!(arrive(&row(), "other", None, at(1)), Err(Refused::Unknown));
    assert_eq!(arrive(&row(), "ticket", None, late), Err(Refused::Over));
    let visited = visited();
    for cookie in [None, Some("other")] {
        assert_eq!(
            arrive(&visited, "ticket", cookie, at(2)),
            Err(Refused::OtherBrowser)
        );
    }
    assert!(arrive(&visited, "ticket", Some("cookie"), at(2)).is_ok());
    let begun = exchanging(&visited, at(3));
    assert_eq!(
        arrive(&begun, "ticket", Some("cookie"), at(4)),
        Err(Refused::Over)
    );
}

#[test]
fn who_comes_back_is_settled_before_anything_else() {
    let visited = visited();
    for (answer, refused) in [
        (
            Answer {
                state: "other",
                ..GOOD
            },
            Refused::Unknown,
        ),
        (
            Answer {
                cookie: None,
                ..GOOD
            },
            Refused::OtherBrowser,
        ),
        (
            Answer {
                cookie: Some("other"),
                ..GOOD
            },
            Refused::OtherBrowser,
        ),
        (
            Answer {
                place: "https://vault.example/vault/callback/app/other",
                ..GOOD
            },
            Refused::OtherPlace,
        ),
        (
            Answer {
                place: "https://vault.example/vault/callback",
                ..GOOD
            },
            Refused::OtherPlace,
        ),
    ] {
        // Also when there is a receipt to be shown: it is shown to nobody else.
        for row in [
            &visited,
            &visited.connected(at(2)),
            &exchanging(&visited, at(2)),
        ] {
            assert_eq!(back(row, &answer, at(3)), Err(refused));
        }
    }
    assert_eq!(back(&row(), &GOOD, at(3)), Err(Refused::Unknown));
}

#[test]
fn an_answer_of_another_issuer_ends_the_attempt_and_no_code_is_sent() {
    let ended = |row: &AttemptRow, issuer| {
        let answer = Answer { issuer, ..GOOD };
        match back(row, &answer, at(3)) {
            Ok(Turn::End(next)) => next.status(at(3)),
            Ok(Turn::Exchange(_)) => Status::Working,
            other => panic!("{other:?}"),
        }
    };
    let other = Status::Failed {
        at: at(3),
        why: Failure::OtherIssuer,
    };
    let mut row = visited();
    assert_eq!(ended(&row, Some("https://id.example")), Status::Working);
    assert_eq!(ended(&row, Some("https://evil.example")), other);
    assert_eq!(ended(&row, Some("https://id.example/")), other);
    assert_eq!(ended(&row, None), Status::Working);
    row.visit.as_mut().unwrap().issuer_required = true;
    assert_eq!(ended(&row, None), other);
    row.visit.as_mut().unwrap().issuer = None;
    assert_eq!(ended(&row, Some("https://any.example")), Status::Working);
}

#[test]
fn a_code_is_exchanged_once_and_then_there_is_a_receipt() {
    let visited = visited();
    let begun = exchanging(&visited, at(10));
    assert!(begun.is_exchanged_by(&"p".into()) && !begun.is_exchanged_by(&"q".into()));
    assert_eq!(back(&begun, &GOOD, at(29)), Ok(Turn::Wait));
    // Its process may be dead: nobody takes the code over.
    assert_eq!(back(&begun, &GOOD, at(30)), Ok(Turn::Receipt));
    assert!(matches!(
        begun.status(at(30)),
        Status::Failed {
            why: Failure::Lost(_),
            ..
        }
    ));
    // It lives after all.
    let extended = begun.extended(&"p".into(), TTL, at(40)).unwrap();
    assert_eq!(extended.status(at(59)), Status::Working);
    assert_eq!(begun.extended(&"q".into(), TTL, at(12)), None);
    let done = extended.connected(at(60));
    assert_eq!(back(&done, &GOOD, at(61)), Ok(Turn::Receipt));
    assert_eq!(done.status(at(61)), Status::Connected { at: at(60) });
    assert_eq!(done.extended(&"p".into(), TTL, at(61)), None);
    assert!(done.sealed.is_empty());
    // A denial that comes in addition changes nothing.
    let denied = Answer {
        answered: Answered::Error {
            error: "access_denied".to_owned(),
            description: None,
        },
        ..GOOD
    };
    assert_eq!(back(&done, &denied, at(61)), Ok(Turn::Receipt));
    assert!(matches!(back(&visited, &denied, at(61)), Ok(Turn::End(_))));
    // What comes too late is not exchanged.
    assert_eq!(back(&visited, &GOOD, at(1800)), Ok(Turn::Receipt));
    let expired = Status::Failed {
        at: at(1800),
        why: Failure::Expired,
    };
    assert_eq!(visited.status(at(1800)), expired);
}

#[test]
fn a_confirmation_counts_once_in_time_and_for_its_connection() {
    let begun = exchanging(&visited(), at(10));
    let held = begun.held(Digest::of(&secret("token")), b"held".to_vec(), at(20));
    let key = &held.connection;
    let confirm =
        |row: &AttemptRow, key: &ConnectionKey, token, now| row.confirm(key, &secret(token), now);
    assert_eq!(confirm(&held, key, "token", at(21)), Ok(()));
    assert_eq!(
        confirm(&held, key, "other", at(21)),
        Err(ConfirmRefused::Unknown)
    );
    assert_eq!(
        confirm(&begun, key, "token", at(21)),
        Err(ConfirmRefused::Unknown)
    );
    for other in [
        ConnectionKey::new("other", "cust", "crm", "acme"),
        ConnectionKey::new("app", "other", "crm", "acme"),
        ConnectionKey::new("app", "cust", "other", "acme"),
        ConnectionKey::new("app", "cust", "crm", "other"),
    ] {
        assert_eq!(
            confirm(&held, &other, "token", at(21)),
            Err(ConfirmRefused::Unknown)
        );
    }
    let done = held.connected(at(22));
    assert_eq!(
        confirm(&done, key, "token", at(23)),
        Err(ConfirmRefused::Used)
    );
    let late = at(20 + 1800);
    assert_eq!(
        confirm(&held, key, "token", late),
        Err(ConfirmRefused::Expired)
    );
    let Due::GiveUp(next) = held.due(late) else {
        panic!("it is given up")
    };
    assert!(next.sealed.is_empty());
    assert_eq!(
        confirm(&next, key, "token", late),
        Err(ConfirmRefused::Expired)
    );
}

#[test]
fn a_receipt_is_kept_for_a_day() {
    let visited = visited();
    let day = |row: &AttemptRow, from: StoreTime| {
        assert_eq!(
            row.due(from + RECEIPT_KEPT - Duration::from_millis(1)),
            Due::Nothing
        );
        assert_eq!(row.due(from + RECEIPT_KEPT), Due::Forget);
    };
    day(&visited, at(1800));
    day(&visited.connected(at(20)), at(1800));
    day(&visited.connected(at(2500)), at(2500));
    day(&exchanging(&visited, at(10)), at(30));
}

#[test]
fn a_named_secret_says_whose_it_is() {
    let id = AttemptId::new("abc-_D");
    let made = NamedSecret::new(&id, [7; 32]);
    let read = NamedSecret::read(made.secret.expose()).unwrap();
    assert_eq!((&read.attempt, read.digest()), (&id, made.digest()));
    assert!(!format!("{made:?}").contains(&made.secret.expose()[7..]));
    let long = format!("a.{}", "b".repeat(65));
    for text in [
        "",
        ".",
        "a.",
        ".b",
        "a b.c",
        "a.b.c",
        "a",
        "a.b\u{e9}",
        &long,
    ] {
        assert!(NamedSecret::read(text).is_none(), "{text}");
    }
}

#[test]
fn rows_and_digests_show_no_secret() {
    let shown = format!("{:?}", visited());
    for secret in ["cookie", "ticket", "state\""] {
        assert!(!shown.contains(&format!("\"{secret}\"")), "{shown}");
    }
    let text = serde_json::to_string(&visited()).unwrap();
    assert_eq!(
        serde_json::from_str::<AttemptRow>(&text).unwrap().ticket,
        row().ticket
    );
    assert!(!text.contains("sealed"), "{text}");
}
