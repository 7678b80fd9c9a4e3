//! Torture: requests and answers of HTTP/1.1 of every kind, each through every way of the gateway.
//! What is right for each is data (`requests.toml`, `answers.toml`), and beside it stands what nginx
//! does. Nothing may be smuggled, and nobody may get another's answer.

mod api;
mod corpus;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokenward_testkit::sandbox::{Rotation, Sandbox, SandboxConfig};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use self::{
    api::{Api, Seen},
    corpus::Case,
};
use crate::{
    harness::{APP, CONSUMER, HOUR, REVOKES, Server, TestVault, connector, dial, provider},
    played::HTTP,
    wire::{Kind, Message, NoMessage, Reader},
};

/// An API that keeps books, and servers before it.
struct World {
    api: Api,
    vault: TestVault,
    _sandbox: Sandbox,
    nonces: AtomicUsize,
}

impl World {
    async fn new(answers: Vec<(Vec<u8>, bool)>) -> Self {
        let api = Api::start(answers).await;
        let sandbox = provider(Duration::ZERO, Rotation::Revokes).await;
        let vault = TestVault::new();
        let text = connector("sandbox", &sandbox, REVOKES)
            .replace(&sandbox.api_url(), &api.base)
            .replace(
                &format!("hosts = [\"{}\"]", sandbox.base_url()),
                &format!("hosts = [\"{}\"]", api.base),
            );
        vault.add_connector("sandbox", &text);
        vault.set_client("sandbox", &SandboxConfig::default().client_secret);
        let tokens = sandbox.issue_expiring(&SandboxConfig::default().client_id, HOUR);
        vault.import("acme/sandbox", &tokens, HOUR);
        Self {
            api,
            vault,
            _sandbox: sandbox,
            nonces: AtomicUsize::new(0),
        }
    }

    /// A server with one worker, so that all requests share its connections to the API.
    async fn serve(&self, http: &str) -> Server {
        let server = self
            .vault
            .serve(&["--http", http, "--retries", "0", "--workers", "1"])
            .await;
        // From now on key and connection are known.
        let mut call = Caller::to(&server).await;
        let (path, request) = self.ordinary(&server, &[]);
        call.write(request.as_bytes()).await;
        let answer = call.reader.message(Kind::Answer).await;
        assert_eq!(answer.unwrap().header("x-nonce"), path);
        server
    }

    /// A path at the API that nobody has asked for yet.
    fn nonce(&self, kind: &str) -> String {
        let number = self.nonces.fetch_add(1, Ordering::Relaxed);
        format!("/{kind}/{number}")
    }

    /// A request that is well formed, and its path.
    fn ordinary(&self, server: &Server, more: &[&str]) -> (String, String) {
        let path = self.nonce("r");
        let request = get(&caller(server, &path), more);
        (path, request)
    }

    /// Whether it came to the API, and how.
    fn seen(&self, path: &str) -> Vec<Seen> {
        self.api.seen(path)
    }
}

/// The headers of a request for this path.
fn caller(server: &Server, path: &str) -> String {
    format!(
        "Authorization: Bearer {}\r\nx-apideck-app-id: {APP}\r\nx-apideck-consumer-id: {CONSUMER}\r\nx-apideck-service-id: sandbox\r\nx-apideck-unified-api: accounting\r\nx-apideck-downstream-url: {path}\r\n",
        server.key
    )
}

fn get(caller: &str, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("{line}\r\n")).collect();
    format!("GET /proxy HTTP/1.1\r\nHost: g\r\n{caller}{more}\r\n")
}

/// A connection to a server.
struct Caller {
    reader: Reader<BufReader<OwnedReadHalf>>,
    writer: Option<OwnedWriteHalf>,
}

impl Caller {
    async fn to(server: &Server) -> Self {
        let address = server.url.strip_prefix("http://").unwrap();
        let stream = dial(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Self {
            reader: Reader::new(BufReader::new(reader)),
            writer: Some(writer),
        }
    }

    /// Whoever has closed the connection does not read: no concern of the writer's.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.writer.as_mut().unwrap().write_all(bytes).await;
    }
}

