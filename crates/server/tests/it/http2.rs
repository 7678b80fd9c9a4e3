//! HTTP/2 callers, mostly unkind ones, and how many requests there may be at once.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    harness::{APP, CONSUMER, dial},
    hostile::World,
    played::{FOR_A_FLOOD, HTTP, PATIENCE, Peer, Played, both},
};

/// A caller over HTTP/2 that takes in as much as it reads, and leaves no room for more.
struct Caller {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Caller {
    async fn of(played: &Played) -> Self {
        let (sender, connection) = handshake(played).await;
        Self {
            sender,
            // It answers pings as well.
            connection: TaskTracker::new().spawn(async {
                let _ = connection.await;
            }),
        }
    }

    /// Begins a request; `ended`: it has no body.
    async fn send(&mut self, request: Request<()>, ended: bool) -> (ResponseFuture, Body) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        sender.send_request(request, ended).unwrap()
    }

    async fn leave(self) {
        drop(self.sender);
        self.connection.abort();
        let _ = self.connection.await;
    }
}

type Body = h2::SendStream<Bytes>;

async fn handshake(played: &Played) -> (SendRequest<Bytes>, Connection<TcpStream>) {
    let address = played.server.url.strip_prefix("http://").unwrap();
    let stream = dial(address).await.unwrap();
    let mut builder = Builder::new();
    // One stream alone cannot take the room from all.
    builder.initial_connection_window_size(16 * 1024 * 1024);
    builder.handshake(stream).await.unwrap()
}

