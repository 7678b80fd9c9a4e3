//! HTTP/1.1 heads, bodies and pipelines.

use bytes::BytesMut;
use http::StatusCode;
use tokenward_http1::{
    framing::{Chunks, Framing},
    request, response,
};

/// What a line of its own would make of a value.
fn is_one_line(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// A request's head: what is read lies within what came, and what comes later does not change it.
pub fn http_request(data: &[u8]) {
    let mut headers = request::room();
    let request::Found::Whole(whole) = request::read(data, &mut headers) else {
        return;
    };
    assert!(whole.length <= data.len());
    assert!(whole.target.starts_with('/'));
    assert!(whole.headers.iter().all(|header| is_one_line(header.value)));
    let (length, body) = (whole.length, whole.body.to_vec());
    let more = [data, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
    let mut headers = request::room();
    match request::read(&more, &mut headers) {
        request::Found::Whole(again) => {
            assert_eq!((again.length, again.body), (length, &body[..]));
        }
        other => panic!("{other:?}"),
    }
    for there in 0..length {
        let mut headers = request::room();
        let early = request::read(&data[..there], &mut headers);
        assert!(!matches!(early, request::Found::Whole(_)), "{there}");
    }
}

/// An answer's head.
pub fn http_answer(data: &[u8]) {
    let read = response::read(data, data.len() % 2 == 0, |head| {
        assert!(head.headers.iter().all(|header| is_one_line(header.value)));
        assert_ne!(head.status, StatusCode::SWITCHING_PROTOCOLS);
        head.nature
    });
    if let Ok(response::Found::Head(nature, length)) = read {
        assert!(length <= data.len());
        // Who knows not where a body ends must not go on with the connection.
        assert!(nature.framing != Framing::Close || !nature.keep);
    }
}

/// A body in chunks: it does not matter in which pieces it arrives.
pub fn http_chunks(data: &[u8]) {
    let Some((size, data)) = data.split_first() else {
        return;
    };
    assert_eq!(
        chunks(data, data.len().max(1)),
        chunks(data, usize::from(*size) + 1)
    );
}

fn chunks(data: &[u8], pieces: usize) -> (Vec<u8>, bool, bool) {
    let (mut inbox, mut body) = (BytesMut::new(), Vec::new());
    let mut framing = Framing::Chunked(Chunks::default());
    for piece in data.chunks(pieces) {
        inbox.extend_from_slice(piece);
        loop {
            match framing.next(&mut inbox) {
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => break,
                Err(_) => return (body, false, true),
            }
        }
    }
    (body, framing.is_done(), false)
}

/// Requests in a row: it does not matter in which pieces they arrive.
pub fn http_pipeline(data: &[u8]) {
    let Some((size, data)) = data.split_first() else {
        return;
    };
    let pieces = usize::from(*size) + 1;
    assert_eq!(pipeline(data, data.len().max(1)), pipeline(data, pieces));
}

fn pipeline(data: &[u8], pieces: usize) -> Vec<(String, Vec<u8>)> {
    let (mut inbox, mut read) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(pieces) {
        inbox.extend_from_slice(piece);
        loop {
            let mut headers = request::room();
            let length = match request::read(&inbox, &mut headers) {
                request::Found::Partial => break,
                request::Found::Whole(request) => {
                    let first = format!("{} {}", request.method, request.target);
                    read.push((first, request.body.to_vec()));
                    request.length
                }
                request::Found::Other | request::Found::Refused(_) => return read,
            };
            let _ = inbox.split_to(length);
        }
    }
    read
}
