//! Those who hold a connection and give nothing for it: each kind ends by itself, and leaves nothing
//! behind. `bench/hostile.py` has two thousand of them beside ordinary load.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    harness::{by_library, dial},
    played::{FOR_A_FLOOD, PATIENCE, Peer, Played},
};

/// Timers short enough for a test.
const SHORT: [&str; 8] = [
    "--idle-timeout",
    "1",
    "--head-timeout",
    "1",
    "--write-timeout",
    "1",
    "--request-timeout",
    "2",
];

pub(crate) struct World {
    pub(crate) played: Played,
    before: usize,
}

impl World {
    async fn new() -> Self {
        Self::of(Played::new(&SHORT, "").await)
    }

    pub(crate) fn of(played: Played) -> Self {
        let before = open_in(&played);
        Self { played, before }
    }

    /// Waits until the server has as many descriptors open as before, or fewer, and serves still.
    pub(crate) async fn as_before(&self) {
        let returned = async {
            while open_in(&self.played) > self.before {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, returned)
            .await
            .expect("descriptors return");
        let answer = self
            .played
            .server
            .bare(Method::GET, "/nowhere")
            .send()
            .await;
        assert!([401, 404].contains(&answer.status.as_u16()), "{answer:?}");
    }
}

fn open_in(played: &Played) -> usize {
    let process = played.server.child.id().unwrap();
    let all = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    all.count()
}

/// Sends a byte now and then until the server has had enough, and waits for its end.
async fn drip(mut peer: Peer) {
    let dripping = async {
        while peer.writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let end = async {
        assert!(peer.reader.end().await.is_ok(), "the connection stays open");
    };
    tokio::select! {
        () = dripping => {}
        () = end => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_closed() {
    let world = World::new().await;
    let all = join_all((0..20).map(|_| world.played.call())).await;
    join_all(
        all.into_iter()
            .map(async |mut peer: Peer| peer.gone().await),
    )
    .await;
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_to_its_end_is_closed() {
    let world = World::new().await;
    for beginning in [
        "G",
        "GET /proxy HTTP/1.1\r\n",
        "GET /proxy HTTP/1.1\r\nHost: g\r\nX-A: ",
    ] {
        let all = join_all((0..10).map(async |_| {
            let mut peer = world.played.call().await;
            peer.send(beginning).await;
            peer
        }))
        .await;
        join_all(all.into_iter().map(drip)).await;
    }
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_to_its_end_is_closed() {
    let world = World::new().await;
    for framing in [
        "Content-Length: 1000",
        "Content-Length: 100000",
        "Transfer-Encoding: chunked",
    ] {
        for stops in [true, false] {
            // One that moves is given time: its caller is known. A short one the server itself waits for first.
            if !stops
                && framing.starts_with("Content-Length")
                && (framing.ends_with("100000") || by_library())
            {
                continue;
            }
            let mut peer = world.played.call().await;
            peer.send(world.played.head("POST", "/x", &[framing])).await;
            peer.send("5\r\nhello\r\n").await;
            // An upload goes on to the API as it comes.
            let api = async {
                loop {
                    let _ = world.played.accept_whenever().await.reader.end().await;
                }
            };
            let caller = async {
                if stops {
                    peer.gone().await;
                } else {
                    drip(peer).await;
                }
            };
            tokio::select! {
                () = caller => {}
                () = api => {}
            }
        }
    }
    world.as_before().await;
}

/// Nobody's body is waited for before it is known whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_key_is_refused_by_its_head() {
    let world = World::new().await;
    for path in [
        "/proxy",
        "/vault/connections/accounting/sandbox/import",
        "/vault/connections/accounting/sandbox/validate",
        "/vault/connections/accounting/sandbox/token",
    ] {
        for framing in ["Content-Length: 1048576", "Transfer-Encoding: chunked"] {
            let mut peer = world.played.call().await;
            peer.send(format!(
                "POST {path} HTTP/1.1\r\nHost: g\r\n{framing}\r\n\r\n5\r\n"
            ))
            .await;
            assert_eq!(peer.answer().await.status(), 401, "{path} {framing}");
            peer.gone().await;
        }
    }
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_closed() {
    let world = World::new().await;
    let requests = "GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n".repeat(200);
    let all = (0..3).map(async |_| {
        let mut peer = world.played.call_narrow().await;
        let sending = async {
            // When its answers are not taken, the server takes no further requests.
            while peer.writer.write_all(requests.as_bytes()).await.is_ok() {}
        };
        timeout(FOR_A_FLOOD, sending)
            .await
            .expect("the server ends it");
    });
    join_all(all).await;
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_long_answer_is_closed_and_so_is_the_api() {
    let world = World::new().await;
    let mut caller = world.played.call_narrow().await;
    caller.send(world.played.get("/long", &[])).await;
    let mut api = world.played.accept().await;
    api.request().await;
    api.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        .await;
    let sending = async { while api.writer.write_all(&[b'x'; 100_000]).await.is_ok() {} };
    timeout(PATIENCE, sending)
        .await
        .expect("the server ends it");
    drop((caller, api));
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_his_half_is_answered_or_closed() {
    let world = World::new().await;
    for text in [
        String::new(),
        "GET /nowhere HTTP/1.1\r\nHost: g\r\n".to_owned(),
        "GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n".to_owned(),
        world.played.head("POST", "/x", &["Content-Length: 1000"]) + "body",
        world.played.head("POST", "/x", &["Content-Length: 100000"]) + "body",
        world
            .played
            .head("POST", "/x", &["Transfer-Encoding: chunked"])
            + "5\r\nhel",
    ] {
        let mut peer = world.played.call().await;
        peer.send(text).await;
        peer.writer.shutdown().await.unwrap();
        let api = async {
            loop {
                let _ = world.played.accept_whenever().await.reader.end().await;
            }
        };
        tokio::select! {
            () = peer.gone() => {}
            () = api => {}
        }
    }
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_connection_that_rests_is_closed() {
    let world = World::new().await;
    for request in [
        "GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n",
        "POST /nowhere HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut peer = world.played.call().await;
        peer.send(request).await;
        peer.answer().await;
        peer.gone().await;
    }
    world.as_before().await;
}

async fn over_http2(
    played: &Played,
) -> (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    hyper::client::conn::http2::Connection<TokioIo<TcpStream>, Full<Bytes>, TokioExecutor>,
) {
    let address = played.server.url.strip_prefix("http://").unwrap();
    let stream = TokioIo::new(dial(address).await.unwrap());
    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_rests_is_closed() {
    let world = World::new().await;
    for requests in [0, 1, 3] {
        let (mut sender, connection) = over_http2(&world.played).await;
        let ended = async {
            // Whether it is ended in order does not matter.
            let _ = connection.await;
        };
        let asking = async {
            for _ in 0..requests {
                let request = http::Request::get(format!("{}/nowhere", world.played.server.url));
                let request = request.body(Full::default()).unwrap();
                let answer = sender.send_request(request).await.unwrap();
                answer.into_body().collect().await.unwrap();
            }
            // The sender is kept, and with it the connection.
            std::future::pending::<()>().await;
        };
        let ended = async {
            tokio::select! {
                () = ended => {}
                () = asking => {}
            }
        };
        timeout(PATIENCE, ended).await.expect("the server ends it");
    }
    world.as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_does_not_answer_is_given_up() {
    let world = World::new().await;
    let mut caller = world.played.call().await;
    caller.send(world.played.get("/x", &[])).await;
    let mut api = world.played.accept().await;
    api.request().await;
    assert_eq!(caller.answer().await.status(), 504);
    api.gone().await;
    drop(caller);
    world.as_before().await;
}

/// Whoever comes when all places are taken by those who rest is served soon.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_connections_than_there_may_be() {
    let options = [&SHORT[..], &["--max-connections", "20"]].concat();
    let played = Played::new(&options, "").await;
    let before = open_in(&played);
    let all = join_all((0..60).map(|_| played.call())).await;
    sleep(Duration::from_millis(300)).await;
    let most = open_in(&played);
    assert!(most <= before + 25, "{before} {most}");
    let mut peer = played.call().await;
    peer.send("GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n").await;
    peer.answer().await;
    drop(all);
}