fn request(played: &Played, method: Method, path: &str) -> Request<()> {
    let url = format!("{}/proxy", played.server.url);
    let key = format!("Bearer {}", played.server.key);
    Request::builder()
        .method(method)
        .uri(url)
        .header("authorization", key)
        .header("x-apideck-app-id", APP)
        .header("x-apideck-consumer-id", CONSUMER)
        .header("x-apideck-service-id", "sandbox")
        .header("x-apideck-unified-api", "accounting")
        .header("x-apideck-downstream-url", path)
        .body(())
        .unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("{what} takes too long"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_room_is_reset_and_no_other_is_harmed() {
    for http in HTTP {
        let options = ["--http", http, "--write-timeout", "1"];
        let world = World::of(Played::new(&options, "").await);
        let mut caller = Caller::of(&world.played).await;
        let (answer, _) = caller
            .send(request(&world.played, Method::GET, "/long"), true)
            .await;
        let mut api = world.played.accept().await;
        api.request().await;
        api.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await;
        let sending = async { while api.writer.write_all(&[b'x'; 100_000]).await.is_ok() {} };
        let taking = async {
            let mut body = answer.await.unwrap().into_body();
            // No room is given back for what is taken.
            while let Some(Ok(_)) = body.data().await {}
            body.data().await
        };
        let ((), _) = tokio::join!(
            soon("closing the connection to the API", sending),
            soon("resetting the stream", taking)
        );
        let (answer, _) = caller
            .send(request(&world.played, Method::GET, "/short"), true)
            .await;
        let mut api = world.played.accept().await;
        api.request().await;
        api.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
            .await;
        let answer = soon("the next answer", answer).await.unwrap();
        let body = answer.into_body().data().await.unwrap().unwrap();
        assert_eq!(body, "hello");
        caller.leave().await;
        drop(api);
        world.as_before().await;
    }
}

/// The error that the gateway itself sends waits for room, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_had_room_is_reset() {
    let world = World::of(Played::new(&["--write-timeout", "1"], "").await);
    let address = world.played.server.url.strip_prefix("http://").unwrap();
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let stream = dial(address).await.unwrap();
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let connection = TaskTracker::new().spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let uri = format!("{}/nowhere", world.played.server.url);
    let nowhere = Request::get(uri).body(()).unwrap();
    let (answer, _) = sender.send_request(nowhere, true).unwrap();
    let answer = answer.await.unwrap();
    assert!(answer.status().is_client_error(), "{answer:?}");
    let reset = soon("resetting the stream", answer.into_body().data_of_all()).await;
    assert!(reset.is_err());
    connection.abort();
    drop(sender);
    let _ = connection.await;
    world.as_before().await;
}

trait DataOfAll {
    /// All of a body, or why it broke off.
    async fn data_of_all(self) -> Result<Vec<u8>, h2::Error>;
}

impl DataOfAll for h2::RecvStream {
    async fn data_of_all(mut self) -> Result<Vec<u8>, h2::Error> {
        let mut all = Vec::new();
        while let Some(data) = self.data().await {
            let data = data?;
            let _ = self.flow_control().release_capacity(data.len());
            all.extend_from_slice(&data);
        }
        Ok(all)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_body_does_not_come_is_answered_by_the_deadline() {
    let options = ["--request-timeout", "2", "--retries", "0"];
    let world = World::of(Played::new(&options, "").await);
    let mut caller = Caller::of(&world.played).await;
    for first in ["", "some of it"] {
        let post = request(&world.played, Method::POST, "/upload");
        let (answer, mut body) = caller.send(post, false).await;
        body.send_data(first.into(), false).unwrap();
        let mut api = world.played.accept().await;
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        api.gone().await;
    }
    caller.leave().await;
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_do_not_keep_a_connection() {
    let options = ["--idle-timeout", "1", "--head-timeout", "1"];
    let world = World::of(Played::new(&options, "").await);
    for requests in [0, 1] {
        let (mut sender, mut connection) = handshake(&world.played).await;
        let mut pings = connection.ping_pong().unwrap();
        let pinging = async {
            for _ in 0..requests {
                let uri = format!("{}/nowhere", world.played.server.url);
                let nowhere = Request::get(uri).body(()).unwrap();
                let (answer, _) = sender.send_request(nowhere, true).unwrap();
                answer
                    .await
                    .unwrap()
                    .into_body()
                    .data_of_all()
                    .await
                    .unwrap();
            }
            while pings.ping(h2::Ping::opaque()).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
            // The sender is kept, and with it the connection.
            std::future::pending::<()>().await;
        };
        let ended = async {
            tokio::select! {
                _ = connection => {}
                () = pinging => {}
            }
        };
        soon("closing the connection", ended).await;
    }
    world.as_before().await;
}

/// Each of these asks for an answer that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_whose_answers_nobody_reads_is_ended() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let world = World::of(Played::new(&["--write-timeout", "1"], "").await);
    for frame in [PING, SETTINGS] {
        let mut peer = world.played.call_narrow().await;
        peer.send([PREFACE, SETTINGS].concat()).await;
        let frames = frame.repeat(1000);
        let flooding = async { while peer.writer.write_all(&frames).await.is_ok() {} };
        let ended = timeout(FOR_A_FLOOD, flooding).await;
        ended.expect("the server ends it");
    }
    world.as_before().await;
}

const WITH_5: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_are_refused_before_anything_is_done() {
    both(&["--max-requests", "2"], "", async |played| {
        let mut caller = Caller::of(&played).await;
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let get = request(&played, Method::GET, "/x");
            let (answer, _) = caller.send(get, true).await;
            let mut api = played.accept().await;
            api.request().await;
            waiting.push((answer, api));
        }
        assert_eq!(caller.sender.current_max_send_streams(), 100);
        let get = request(&played, Method::GET, "/refused");
        let refused = caller.send(get, true).await.0.await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
        let mut calls = Vec::new();
        for lines in [&[][..], &["Content-Length: 100000"]] {
            let mut call = played.call().await;
            call.send(played.head("POST", "/refused", lines)).await;
            let answer = call.answer().await;
            assert_eq!(answer.status(), 503, "{answer:?}");
            assert_eq!(answer.header("retry-after"), "1");
            assert!(answer.header("x-apideck-request-id").len() > 1);
            calls.push(call);
        }
        assert!(!played.would_accept().await, "a refused request is sent");
        // Whoever watches is not turned away.
        let health = played.server.operator("/healthz").send().await;
        assert_eq!(health.status, StatusCode::OK);
        let metrics = played.server.operator("/metrics").send().await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        for sample in [
            "tokenward_requests_in_flight 2\n",
            "tokenward_requests_refused_total 3\n",
            "tokenward_client_connections 3\n",
        ] {
            assert!(text.contains(sample), "{sample}{text}");
        }
        for (answer, mut api) in waiting {
            api.send(WITH_5).await;
            let answer = answer.await.unwrap().into_body().data_of_all().await;
            assert_eq!(answer.unwrap(), b"hello");
            // There is room again, also for a caller that was refused.
            let call = &mut calls[0];
            call.send(played.get("/again", &[])).await;
            api.request().await;
            api.send(WITH_5).await;
            assert_eq!(call.answer().await.status(), 200);
        }
        caller.leave().await;
    })
    .await;
}

/// Strangers, above all, who could keep the places of all others with little effort.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_no_refusal_holds_no_place() {
    both(&["--max-requests", "2"], "", async |played| {
        let address = played.server.url.strip_prefix("http://").unwrap();
        let stream = dial(address).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(0);
        let (mut sender, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let connection = TaskTracker::new().spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..5 {
            let mut stranger = request(&played, Method::GET, "/x");
            stranger.headers_mut().remove("authorization");
            sender = sender.ready().await.unwrap();
            let (answer, _) = sender.send_request(stranger, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            answers.push(answer);
        }
        let mut call = played.call().await;
        call.send(played.get("/x", &[])).await;
        let mut api = played.accept().await;
        api.request().await;
        api.send(WITH_5).await;
        assert_eq!(call.answer().await.status(), 200);
        drop(answers);
        connection.abort();
    })
    .await;
}

/// A caller that is refused while it sends hears the answer, and may send on for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_caller_is_not_cut_off_while_it_sends() {
    both(&[], "", async |played| {
        for head in [
            // Refused for its head alone, and for its key.
            "POST /proxy HTTP/1.1\r\nHost: g\r\nContent-Length: 150000\r\nContent-Length: 5\r\n\r\n",
            "POST /proxy HTTP/1.1\r\nHost: g\r\nContent-Length: 150000\r\n\r\n",
            "POST /proxy HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n249f0\r\n",
        ] {
            let mut call = played.call().await;
            call.send(head).await;
            let answer = call.answer().await;
            assert!([400, 401].contains(&answer.status()), "{answer:?}");
            sends_on(call, 150_000).await;
        }
    })
    .await;
}

/// Sends so much more and sees the connection end in order, not by a reset.
async fn sends_on(call: Peer, length: usize) {
    let Peer { reader, mut writer } = call;
    writer.write_all(&vec![b'x'; length]).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut stream = reader.into_stream();
    let mut rest = [0; 100];
    assert_eq!(stream.read(&mut rest).await.unwrap(), 0);
}
