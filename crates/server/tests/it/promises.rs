//! What the gateway promises beyond passing things on, one test for each promise: nothing is cut
//! without being seen, nobody is kept waiting for nobody, and a request is decided once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Method;
use tokenward_testkit::sandbox::{Fault, SandboxConfig};
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};

use crate::{
    harness::{CONSUMER, HOUR, import_text},
    played::{PATIENCE, Peer, Played, WAYS, both},
    wire::{Kind, NoMessage},
};

/// `{"Detail":"AuthorizationUnsuccessful"}` in gzip.
const NO_RIGHT_IN_GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x72\x49\x2d\x49\xcc\xcc\x51\xb2\x52\x72\x2c\x2d\xc9\xc8\x2f\xca\xac\x4a\x2c\xc9\xcc\xcf\x0b\xcd\x2b\x2e\x4d\x4e\x4e\x2d\x2e\x4e\x2b\xcd\x51\xaa\x05\x00\x0d\x16\xf5\xc0\x26\x00\x00\x00";

/// An API that tells in a 401's body whether the token has expired.
const SIGNALS: &str = r#"
[[api.signals]]
status = 401
pointer = "/Detail"
contains = "AuthorizationUnsuccessful"
means = "not_expired"
[[api.signals]]
status = 200
pointer = "/error"
starts_with = "expired"
means = "expired"
"#;

/// The same of an API whose errors are text.
const TEXT_SIGNAL: &str = r#"
[[api.signals]]
status = 401
contains = "AuthorizationUnsuccessful"
means = "not_expired"
"#;