/// What a caller gets for its requests, until there are `expected` answers or the connection ends.
async fn answers(caller: &mut Caller, kinds: &[Kind]) -> Result<(Vec<Message>, bool), String> {
    let mut got = Vec::new();
    for kind in kinds {
        loop {
            match caller.reader.message(*kind).await {
                Ok(interim) if interim.status() < 200 => {}
                Ok(answer) if answer.whole => {
                    got.push(answer);
                    break;
                }
                Ok(cut) => return Err(format!("an answer is cut: {cut:?}")),
                Err(NoMessage::Closed) => return Ok((got, true)),
                Err(other) => return Err(format!("{other:?} after {got:?}")),
            }
        }
    }
    Ok((got, false))
}

/// How the bytes of a case come.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    /// Between two other requests, all in one piece.
    Pipelined,
    /// After another, bit by bit; the next request when it is answered.
    InPieces,
}

/// Sends a case, and says what is wrong with what became of it.
async fn torture(
    world: &World,
    server: &Server,
    case: &Case,
    http: &str,
    delivery: Delivery,
) -> Result<(), String> {
    let path = world.nonce("r");
    let inner_path = world.nonce("smuggled");
    let inner = get(&caller(server, &inner_path), &[]);
    let (bytes, _) = case.bytes(&caller(server, &path), &inner);
    let (path_before, before) = world.ordinary(server, &[]);
    let (path_after, after) = world.ordinary(server, &[]);
    let kind = if bytes.starts_with(b"HEAD ") {
        Kind::AnswerToHead
    } else {
        Kind::Answer
    };
    let mut call = Caller::to(server).await;
    let mut writer = call.writer.take().unwrap();
    let (mut got, ended) = match delivery {
        Delivery::Pipelined => {
            let all = [before.as_bytes(), &bytes, after.as_bytes()].concat();
            let kinds = [Kind::Answer, kind, Kind::Answer];
            let writing = async {
                let _ = writer.write_all(&all).await;
                may_wait(case, &mut writer).await;
            };
            let ((), got) = tokio::join!(writing, answers(&mut call, &kinds));
            got?
        }
        Delivery::InPieces => {
            let _ = writer.write_all(before.as_bytes()).await;
            let (mut got, _) = answers(&mut call, &[Kind::Answer]).await?;
            let writing = async {
                for piece in bytes.chunks(bytes.len() / 40 + 1) {
                    if writer.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // Incomplete ones are ended by what follows.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = writer.write_all(after.as_bytes()).await;
                may_wait(case, &mut writer).await;
            };
            let kinds = [kind, Kind::Answer];
            let ((), more) = tokio::join!(writing, answers(&mut call, &kinds));
            let (more, ended) = more?;
            got.extend(more);
            (got, ended)
        }
    };
    if got.is_empty() || got[0].header("x-nonce") != path_before {
        return Err(format!("the request before: {got:?}"));
    }
    got.remove(0);
    let outcome = Outcome {
        answers: got,
        ended,
        at_api: world.seen(&path),
        inner_at_api: world.seen(&inner_path).len(),
        after_at_api: world.seen(&path_after).len(),
        path,
        inner_path,
        path_after,
    };
    let mut failures = Vec::new();
    for right in case.right_by(http) {
        match outcome.is(right, case) {
            Ok(()) => return Ok(()),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures.join("; "))
}

/// Ends what may wait for more than there is.
async fn may_wait(case: &Case, writer: &mut OwnedWriteHalf) {
    if case.right.iter().any(|right| right == "wait") {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = writer.shutdown().await;
    }
}

/// What became of a request.
#[derive(Debug)]
struct Outcome {
    /// To it, and to the request after it.
    answers: Vec<Message>,
    ended: bool,
    at_api: Vec<Seen>,
    path: String,
    inner_path: String,
    inner_at_api: usize,
    path_after: String,
    after_at_api: usize,
}

impl Outcome {
    fn is(&self, right: &str, case: &Case) -> Result<(), String> {
        let statuses: Vec<_> = self.answers.iter().map(Message::status).collect();
        let is = format!(
            "not {right}: {statuses:?}{}{}, at the API {:?}",
            if self.ended { " and the end" } else { "" },
            if self.inner_at_api > 0 {
                ", SMUGGLED"
            } else {
                ""
            },
            self.at_api
        );
        let whole: Vec<_> = self.at_api.iter().filter(|seen| seen.whole).collect();
        let all_right = (self.inner_at_api == 0 || right == "accept-inner")
            && match right {
                "accept" | "accept-close" | "accept-inner" => {
                    let [seen] = self.at_api.as_slice() else {
                        return Err(is);
                    };
                    let absent = |name: &String| !seen.headers.contains_key(name);
                    seen.whole
                        && seen.body == case.body
                        && case.absent.iter().all(absent)
                        && self.answered(0, &self.path)
                        && match right {
                            "accept" => {
                                self.answered(1, &self.path_after) && self.after_at_api == 1
                            }
                            "accept-inner" => self.answered(1, &self.inner_path),
                            _ => self.answers.len() == 1 && self.ended && self.after_at_api == 0,
                        }
                }
                "wait" => whole.is_empty() && self.ended && self.after_at_api == 0,
                "close" => self.answers.is_empty() && self.ended && whole.is_empty(),
                status => {
                    statuses
                        .first()
                        .is_some_and(|first| first.to_string() == status)
                        && whole.is_empty()
                        && (self.answered(1, &self.path_after)
                            || (self.answers.len() == 1 && self.ended && self.after_at_api == 0))
                }
            };
        if all_right { Ok(()) } else { Err(is) }
    }

    /// Whether the answer with this number is that to this path.
    fn answered(&self, number: usize, path: &str) -> bool {
        self.answers
            .get(number)
            .is_some_and(|answer| answer.status() == 200 && answer.header("x-nonce") == path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_kind_are_answered_rightly_or_refused() {
    let world = World::new(Vec::new()).await;
    let cases = corpus::requests();
    let mut wrong = Vec::new();
    for http in HTTP {
        let server = world.serve(http).await;
        for delivery in [Delivery::Pipelined, Delivery::InPieces] {
            let all = stream::iter(&cases).map(|case| {
                let outcome = torture(&world, &server, case, http, delivery);
                async move {
                    let wrong = |wrong| format!("{} ({http}, {delivery:?}): {wrong}", case.name);
                    outcome.await.map_err(wrong)
                }
            });
            let outcomes: Vec<_> = all.buffered(16).collect().await;
            wrong.extend(outcomes.into_iter().filter_map(Result::err));
        }
    }
    wrong.extend(world.api.strange());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A way through the gateway, by what a request says.
const WAYS: [&[&str]; 4] = [
    &[],
    &["x-apideck-follow-redirects: false"],
    &["te: trailers"],
    &["connection: x-hop"],
];

/// What a caller gets.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    whole: bool,
}

impl Got {
    fn is(&self, right: &str, case: &Case) -> bool {
        let absent = |name: &String| !self.headers.contains(name);
        match right {
            "502" => self.status == 502 && self.whole,
            "cut" => !self.whole || self.status == 502,
            pass => {
                let status = pass.strip_prefix("pass ").unwrap_or("200");
                self.status.to_string() == status
                    && self.whole
                    && self.body == case.body
                    && case.absent.iter().all(absent)
            }
        }
    }
}

/// Asks for each answer of the corpus, and for an ordinary one after it.
async fn ask_for_all(world: &World, cases: &[Case], http: &str, way: &[&str]) -> Vec<String> {
    let server = world.serve(http).await;
    let mut wrong = Vec::new();
    let mut call = Caller::to(&server).await;
    for (number, case) in cases.iter().enumerate() {
        let request = get(&caller(&server, &format!("/a/{number}")), way);
        let request = request.replacen("GET", &case.method, 1);
        let kind = if case.method == "HEAD" {
            Kind::AnswerToHead
        } else {
            Kind::Answer
        };
        call.write(request.as_bytes()).await;
        let got = match call.reader.message(kind).await {
            Ok(answer) => Got {
                status: answer.status(),
                headers: answer.headers.into_keys().collect(),
                body: answer.body,
                whole: answer.whole,
            },
            Err(NoMessage::Closed) => Got {
                status: 0,
                headers: Vec::new(),
                body: Vec::new(),
                whole: false,
            },
            Err(other) => {
                wrong.push(format!("{} ({http}) {way:?}: {other:?}", case.name));
                call = Caller::to(&server).await;
                continue;
            }
        };
        if !case.right_by(http).any(|right| got.is(right, case)) {
            let body = &got.body[..got.body.len().min(100)];
            let body = String::from_utf8_lossy(body);
            wrong.push(format!(
                "{} ({http}) {way:?}: {} {body:?} whole: {}, not {:?}",
                case.name, got.status, got.whole, case.right
            ));
        }
        let (path, request) = world.ordinary(&server, way);
        if !got.whole {
            call = Caller::to(&server).await;
        }
        call.write(request.as_bytes()).await;
        let mut next = call.reader.message(Kind::Answer).await;
        if next == Err(NoMessage::Closed) {
            // It may have been the connection's last.
            call = Caller::to(&server).await;
            call.write(request.as_bytes()).await;
            next = call.reader.message(Kind::Answer).await;
        }
        let mut path = path;
        if case.closes() && next.as_ref().is_ok_and(|next| next.status() == 502) {
            // The API has closed its connection at this very moment. By now everybody knows.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (again, request) = world.ordinary(&server, way);
            call = Caller::to(&server).await;
            call.write(request.as_bytes()).await;
            next = call.reader.message(Kind::Answer).await;
            path = again;
        }
        if next.as_ref().map(|next| next.header("x-nonce")) != Ok(&*path) {
            wrong.push(format!("after {} ({http}) {way:?}: {next:?}", case.name));
            call = Caller::to(&server).await;
        }
    }
    wrong
}

/// The same over HTTP/2.
async fn ask_for_all_over_http2(world: &World, cases: &[Case]) -> Vec<String> {
    let server = world.serve("own").await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_max_header_list_size(1 << 20)
        .build_http::<Full<Bytes>>();
    let ask = async |method: &str, path: &str| {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}/proxy", server.url));
        for line in caller(&server, path).lines() {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let request = request.body(Full::default()).unwrap();
        let Ok(answer) = client.request(request).await else {
            return (
                String::new(),
                Got {
                    status: 0,
                    headers: Vec::new(),
                    body: Vec::new(),
                    whole: false,
                },
            );
        };
        let (parts, body) = answer.into_parts();
        let nonce = parts.headers.get("x-nonce");
        let nonce = nonce.map_or("", |nonce| nonce.to_str().unwrap()).to_owned();
        let body = body.collect().await;
        let got = Got {
            status: parts.status.as_u16(),
            headers: parts.headers.keys().map(ToString::to_string).collect(),
            whole: body.is_ok(),
            body: body.map_or_else(|_| Vec::new(), |body| body.to_bytes().to_vec()),
        };
        (nonce, got)
    };
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let (_, got) = ask(&case.method, &format!("/a/{number}")).await;
        if !case.right_by("own").any(|right| got.is(right, case)) {
            wrong.push(format!(
                "{} (HTTP/2): {} whole: {}, not {:?}",
                case.name, got.status, got.whole, case.right
            ));
        }
        let path = world.nonce("r");
        let (nonce, _) = ask("GET", &path).await;
        if nonce != path {
            wrong.push(format!("after {} (HTTP/2): {nonce:?}", case.name));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_kind_pass_whole_or_are_seen_to_be_broken() {
    let cases = corpus::answers();
    let scripts = cases.iter().map(|case| case.bytes("", "")).collect();
    let world = World::new(scripts).await;
    let [own, library] = HTTP.map(|http| WAYS.into_iter().map(move |way| (http, way)));
    let (over_1, over_2) = tokio::join!(
        join_all(
            own.chain(library)
                .map(|(http, way)| ask_for_all(&world, &cases, http, way))
        ),
        ask_for_all_over_http2(&world, &cases)
    );
    let mut wrong = over_1.concat();
    wrong.extend(over_2);
    wrong.extend(world.api.strange());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Where nginx refuses, a case may pass only with its reason beside it.
#[test]
fn the_corpus_is_nowhere_looser_than_nginx() {
    let parts = [
        ("requests", corpus::requests(), "accept"),
        ("answers", corpus::answers(), "pass"),
    ];
    for (part, cases, good) in parts {
        let mut nginx = corpus::nginx(part);
        let mut unexplained = BTreeMap::new();
        for case in &cases {
            let verdict = nginx
                .remove(&case.name)
                .unwrap_or_else(|| panic!("{}: run record.py", case.name));
            let passes = case.right.iter().any(|right| right.starts_with(good));
            if passes && !verdict.starts_with(good) && case.looser.is_none() {
                unexplained.insert(&case.name, verdict);
            }
        }
        assert!(unexplained.is_empty(), "{unexplained:#?}");
        assert!(nginx.is_empty(), "no such cases, or twice: {nginx:?}");
    }
}
