//! Large bodies: what arrives is compared, not only counted.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::task::TaskTracker;

use crate::{
    harness::{APP, CONSUMER},
    played::{Peer, Played, WAYS, both},
    wire::{Kind, Message},
};

const LENGTH: usize = 3_000_001;

/// A body of which no part is like another: a counter.
fn counted(length: usize) -> Vec<u8> {
    let numbers = (0_u64..).flat_map(u64::to_be_bytes);
    numbers.take(length).collect()
}

fn hash(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

fn chunked(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in bytes.chunks(size) {
        all.extend(format!("{:x}\r\n", piece.len()).bytes());
        all.extend(piece);
        all.extend(b"\r\n");
    }
    all.extend(b"0\r\n\r\n");
    all
}

/// The API: `/length`, `/chunks` and `/end` send the counter, everything else tells the hash of what
/// it got, or that it did not get all.
async fn serve(mut api: Peer) {
    let body = counted(LENGTH);
    while let Ok(request) = api.reader.message(Kind::Request).await {
        let path = request.first.split(' ').nth(1).unwrap().to_owned();
        let (head, body) = match &*path {
            "/length" => (format!("Content-Length: {LENGTH}"), body.clone()),
            "/chunks" => (
                "Transfer-Encoding: chunked".to_owned(),
                chunked(&body, 9_999),
            ),
            "/end" => ("Connection: close".to_owned(), body.clone()),
            _ if request.whole => {
                let hash = hash(&request.body);
                (format!("Content-Length: {}", hash.len()), hash.into_bytes())
            }
            _ => return,
        };
        api.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
        api.send(body).await;
        if path == "/end" {
            return;
        }
    }
}

/// Serves all that the server sends to the API, until it is dropped.
async fn serve_all(played: &Played) {
    let connections = TaskTracker::new();
    loop {
        connections.spawn(serve(played.accept_whenever().await));
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Http2 = Client<HttpConnector, Body>;

/// Asks over HTTP/2: the status, and the body unless it is cut off.
async fn over_http2(
    played: &Played,
    client: &Http2,
    method: &str,
    path: &str,
    body: Body,
) -> (u16, Option<Bytes>) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{}/proxy", played.server.url))
        .header("authorization", format!("Bearer {}", played.server.key))
        .header("x-apideck-app-id", APP)
        .header("x-apideck-consumer-id", CONSUMER)
        .header("x-apideck-service-id", "sandbox")
        .header("x-apideck-unified-api", "accounting")
        .header("x-apideck-downstream-url", path)
        .body(body)
        .unwrap();
    let answer = client.request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await;
    (status, body.ok().map(http_body_util::Collected::to_bytes))
}

fn http2() -> Http2 {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

/// A body whose length nobody knows before its end.
fn in_frames(bytes: &[u8], size: usize) -> Body {
    let frames: Vec<_> = bytes
        .chunks(size)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_arrive_byte_for_byte() {
    both(&[], "", async |played| large_answers(&played).await).await;
}

async fn large_answers(played: &Played) {
    let expected = hash(&counted(LENGTH));
    let asking = async {
        let client = http2();
        for path in ["/length", "/chunks", "/end"] {
            for way in WAYS {
                let mut call = played.call().await;
                call.send(played.get(path, way)).await;
                let answer = call.answer().await;
                let got = (answer.status(), answer.whole, hash(&answer.body));
                assert_eq!(got, (200, true, expected.clone()), "{path} {way:?}");
            }
            let (status, body) =
                over_http2(played, &client, "GET", path, Full::default().boxed_unsync()).await;
            let got = (status, hash(&body.unwrap()));
            assert_eq!(got, (200, expected.clone()), "{path} over HTTP/2");
        }
    };
    tokio::select! {
        () = asking => {}
        () = serve_all(played) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_arrive_byte_for_byte() {
    both(&[], "", async |played| large_uploads(&played).await).await;
}

async fn large_uploads(played: &Played) {
    let body = counted(LENGTH);
    let expected = hash(&body);
    let length = format!("Content-Length: {LENGTH}");
    let asking = async {
        let client = http2();
        for method in ["PUT", "POST"] {
            for way in WAYS {
                for (framing, bytes) in [
                    (&*length, body.clone()),
                    ("Transfer-Encoding: chunked", chunked(&body, 12_345)),
                ] {
                    let mut call = played.call().await;
                    let lines = [way, &[framing]].concat();
                    call.send(played.head(method, "/hash", &lines)).await;
                    call.send(bytes).await;
                    let answer = call.answer().await;
                    let got = (answer.status(), String::from_utf8(answer.body).unwrap());
                    assert_eq!(got, (200, expected.clone()), "{method} {lines:?}");
                }
            }
            let whole = Full::new(Bytes::from(body.clone())).boxed_unsync();
            for body in [whole, in_frames(&body, 54_321)] {
                let (status, got) = over_http2(played, &client, method, "/hash", body).await;
                assert_eq!(
                    (status, got.unwrap()),
                    (200, expected.clone().into()),
                    "{method}"
                );
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = serve_all(played) => {}
    }
}

/// What the caller sends before and after the API has said that it will have no more.
#[derive(Clone, Copy, Debug)]
enum Upload {
    Length,
    Chunks,
    Http2,
}

/// An API that answers in the middle of an upload may be asked again only with all of it. The first
/// part is within what is kept for a second try, all of it is not.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_answered_early_is_not_sent_again_without_its_beginning() {
    both(&[], "", async |played| {
        for upload in [Upload::Length, Upload::Chunks, Upload::Http2] {
            for status in [503, 429] {
                // While the next try is still far, or near, or under way.
                for pause in [8, 60, 300] {
                    answered_early(&played, upload, status, pause).await;
                }
            }
        }
    })
    .await;
}

async fn answered_early(played: &Played, upload: Upload, status: u16, pause: u64) {
    let body = counted(420_000);
    let (first, rest) = body.split_at(250_000);
    let (second, third) = rest.split_at(20_000);
    let mut requests: Vec<Message> = Vec::new();
    let early = Arc::new(Notify::new());
    let calling = async {
        let pauses = [(second, pause), (third, 400)];
        if matches!(upload, Upload::Http2) {
            let mut pieces = vec![(first, 0)];
            pieces.extend(pauses);
            let pieces: Vec<_> = pieces
                .into_iter()
                .map(|(piece, pause)| (Bytes::copy_from_slice(piece), pause))
                .collect();
            let early = early.clone();
            let body = stream::unfold(pieces.into_iter(), move |mut pieces| {
                let early = early.clone();
                async move {
                    let (piece, pause) = pieces.next()?;
                    if pieces.len() == 1 {
                        early.notified().await;
                    }
                    sleep(Duration::from_millis(pause)).await;
                    Some((Ok(Frame::data(piece)), pieces))
                }
            });
            let body = StreamBody::new(Box::pin(body)).boxed_unsync();
            let (status, body) = over_http2(played, &http2(), "PUT", "/hash", body).await;
            return (status, body.unwrap_or_default().to_vec());
        }
        let framing = match upload {
            Upload::Length => "Content-Length: 420000",
            _ => "Transfer-Encoding: chunked",
        };
        let coded = |piece: &[u8]| match upload {
            Upload::Length => piece.to_vec(),
            _ => {
                let mut coded = chunked(piece, piece.len());
                coded.truncate(coded.len() - 5);
                coded
            }
        };
        let mut call = played.call().await;
        call.send(played.head("PUT", "/hash", &[framing])).await;
        call.send(coded(first)).await;
        early.notified().await;
        for (piece, pause) in pauses {
            sleep(Duration::from_millis(pause)).await;
            call.send(coded(piece)).await;
        }
        if matches!(upload, Upload::Chunks) {
            call.send("0\r\n\r\n").await;
        }
        let answer = call.answer().await;
        (answer.status(), answer.body)
    };
    let answering = async {
        let mut api = played.accept_whenever().await;
        api.reader.fill(240_000).await.unwrap();
        api.send(format!(
            "HTTP/1.1 {status} Later\r\nContent-Length: 5\r\n\r\nlater"
        ))
        .await;
        early.notify_one();
        loop {
            let mut next = played.accept_whenever().await;
            let Ok(request) = next.reader.message(Kind::Request).await else {
                continue;
            };
            let hash = if request.whole {
                hash(&request.body)
            } else {
                String::new()
            };
            requests.push(request);
            next.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{hash}",
                hash.len()
            ))
            .await;
        }
    };
    let (got, answered) = tokio::select! {
        answer = calling => answer,
        never = answering => match never {},
    };
    let whole = hash(&body);
    let what = format!(
        "{upload:?} {status} {pause}: {} requests more",
        requests.len()
    );
    for request in requests.iter().filter(|request| request.whole) {
        assert_eq!(
            hash(&request.body),
            whole,
            "{what}: {} bytes",
            request.body.len()
        );
    }
    match got {
        200 => assert_eq!(String::from_utf8(answered).unwrap(), whole, "{what}"),
        other => {
            let answered = String::from_utf8_lossy(&answered);
            assert_eq!((other, &*answered), (status, "later"), "{what}");
        }
    }
}
