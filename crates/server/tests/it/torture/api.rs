//! An API that keeps books of every request it gets, and answers as it is told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::TaskTracker;

use crate::wire::{Headers, Kind, NoMessage, Reader};

/// A request as it came.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    pub(super) whole: bool,
}

/// In short: the rest can be long.
impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(40)]);
        let whole = if self.whole { "all" } else { "the beginning" };
        write!(f, "{whole} of {} bytes, {start:?}", self.body.len())?;
        f.debug_set().entries(self.headers.keys()).finish()
    }
}

#[derive(Debug, Default)]
struct Books {
    seen: HashMap<String, Vec<Seen>>,
    /// What came that no gateway may send.
    strange: Vec<String>,
}

/// `/a/N` is answered with the Nth script, everything else with its own path.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) base: String,
    books: Arc<Mutex<Books>>,
}

impl Api {
    /// `scripts`: what is sent, and whether the connection is closed after it.
    pub(super) async fn start(scripts: Vec<(Vec<u8>, bool)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let books: Arc<Mutex<Books>> = Arc::default();
        let (scripts, shared) = (Arc::new(scripts), books.clone());
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, scripts.clone(), shared.clone()));
            }
        });
        Self { base, books }
    }

    pub(super) fn seen(&self, path: &str) -> Vec<Seen> {
        let books = self.books.lock().unwrap();
        books.seen.get(path).cloned().unwrap_or_default()
    }

    pub(super) fn strange(&self) -> Vec<String> {
        self.books.lock().unwrap().strange.clone()
    }
}

async fn answer(stream: TcpStream, scripts: Arc<Vec<(Vec<u8>, bool)>>, books: Arc<Mutex<Books>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = Reader::new(BufReader::new(reader));
    loop {
        let message = match reader.message(Kind::Request).await {
            Ok(message) => message,
            Err(NoMessage::Malformed(what)) => {
                books
                    .lock()
                    .unwrap()
                    .strange
                    .push(format!("at the API: {what}"));
                return;
            }
            Err(NoMessage::Closed | NoMessage::Silent) => return,
        };
        let head = message.first.starts_with("HEAD ");
        let path = message
            .first
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let number = path.strip_prefix("/a/").map(str::parse::<usize>);
        let whole = message.whole;
        let seen = Seen {
            headers: message.headers,
            body: message.body,
            whole,
        };
        books
            .lock()
            .unwrap()
            .seen
            .entry(path.clone())
            .or_default()
            .push(seen);
        if !whole {
            return;
        }
        if let Some(Ok(number)) = number {
            let (bytes, close) = &scripts[number];
            if writer.write_all(bytes).await.is_err() || *close {
                return;
            }
            continue;
        }
        let body = if head { "" } else { &path };
        let text = format!(
            "HTTP/1.1 200 OK\r\nx-nonce: {path}\r\nContent-Length: {}\r\n\r\n{body}",
            path.len()
        );
        if writer.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
