use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};
use proptest::prelude::*;

use super::*;

const PLAIN: &[u8] = br#"{"error":"invalid_grant","error_description":"Token expired"}"#;
const LIMIT: usize = 1 << 16;

/// `brotli` and `zstd --check` of [`PLAIN`], as Node's and Debian's made them.
const BROTLI: &str = "GzwAIBwJNo50O0EDp2qRr7S9qcPSV2RuHnDxpSRFpBrgISvtJpik0MmGDYA1wkKfU7G74JAgDA==";
const ZSTD: &str = "KLUv/QRY6QEAeyJlcnJvciI6ImludmFsaWRfZ3JhbnQiLCJlcnJvcl9kZXNjcmlwdGlvbiI6IlRva2VuIGV4cGlyZWQifXREWbA=";
/// 8 MiB of zeros.
const BROTLI_BOMB: &str = "m///f/gnAOKxQCD3/g8=";

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn bare_deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

fn base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn coded() -> [(&'static [u8], Vec<u8>); 7] {
    [
        (b"gzip", gzip(PLAIN)),
        (b"X-GZip", gzip(PLAIN)),
        (b"deflate", zlib(PLAIN)),
        (b"deflate", bare_deflate(PLAIN)),
        (b"br", base64(BROTLI)),
        (b"zstd", base64(ZSTD)),
        (b"zstd", zstd(PLAIN)),
    ]
}

fn decode(coding: &[u8], body: &[u8]) -> Result<Bytes, DecodeError> {
    decode_body(coding, Bytes::copy_from_slice(body), LIMIT)
}

#[test]
fn every_registered_coding_is_undone() {
    for (coding, body) in coded() {
        assert_eq!(decode(coding, &body).unwrap(), PLAIN, "{coding:?}");
    }
    for nothing in ["", "identity", " Identity ,", "none"] {
        assert_eq!(decode(nothing.as_bytes(), PLAIN).unwrap(), PLAIN);
    }
}

#[test]
fn codings_in_a_row_are_undone_from_the_last() {
    let body = gzip(&base64(BROTLI));
    assert_eq!(decode(b"br, gzip", &body).unwrap(), PLAIN);
    assert_eq!(decode(b"br,identity,,\tx-gzip ", &body).unwrap(), PLAIN);
    assert!(decode(b"gzip, br", &body).is_err());

    let mut headers = HeaderMap::new();
    headers.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
    headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert_eq!(decode(&content_encoding(&headers), &body).unwrap(), PLAIN);

    let many = [b"gzip".as_slice(); MOST_CODINGS + 1].join(&b',');
    assert!(matches!(decode(&many, &body), Err(DecodeError::TooMany)));
}

#[test]
fn a_body_that_is_cut_off_is_an_error_wherever_it_is_cut() {
    for (coding, body) in coded() {
        for end in 1..body.len() {
            let cut = decode(coding, &body[..end]);
            assert!(
                matches!(cut, Err(DecodeError::Broken { .. })),
                "{coding:?} of {end} bytes: {cut:?}"
            );
        }
        assert_eq!(decode(coding, b"").unwrap(), "", "an answer to HEAD");
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    for (coding, bomb) in [
        (b"gzip".as_slice(), gzip(&zeros)),
        (b"deflate", zlib(&zeros)),
        (b"deflate", bare_deflate(&zeros)),
        (b"br", base64(BROTLI_BOMB)),
        (b"zstd", zstd(&zeros)),
        (b"gzip, gzip", gzip(&gzip(&zeros))),
        (b"identity", zeros.clone()),
    ] {
        let result = decode(coding, &bomb);
        assert!(
            matches!(result, Err(DecodeError::TooLarge(LIMIT))),
            "{coding:?}"
        );
        let whole = decode_body(coding, bomb.into(), zeros.len()).unwrap();
        assert!(whole == zeros, "{coding:?}");
    }
}

#[test]
fn members_and_frames_in_a_row_are_one_body() {
    let twice = [PLAIN, PLAIN].concat();
    let skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0any";
    assert_eq!(decode(b"gzip", &gzip(PLAIN).repeat(2)).unwrap(), twice);
    let frames = [&base64(ZSTD)[..], skippable, &zstd(PLAIN)].concat();
    assert_eq!(decode(b"zstd", &frames).unwrap(), twice);
    for (coding, mut body) in coded() {
        body.extend(b"\0\0 padding");
        assert_eq!(decode(coding, &body).unwrap(), PLAIN, "{coding:?}");
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    for (coding, mut body) in [
        (b"gzip".as_slice(), gzip(PLAIN)),
        (b"deflate", zlib(PLAIN)),
        (b"zstd", base64(ZSTD)),
    ] {
        let length = body.len();
        // gzip ends with the length, the others with the checksum.
        body[length - if coding == b"gzip" { 5 } else { 1 }] ^= 1;
        assert!(decode(coding, &body).is_err(), "{coding:?}");
    }
}

#[test]
fn what_cannot_be_decoded_stays_as_it_came() {
    let answer = |coding: &'static [u8], body: &[u8]| {
        let mut headers = HeaderMap::new();
        if !coding.is_empty() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_bytes(coding).unwrap());
        }
        let body = decode_answer(&mut headers, Bytes::copy_from_slice(body), LIMIT);
        (headers.contains_key(CONTENT_ENCODING), body)
    };
    let zipped = gzip(PLAIN);
    assert_eq!(answer(b"gzip", &zipped), (false, PLAIN.into()));
    // Compressed, and nobody said so.
    assert_eq!(answer(b"", &zipped), (false, PLAIN.into()));
    // Said to be compressed, and it is not.
    assert_eq!(answer(b"gzip", PLAIN), (true, PLAIN.into()));
    assert_eq!(answer(b"UTF-8", PLAIN), (true, PLAIN.into()));
    let cut = &zipped[..zipped.len() - 3];
    assert_eq!(answer(b"gzip", cut), (true, Bytes::copy_from_slice(cut)));
}

proptest! {
    /// Neither a panic nor more than the limit, whatever comes.
    #[test]
    fn damaged_bodies_are_refused_or_read(
        which in 0_usize..7,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        more in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (coding, mut body) = coded()[which].clone();
        let at = at.index(body.len());
        body[at] = byte;
        body.extend(more);
        if let Ok(decoded) = decode(coding, &body) {
            prop_assert!(decoded.len() <= LIMIT);
        }
    }
}
