//! HTTP/1.1 as bytes, from both ends: written as a test wants them, read with nothing forgiven.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

/// Headers by their names, which say nothing by their case.
pub(crate) type Headers = BTreeMap<String, Vec<String>>;

/// After this, nothing more is expected to come. Long, because it is waited for only where
/// something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message of HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) first: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// Whether it was all there.
    pub(crate) whole: bool,
}

impl Message {
    /// An answer's status.
    pub(crate) fn status(&self) -> u16 {
        let word = self.first.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |values| &values[0])
    }
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoMessage {
    /// The other side has closed the connection before a message, or in its head.
    Closed,
    /// It sends nothing, and keeps the connection open.
    Silent,
    /// It sends what no message is.
    Malformed(String),
}

/// What a message is, beside what it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Answer,
    /// The answer to a `HEAD`.
    AnswerToHead,
}

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    stream: R,
    read: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The stream, for whoever wants to know how it ends.
    pub(crate) fn into_stream(self) -> R {
        self.stream
    }

    /// The next message. One that breaks off in its body is not whole.
    pub(crate) async fn message(&mut self, kind: Kind) -> Result<Message, NoMessage> {
        let head = self.head().await?;
        let malformed = |what: &str| {
            NoMessage::Malformed(format!("{what}: {:?}", String::from_utf8_lossy(&head)))
        };
        let (first, headers) = parse(&head).map_err(malformed)?;
        let mut message = Message {
            first,
            headers,
            body: Vec::new(),
            whole: true,
        };
        let length = length(&message, kind).map_err(malformed)?;
        match length {
            Length::Bytes(length) => {
                message.whole = self.fill(length).await? >= length;
                let there = self.read.len().min(length);
                message.body = self.read.drain(..there).collect();
            }
            Length::Chunks => {
                (message.body, message.whole) = self.chunks().await?;
            }
            Length::ToTheEnd => {
                while self.more().await? {}
                message.body = std::mem::take(&mut self.read);
            }
        }
        Ok(message)
    }

    /// Waits until these bytes have come; what came before them is gone with them.
    pub(crate) async fn until(&mut self, bytes: &[u8]) -> Result<(), NoMessage> {
        loop {
            let found = self
                .read
                .windows(bytes.len())
                .position(|part| part == bytes);
            if let Some(at) = found {
                self.read.drain(..at + bytes.len());
                return Ok(());
            }
            if !self.more().await? {
                return Err(NoMessage::Closed);
            }
        }
    }

    /// Waits until the other side closes. What it sends until then is given.
    pub(crate) async fn end(&mut self) -> Result<Vec<u8>, NoMessage> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.read))
    }

    async fn head(&mut self) -> Result<Vec<u8>, NoMessage> {
        loop {
            let end = self.read.windows(4).position(|part| part == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(self.read.drain(..end + 4).collect());
            }
            if !self.more().await? {
                return Err(NoMessage::Closed);
            }
        }
    }

    /// Waits until there are so many bytes, or no more to come; says how many there are.
    pub(crate) async fn fill(&mut self, length: usize) -> Result<usize, NoMessage> {
        while self.read.len() < length && self.more().await? {}
        Ok(self.read.len())
    }

    async fn chunks(&mut self) -> Result<(Vec<u8>, bool), NoMessage> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.read.windows(2).position(|part| part == b"\r\n") {
                    break end;
                }
                if !self.more().await? {
                    return Ok((body, false));
                }
            };
            let line: Vec<u8> = self.read.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            let hexadecimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = usize::from_str_radix(&text, 16)
                .ok()
                .filter(|_| hexadecimal);
            let Some(size) = size else {
                return Err(NoMessage::Malformed(format!("chunk size {text:?}")));
            };
            if self.fill(size + 2).await? < size + 2 {
                let there = self.read.len().min(size);
                body.extend(self.read.drain(..there));
                return Ok((body, false));
            }
            body.extend(self.read.drain(..size));
            // After the last chunk this is the end of a trailer section that is empty.
            let end: Vec<u8> = self.read.drain(..2).collect();
            if end != b"\r\n" {
                return Err(NoMessage::Malformed(format!("after a chunk: {end:?}")));
            }
            if size == 0 {
                return Ok((body, true));
            }
        }
    }

    async fn more(&mut self) -> Result<bool, NoMessage> {
        let mut piece = [0; 16 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut piece))
            .await
            .map_err(|_| NoMessage::Silent)?
            .unwrap_or(0);
        self.read.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }
}

enum Length {
    Bytes(usize),
    Chunks,
    ToTheEnd,
}

fn length(message: &Message, kind: Kind) -> Result<Length, &'static str> {
    let lengths = message.headers.get("content-length");
    let codings = message.headers.get("transfer-encoding");
    let status = message.status();
    let bodiless = kind == Kind::AnswerToHead
        || (kind == Kind::Answer && (status < 200 || status == 204 || status == 304));
    match (codings, lengths) {
        (Some(_), Some(_)) => Err("length and coding"),
        _ if bodiless => Ok(Length::Bytes(0)),
        (Some(codings), None) if codings == &["chunked"] => Ok(Length::Chunks),
        (Some(_), None) => Err("another coding"),
        (None, Some(lengths)) => {
            let digits = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
            match lengths.as_slice() {
                [length] if digits(length) => {
                    let length = length.parse().map_err(|_| "huge length")?;
                    Ok(Length::Bytes(length))
                }
                _ => Err("odd length"),
            }
        }
        (None, None) if kind == Kind::Request => Ok(Length::Bytes(0)),
        (None, None) => Ok(Length::ToTheEnd),
    }
}

/// Reads a head as strictly as RFC 9112 lets anybody be.
fn parse(head: &[u8]) -> Result<(String, Headers), &'static str> {
    let text: String = head[..head.len() - 4]
        .iter()
        .copied()
        .map(char::from)
        .collect();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let odd = |line: &str| line.contains(['\r', '\n', '\0']);
    if odd(&first) {
        return Err("odd first line");
    }
    let mut headers = Headers::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("no colon")?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if odd(line) || name.is_empty() || !name.bytes().all(token) {
            return Err("odd header");
        }
        let values = headers.entry(name.to_ascii_lowercase()).or_default();
        values.push(value.trim_matches([' ', '\t']).to_owned());
    }
    Ok((first, headers))
}