fn with_length(status: &str, lines: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

// --- uploads ------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_moves_puts_the_deadline_off_for_all_that_follows() {
    both(&["--request-timeout", "1"], "", async |played| {
        let mut call = played.call().await;
        let head = played.head("PUT", "/long", &["Content-Length: 40000"]);
        call.send(head).await;
        let sending = async {
            // Far longer than the deadline in all.
            for _ in 0..8 {
                sleep(Duration::from_millis(400)).await;
                call.send("x".repeat(5000)).await;
            }
        };
        let answering = async {
            let mut api = played.accept().await;
            assert_eq!(api.request().await.body.len(), 40_000);
            // What follows a rejected token has its time, too.
            api.send(with_length(
                "401 Unauthorized",
                "Connection: close\r\n",
                "expired",
            ))
            .await;
            let mut api = played.accept().await;
            assert_eq!(api.request().await.body.len(), 40_000);
            api.send(with_length("200 OK", "", "done")).await;
        };
        tokio::join!(sending, answering);
        let answer = call.answer().await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"done"[..]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stops_ends_with_the_deadline() {
    both(&["--request-timeout", "1"], "", async |played| {
        let mut call = played.call().await;
        let head = played.head("PUT", "/long", &["Content-Length: 40000"]);
        call.send(head).await;
        call.send("x".repeat(5000)).await;
        let api = played.accept().await;
        assert_eq!(call.answer().await.status(), 504);
        drop(api);
    })
    .await;
}

// --- who leaves ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_after_the_head_ends_the_answer() {
    both(&[], "", async |played| {
        for way in WAYS {
            for framing in [
                "Content-Length: 100000",
                "Transfer-Encoding: chunked",
                "X-A: b",
            ] {
                let mut call = played.call().await;
                call.send(played.get("/stream", way)).await;
                let mut api = played.accept().await;
                api.request().await;
                api.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))
                    .await;
                if framing.starts_with('T') {
                    api.send("5\r\nfirst\r\n").await;
                } else {
                    api.send("first").await;
                }
                // The head and the beginning have arrived.
                call.reader.until(b"first").await.unwrap();
                drop(call);
                api.gone().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_a_silent_event_stream_leave_nothing_open() {
    both(&[], "", async |played| {
    let process = played.server.child.id().unwrap();
    let open = || {
        let all = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        all.count()
    };
    let before = open();
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut call = played.call().await;
        call.send(played.get("/events", &[])).await;
        let mut api = played.accept().await;
        api.request().await;
        api.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        call.reader.until(b"\r\n\r\n").await.unwrap();
        streams.push((call, api));
    }
    assert!(open() >= before + 70);
    for (call, mut api) in streams {
        drop(call);
        api.gone().await;
    }
    let returned = async {
        while open() > before + 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, returned)
        .await
        .expect("descriptors return");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_passed_on_as_it_comes_whatever_signals_there_are() {
    both(&[], SIGNALS, async |played| {
    for way in WAYS {
        let mut call = played.call().await;
        call.send(played.get("/events", way)).await;
        let mut api = played.accept().await;
        api.request().await;
        api.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n").await;
        // The API says no more until this has arrived.
        call.reader.until(b"data: 1\n\n").await.unwrap();
        api.send("0\r\n\r\n").await;
    }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_everything() {
    both(&[], "", async |played| {
        let body: Vec<u8> = (0_u32..500_000).flat_map(u32::to_be_bytes).collect();
        for way in WAYS {
            let mut call = played.call().await;
            call.send(played.get("/long", way)).await;
            let mut api = played.accept().await;
            api.request().await;
            let sending = async {
                api.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                ))
                .await;
                api.send(&body).await;
            };
            let reading = async {
                for part in 1..20 {
                    call.reader.fill(part * 20_000).await.unwrap();
                    sleep(Duration::from_millis(10)).await;
                }
                call.answer().await
            };
            let ((), answer) = tokio::join!(sending, reading);
            assert!(answer.whole && answer.body == body, "{way:?}");
        }
    })
    .await;
}

// --- what is cut --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_shows_its_status_and_that_it_is_cut() {
    both(&["--retries", "0"], SIGNALS, async |played| {
        for way in WAYS {
            for (status, start) in [
                ("200 OK", "Content-Length: 10\r\n\r\nshort"),
                ("200 OK", "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
                ("404 No", "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
                ("500 Oh", "Content-Length: 10\r\n\r\nshort"),
            ] {
                let mut call = played.call().await;
                call.send(played.get("/cut", way)).await;
                let mut api = played.accept().await;
                api.request().await;
                api.send(format!("HTTP/1.1 {status}\r\n{start}")).await;
                drop(api);
                let answer = call.answer().await;
                assert_eq!(&status[..3], answer.status().to_string(), "{way:?}");
                assert!(
                    !answer.whole && answer.body == b"short",
                    "{way:?} {start:?}: {answer:?}"
                );
            }
        }
    })
    .await;
}

/// Its beginning is looked at, to see whether the token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_that_was_looked_into_is_cut_for_its_caller() {
    both(&["--retries", "0"], SIGNALS, async |played| {
    for way in WAYS {
        for start in [
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "Transfer-Encoding: chunked\r\n\r\n27\r\n{\"Detail\":\"AuthorizationUnsuccessful\"} \r\n",
            "Content-Length: 50\r\n\r\n{\"Detail\":\"AuthorizationUnsuccessful\"}",
        ] {
            let mut call = played.call().await;
            call.send(played.get("/cut", way)).await;
            // A token that the provider has just given is not refreshed again: one try or two.
            let playing = async {
                loop {
                    let mut api = played.accept_whenever().await;
                    api.request().await;
                    api.send(format!("HTTP/1.1 401 No\r\n{start}")).await;
                }
            };
            let answer = tokio::select! {
                answer = call.try_answer() => answer,
                never = playing => never,
            };
            // A 401 that is cut, or word that the API has failed; never a 401 that looks whole.
            let seen_to_be_cut = match &answer {
                Ok(answer) => !answer.whole || answer.status() == 502,
                Err(none) => *none == NoMessage::Closed,
            };
            assert!(seen_to_be_cut, "{way:?} {start:?}: {answer:?}");
        }
    }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_answer_that_was_looked_into_keeps_its_beginning() {
    both(&["--retries", "0"], TEXT_SIGNAL, async |played| {
        let body = format!(
            "{{\"Detail\":\"AuthorizationUnsuccessful\",\"more\":\"{}\"}}",
            "m".repeat(200)
        );
        for way in WAYS {
            let mut call = played.call().await;
            let lines = [way, &["x-apideck-timeout: 1000"]].concat();
            call.send(played.get("/stalls", &lines)).await;
            let playing = async {
                let mut api = played.accept_whenever().await;
                api.request().await;
                api.send(format!(
                    "HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{}",
                    body.len(),
                    &body[..100]
                ))
                .await;
                sleep(Duration::from_millis(1500)).await;
                api.send(&body[100..]).await;
                api
            };
            let (answer, _api) = tokio::join!(call.try_answer(), playing);
            let answer = answer.unwrap();
            let got = (answer.status(), answer.whole, &*answer.body);
            assert_eq!(got, (401, true, body.as_bytes()), "{way:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_length_and_chunks_passes_whole() {
    both(&[], "", async |played| {
    let large = format!("Content-Length: {}", 40_000);
    for way in WAYS {
        for length in [3, 5, 5000] {
            for (method, lines, body) in [
                ("GET", way.to_vec(), String::new()),
                ("POST", [way, &[&*large]].concat(), "b".repeat(40_000)),
            ] {
                let mut call = played.call().await;
                call.send(played.head(method, "/both", &lines) + &body)
                    .await;
                let mut api = played.accept().await;
                api.request().await;
                api.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n")).await;
                let answer = call.answer().await;
                let got = (answer.status(), answer.whole, &*answer.body);
                assert_eq!(got, (200, true, &b"hello"[..]), "{lines:?} {length}");
            }
        }
    }
    })
    .await;
}

// --- what is decided ----------------------------------------------------------------------------

/// Waits until the server answers a request with one of these statuses: until it has heard of a change.
async fn heard(played: &Played, statuses: &[u16]) {
    let known = async {
        loop {
            let call = played.server.proxy(Method::GET, "/probe");
            let answer = call.header("x-apideck-timeout", "1000").send().await;
            if statuses.contains(&answer.status.as_u16()) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let playing = async {
        loop {
            let mut api = played.accept_whenever().await;
            if api.reader.message(Kind::Request).await.is_ok() {
                api.send(with_length("200 OK", "Connection: close\r\n", ""))
                    .await;
            }
        }
    };
    tokio::select! {
        known = timeout(PATIENCE, known) => known.expect("the change is heard of"),
        () = playing => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_answered_although_the_connection_was_switched_off_meanwhile() {
    let answers = [
        with_length("201 Created", "", "made"),
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmade\r\n0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 201 Created\r\nConnection: close\r\n\r\nmade".to_owned(),
        // A status that is looked at twice.
        with_length("503 Later", "", "made"),
    ];
    both(&[], "", async |played| {
        for (way, text) in WAYS
            .into_iter()
            .flat_map(|way| answers.iter().map(move |text| (way, text)))
        {
            played
                .vault
                .run(&["connections", "set", "acme/sandbox", "--enabled", "true"]);
            heard(&played, &[200]).await;
            // At once, while the key is known: then it is sent without a question to anybody.
            let mut call = played.call().await;
            let lines = [way, &["Content-Length: 4"]].concat();
            call.send(played.head("POST", "/make", &lines) + "body")
                .await;
            let mut api = played.accept().await;
            api.request().await;
            played
                .vault
                .run(&["connections", "set", "acme/sandbox", "--enabled", "false"]);
            heard(&played, &[404, 422]).await;
            api.send(text).await;
            drop(api);
            let answer = call.answer().await;
            let got = (answer.status().to_string(), answer.whole, &*answer.body);
            let expected = (text[9..12].to_owned(), true, &b"made"[..]);
            assert_eq!(got, expected, "{way:?} {text:?}");
        }
    })
    .await;
}

/// Versions of different grants cannot be compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_401_for_the_token_of_a_deleted_grant_refreshes_the_next_one_at_most_once() {
    both(&[], "", async |played| {
        for _ in 0..10 {
            let validated = played.server.call(
                Method::POST,
                "/vault/connections/accounting/sandbox/validate",
            );
            assert_eq!(validated.send().await.status, 200);
        }
        let mut call = played.call().await;
        call.send(played.get("/slow", &[])).await;
        let mut api = played.accept().await;
        api.request().await;
        let deleted = played
            .server
            .call(Method::DELETE, "/vault/connections/accounting/sandbox");
        assert!(deleted.send().await.status.is_success());
        let client = tokenward_testkit::sandbox::SandboxConfig::default().client_id;
        let tokens = played.sandbox.issue_expiring(&client, HOUR);
        played
            .vault
            .import_text("acme/sandbox", &import_text(&tokens, HOUR));
        let before = played.sandbox.books().total.refresh_requests;
        let asked_again = AtomicUsize::new(0);
        api.send(with_length("401 No", "Connection: close\r\n", "nope"))
            .await;
        let playing = async {
            loop {
                let mut api = played.accept_whenever().await;
                api.request().await;
                asked_again.fetch_add(1, Ordering::Relaxed);
                api.send(with_length("401 No", "Connection: close\r\n", "nope"))
                    .await;
            }
        };
        let answer = tokio::select! {
            answer = call.answer() => answer,
            never = playing => never,
        };
        assert!([401, 404].contains(&answer.status()), "{answer:?}");
        let refreshes = played.sandbox.books().total.refresh_requests - before;
        assert!(refreshes <= 1, "{refreshes} refreshes");
        assert!(asked_again.into_inner() <= 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_is_understood_in_gzip_too() {
    both(&[], SIGNALS, async |played| {
    for (number, way) in WAYS.into_iter().enumerate() {
        let lines = [way, &["Accept-Encoding: gzip, br"]].concat();
        let mut call = played.call().await;
        call.send(played.get("/no-right", &lines)).await;
        let mut api = played.accept().await;
        api.request().await;
        api.send(format!("HTTP/1.1 401 No\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", NO_RIGHT_IN_GZIP.len())).await;
        api.send(NO_RIGHT_IN_GZIP).await;
        let answer = call.answer().await;
        let got = (
            answer.status(),
            answer.header("content-encoding"),
            &*answer.body,
        );
        assert_eq!(got, (401, "gzip", NO_RIGHT_IN_GZIP), "{number}");
    }
    assert_eq!(played.sandbox.books().total.refresh_requests, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_that_is_a_date_is_not_now() {
    both(&[], "", async |played| {
        for way in WAYS {
            let mut call = played.call().await;
            call.send(played.get("/throttled", way)).await;
            let mut api = played.accept().await;
            api.request().await;
            let wish = "Retry-After: Fri, 01 Jan 2038 00:00:00 GMT\r\n";
            api.send(with_length(
                "429 Slow",
                &format!("Connection: close\r\n{wish}"),
                "slow",
            ))
            .await;
            let answer = call.answer().await;
            assert_eq!(
                (answer.status(), answer.header("retry-after")),
                (429, "Fri, 01 Jan 2038 00:00:00 GMT"),
                "{way:?}"
            );
            assert!(!played.would_accept().await, "{way:?}");
        }
    })
    .await;
}

// --- what is refused ----------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_no_url_is_answered() {
    both(&[], "", async |played| {
        for target in ["/<a>", "/proxy?q=\"", "/proxy?<", "/proxy?{", "/\\"] {
            let mut call = played.call().await;
            let request = played.get("/x", &[]);
            call.send(request.replacen("/proxy", target, 1)).await;
            let playing = async {
                let mut api = played.accept_whenever().await;
                api.request().await;
                api.send(with_length("200 OK", "Connection: close\r\n", ""))
                    .await;
                std::future::pending::<()>().await;
            };
            let answer = tokio::select! {
                answer = call.try_answer() => answer,
                () = playing => unreachable!(),
            };
            let status = answer.expect("there is an answer").status();
            assert!([200, 400, 404].contains(&status), "{target}: {status}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_and_connect_are_refused_with_an_answer() {
    both(&[], "", async |played| {
        for (method, line) in [
            ("TRACE", "X-A: b"),
            ("CONNECT", "X-A: b"),
            ("GET", "x-apideck-downstream-method: TRACE"),
            ("POST", "x-apideck-downstream-method: CONNECT"),
        ] {
            for way in WAYS {
                let mut call = played.call().await;
                let lines = [way, &[line]].concat();
                call.send(played.head(method, "/x", &lines)).await;
                let status = call.answer().await.status();
                assert!([400, 405].contains(&status), "{method} {lines:?}: {status}");
                assert!(!played.would_accept().await, "{method} {lines:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_spoilt_is_its_own_fault() {
    both(&[], "", async |played| {
        for spoilt in [
            "x\r\nhello\r\n0\r\n\r\n".to_owned(),
            "5\r\nhelloX\r\n0\r\n\r\n".to_owned(),
            "5\r\nhello\r\n0\r\nno trailer\r\n\r\n".to_owned(),
            format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(100_000)),
            format!("5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "t".repeat(200_000)),
        ] {
            let mut call = played.call().await;
            call.send(played.head("POST", "/x", &["Transfer-Encoding: chunked"]) + &spoilt)
                .await;
            let playing = async {
                loop {
                    let mut api = played.accept_whenever().await;
                    if let Ok(request) = api.reader.message(Kind::Request).await {
                        assert!(!request.whole, "{request:?}");
                    }
                }
            };
            let answer = tokio::select! {
                answer = call.answer() => answer,
                never = playing => never,
            };
            let text = String::from_utf8_lossy(&answer.body);
            assert!(
                [400, 413, 431].contains(&answer.status()),
                "{}: {text}",
                &spoilt[..20.min(spoilt.len())]
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_is_answered_here_and_goes_no_further() {
    both(&[], "", async |played| {
        for way in WAYS {
            let mut call = played.call().await;
            let lines = [way, &["Content-Length: 4", "Expect: 100-continue"]].concat();
            call.send(played.head("POST", "/x", &lines)).await;
            let interim = call.reader.message(Kind::Answer).await.unwrap();
            assert_eq!(interim.status(), 100, "{way:?}");
            call.send("body").await;
            let mut api = played.accept().await;
            let request = api.request().await;
            assert!(
                !request.headers.contains_key("expect"),
                "{way:?}: {request:?}"
            );
            assert_eq!(request.body, b"body");
            api.send(with_length("200 OK", "Connection: close\r\n", "ok"))
                .await;
            assert_eq!(call.answer().await.body, b"ok");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_codings_that_nobody_here_knows_are_refused() {
    both(&[], "", async |played| {
        for coding in ["gzip, chunked", "cow, chunked", "cow", "chunked, chunked"] {
            let mut call = played.call().await;
            let line = format!("Transfer-Encoding: {coding}");
            call.send(played.head("POST", "/x", &[&line]) + "4\r\nbody\r\n0\r\n\r\n")
                .await;
            let status = call.answer().await.status();
            assert!([400, 501].contains(&status), "{coding}: {status}");
            assert!(!played.would_accept().await, "{coding}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_have_an_end() {
    both(&["--retries", "0"], "", async |played| {
        for way in WAYS {
            let mut call = played.call().await;
            call.send(played.get("/interim", way)).await;
            let mut api = played.accept().await;
            api.request().await;
            let endless = async {
                let interim = INTERIM.repeat(50);
                while api.writer.write_all(interim.as_bytes()).await.is_ok() {}
            };
            let (answer, ended) = tokio::join!(call.answer(), timeout(PATIENCE, endless));
            ended.expect("the connection is closed");
            assert_eq!(answer.status(), 502, "{way:?}");
        }
    })
    .await;
}

const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_put_no_deadline_off() {
    let options = ["--retries", "0", "--request-timeout", "2"];
    both(&options, "", async |played| {
        for way in &WAYS[..2] {
            let mut call = played.call().await;
            call.send(played.get("/interim", way)).await;
            let mut api = played.accept().await;
            api.request().await;
            let now_and_then = async {
                while api.writer.write_all(INTERIM.as_bytes()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let (answer, ended) = tokio::join!(call.answer(), timeout(PATIENCE, now_and_then));
            ended.expect("the connection is closed");
            assert_eq!(answer.status(), 504, "{way:?}");
        }
    })
    .await;
}

/// An API of that kind knows callers by their connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_an_api_has_authenticated_is_nobody_elses() {
    both(&[], "", async |played| {
        for way in WAYS {
            for (line, answer) in [
                (
                    "x-apideck-downstream-authorization: NTLM TlRMTVNTUAAB",
                    with_length("200 OK", "", "you"),
                ),
                (
                    "x-apideck-downstream-authorization: Negotiate YII=",
                    with_length("200 OK", "", "you"),
                ),
                (
                    "X-A: b",
                    with_length("407 No", "Proxy-Authenticate: Negotiate\r\n", "no"),
                ),
            ] {
                let mut call = played.call().await;
                let lines = [way, &[line]].concat();
                call.send(played.get("/x", &lines)).await;
                let mut first = played.accept().await;
                first.request().await;
                first.send(&answer).await;
                call.answer().await;
                // Not on the same one.
                let mut call = played.call().await;
                call.send(played.get("/y", &[])).await;
                let mut second = timeout(PATIENCE, played.accept_whenever())
                    .await
                    .expect("a connection of its own");
                second.request().await;
                second
                    .send(with_length("200 OK", "Connection: close\r\n", "other"))
                    .await;
                assert_eq!(call.answer().await.body, b"other", "{lines:?}");
            }
        }
    })
    .await;
}

// --- what SDKs send and expect ------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_named_in_latin_1_is_the_same_as_in_utf_8() {
    both(&[], "", async |played| {
        let client = tokenward_testkit::sandbox::SandboxConfig::default().client_id;
        let tokens = played.sandbox.issue_expiring(&client, HOUR);
        played.vault.import("zoé/sandbox", &tokens, HOUR);
        for way in WAYS {
            for name in [&b"zo\xe9"[..], "zoé".as_bytes()] {
                let request = played.get("/x", way).into_bytes();
                let header = b"x-apideck-consumer-id: ";
                let at = request
                    .windows(header.len())
                    .position(|part| part == header)
                    .unwrap()
                    + header.len();
                let mut bytes = request[..at].to_vec();
                bytes.extend(name);
                bytes.extend(&request[at + "acme".len()..]);
                let mut call = played.call().await;
                call.send(bytes).await;
                let playing = async {
                    let mut api = played.accept_whenever().await;
                    api.request().await;
                    api.send(with_length("200 OK", "Connection: close\r\n", "ok"))
                        .await;
                    std::future::pending::<()>().await;
                };
                let answer = tokio::select! {
                    answer = call.answer() => answer,
                    () = playing => unreachable!(),
                };
                assert_eq!(
                    answer.status(),
                    200,
                    "{name:?} {way:?}: {}",
                    String::from_utf8_lossy(&answer.body)
                );
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn braces_in_a_url_that_name_no_setting_are_braces() {
    both(&[], "", async |played| {
        for way in WAYS {
            let mut call = played.call().await;
            call.send(played.get("/x?filter={\"a\":1}&t={settings.nothing}", way))
                .await;
            let playing = async {
                let mut api = played.accept_whenever().await;
                let request = api.request().await;
                api.send(with_length(
                    "200 OK",
                    "Connection: close\r\n",
                    &request.first,
                ))
                .await;
                std::future::pending::<()>().await;
            };
            let answer = tokio::select! {
                answer = call.answer() => answer,
                () = playing => unreachable!(),
            };
            // A setting that is not there is another matter.
            assert_eq!(answer.status(), 400, "{way:?}");
            let mut call = played.call().await;
            call.send(played.get("/x?filter={\"a\":1}", way)).await;
            let mut api = played.accept().await;
            let request = api.request().await;
            let target = request.first.split(' ').nth(1).unwrap();
            let plain = target
                .replace("%7B", "{")
                .replace("%7D", "}")
                .replace("%22", "\"");
            assert_eq!(plain, "/x?filter={\"a\":1}", "{way:?}");
            api.send(with_length("200 OK", "Connection: close\r\n", "ok"))
                .await;
            assert_eq!(call.answer().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_location_is_made_absolute() {
    both(&[], "", async |played| {
        for way in WAYS {
            for (method, status) in [
                ("GET", "302 Found"),
                ("POST", "303 See Other"),
                ("POST", "201 Created"),
            ] {
                for (location, absolute) in [
                    ("/y?a=1", format!("{}/y?a=1", played.base)),
                    ("z", format!("{}/x/z", played.base)),
                    (
                        "https://elsewhere.example/q",
                        "https://elsewhere.example/q".to_owned(),
                    ),
                ] {
                    let mut call = played.call().await;
                    call.send(played.head(method, "/x/here", way)).await;
                    let mut api: Peer = played.accept().await;
                    api.request().await;
                    let lines = format!("Connection: close\r\nLocation: {location}\r\n");
                    api.send(with_length(status, &lines, "")).await;
                    let answer = call.answer().await;
                    assert_eq!(
                        answer.header("location"),
                        absolute,
                        "{method} {status} {way:?}"
                    );
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_redirect_a_relative_location_is_relative_to_where_it_led() {
    both(&[], "", async |played| {
        let mut call = played.call().await;
        let lines = ["x-apideck-follow-redirects: true"];
        call.send(played.get("/a/here", &lines)).await;
        for (path, answer) in [
            ("/a/here", "302 Found\r\nLocation: /b/there"),
            ("/b/there", "200 OK\r\nContent-Location: this"),
        ] {
            let mut api = played.accept().await;
            assert_eq!(api.request().await.first.split(' ').nth(1), Some(path));
            let ending = "Connection: close\r\nContent-Length: 0\r\n\r\n";
            api.send(format!("HTTP/1.1 {answer}\r\n{ending}")).await;
        }
        let answer = call.answer().await;
        let expected = format!("{}/b/this", played.base);
        assert_eq!(answer.header("content-location"), expected);
    })
    .await;
}

// --- who waits for a token ----------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_refresh_connects_to_the_api_meanwhile() {
    both(&[], "", async |played| {
        let client = SandboxConfig::default().client_id;
        let moment = Duration::from_millis(10);
        let tokens = played.sandbox.issue_expiring(&client, moment);
        played.vault.import("late/sandbox", &tokens, HOUR);
        sleep(2 * moment).await;
        played.sandbox.inject(Fault::HangBeforeRotation, 1);
        let of_late = format!("x-apideck-consumer-id: {CONSUMER}");
        let get = played
            .get("/late", &[])
            .replace(&of_late, "x-apideck-consumer-id: late");
        let mut calls = Vec::new();
        for _ in 0..3 {
            let mut call = played.call().await;
            call.send(&get).await;
            calls.push(call);
        }
        // While the provider thinks: one connection for each.
        let mut apis = Vec::new();
        for _ in &calls {
            apis.push(played.accept().await);
        }
        assert!(!played.would_accept().await);
        assert_eq!(played.sandbox.books().total.refreshes_granted, 0);
        played.sandbox.release();
        for api in &mut apis {
            let request = api.request().await;
            let authorization = request.header("authorization");
            assert!(!authorization.contains(&tokens.access_token));
            api.send(with_length("200 OK", "", "done")).await;
        }
        for call in &mut calls {
            assert_eq!(call.answer().await.status(), 200);
        }
        assert!(!played.would_accept().await);
        assert_eq!(played.sandbox.books().total.refreshes_granted, 1);
    })
    .await;
}
