//! Who is calling: the application and its consumer, settled from a request's head before anything
//! of its body is read.

mod keys;
mod session;
mod uses;

use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRef, FromRequestParts};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION, request::Parts};
use tokenward::{
    ApplicationId, ConsumerId, Secret,
    seal::random_bytes,
    store::{NewApiKey, Scope, Scopes},
};

pub use self::keys::Keys;
pub(crate) use self::keys::Naming;
pub(crate) use self::session::Visitor;
use super::error::ApiError;

const APP_ID: &str = "x-apideck-app-id";
const CONSUMER_ID: &str = "x-apideck-consumer-id";

/// A consumer's id has at most this many bytes: it is part of keys in the store, and is held in memory.
pub(crate) const LONGEST_CONSUMER: usize = 256;

/// What a caller's key has to be good for, as a type: who takes a [`Caller`] says by it which key will do, and is
/// not reached with another.
pub(crate) trait KeyFor: Send + Sync + 'static {
    const SCOPE: Scope;
}

/// The vault API.
#[derive(Clone, Debug)]
pub(crate) enum ForVault {}

/// Handing out access tokens.
#[derive(Clone, Debug)]
pub(crate) enum ForTokens {}

impl KeyFor for ForVault {
    const SCOPE: Scope = Scope::Vault;
}

impl KeyFor for ForTokens {
    const SCOPE: Scope = Scope::Token;
}

/// An authenticated caller, whose key is good for this. There is no other way to one than through [`Keys`].
#[derive(Clone)]
pub(crate) struct Caller<P: KeyFor = ForVault> {
    pub(crate) application: ApplicationId,
    /// The consumer that it names, if any.
    pub(crate) consumer: Option<ConsumerId>,
    purpose: PhantomData<P>,
}

/// An authenticated caller that names a consumer.
#[derive(Clone)]
pub(crate) struct ConsumerCaller<P: KeyFor = ForVault> {
    pub(crate) application: ApplicationId,
    pub(crate) consumer: ConsumerId,
    purpose: PhantomData<P>,
}

impl<P: KeyFor> fmt::Debug for Caller<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.application, self.consumer)
    }
}

impl<P: KeyFor> fmt::Debug for ConsumerCaller<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.application, self.consumer)
    }
}

/// What only an authenticated request has: to be implemented for extractors that go through
/// [`Caller`].
pub(crate) trait Identity {}

impl<P: KeyFor> Identity for Caller<P> {}
impl<P: KeyFor> Identity for ConsumerCaller<P> {}

/// The arguments of a handler that begin with an [`Identity`]. Extractors run in the order of the
/// arguments, so that the caller is known before any other is tried, and the body is always the last.
pub(crate) trait Authenticated {}

macro_rules! authenticated {
    ($($more:ident),*) => {
        impl<M, C: Identity, $($more),*> Authenticated for (M, C, $($more,)*) {}
    };
}
authenticated!();
authenticated!(A);
authenticated!(A, B);
authenticated!(A, B, D);

impl<S, P: KeyFor> FromRequestParts<S> for Caller<P>
where
    Keys: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        if session::is_announced(headers)? {
            return Err(ApiError::unauthorized(
                "A session opens its consumer's connections only; this takes an API key",
            ));
        }
        let key = only(headers, AUTHORIZATION.as_str())?;
        let named = text(headers, APP_ID)?;
        let keys = Keys::from_ref(state);
        let deadline = keys.patience();
        let naming = Naming::Header(named.as_deref());
        let application = keys.check(key, naming, P::SCOPE, deadline).await?;
        let consumer = text(headers, CONSUMER_ID)?;
        Ok(Self {
            application,
            consumer: consumer.as_deref().map(consumer_id).transpose()?,
            purpose: PhantomData,
        })
    }
}

impl<S, P: KeyFor> FromRequestParts<S> for ConsumerCaller<P>
where
    Keys: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Caller {
            application,
            consumer,
            ..
        } = Caller::<P>::from_request_parts(parts, state).await?;
        let consumer = consumer.ok_or_else(|| ApiError::missing_header(CONSUMER_ID))?;
        Ok(Self {
            application,
            consumer,
            purpose: PhantomData,
        })
    }
}

/// A consumer's id from a header or an argument.
///
/// # Errors
///
/// 400 if it is too long.
pub(crate) fn consumer_id(text: &str) -> Result<ConsumerId, ApiError> {
    if text.len() > LONGEST_CONSUMER {
        return Err(ApiError::bad_header(&format!(
            "{CONSUMER_ID} has {} bytes; {LONGEST_CONSUMER} are allowed",
            text.len()
        )));
    }
    Ok(text.into())
}

/// A consumer's id that is given otherwise than in a header: one that a header could not name is none.
///
/// # Errors
///
/// 400 if it is empty, too long, or nothing that a header can say.
pub(crate) fn consumer_name(text: &str) -> Result<ConsumerId, ApiError> {
    let sayable = text_of(text.as_bytes()).is_some_and(|said| said == text)
        && !text.chars().any(|c| c.is_ascii_control());
    if !sayable || text.len() > LONGEST_CONSUMER {
        return Err(ApiError::invalid(format!(
            "`consumer_id` must be text of 1 to {LONGEST_CONSUMER} bytes, without control characters and without \
             white space around it"
        )));
    }
    Ok(text.into())
}

/// The value of a header that decides something.
///
/// # Errors
///
/// 400 if there are two: who reads the first and who reads the last would decide differently.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(ApiError::header_twice(name)),
    }
}

/// The text of a header that decides something; an empty header is as good as none (the SDKs send
/// those).
///
/// # Errors
///
/// 400 if there are two.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
    let Some(value) = only(headers, name)? else {
        return Ok(None);
    };
    Ok(text_of(value.as_bytes()))
}

/// A header's text, without the white space that may surround it (RFC 9110 section 5.5) and no other: a
/// consumer's name may begin with any other character. What is not UTF-8 is Latin-1: `fetch` in browsers and
/// Node sends one byte for `é`, and means the same consumer. `None` if nothing is left.
pub(crate) fn text_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    if value.is_empty() {
        return None;
    }
    Some(match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    })
}

/// The token of an `Authorization` header (RFC 6750 section 2.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = authorization.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

fn key_digest(key: &[u8]) -> [u8; 32] {
    digest(&SHA256, key)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// Makes an API key: what is shown once, and what is kept.
pub fn new_key(
    application: &ApplicationId,
    scopes: Scopes,
    lifetime: Option<Duration>,
) -> (Secret, NewApiKey) {
    let text = format!("tw_{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()));
    let kept = NewApiKey {
        id: format!("key_{}", URL_SAFE_NO_PAD.encode(random_bytes::<9>())),
        application: application.clone(),
        digest: key_digest(text.as_bytes()),
        hint: text.chars().take(7).collect(),
        scopes,
        lifetime,
    };
    (Secret::new(text), kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(values: &[&[u8]]) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONSUMER_ID, HeaderValue::from_bytes(value).unwrap());
        }
        Ok(text(&headers, CONSUMER_ID)?.map(Cow::into_owned))
    }

    #[test]
    fn only_the_white_space_of_http_is_no_part_of_a_name() {
        let name = |value: &[u8]| consumer(&[value]).unwrap();
        assert_eq!(name(b" \talice\t ").as_deref(), Some("alice"));
        assert_eq!(name(b" "), None);
        for space in ["\u{a0}", "\u{3000}", "\u{85}", "\u{2028}"] {
            let other = format!("alice{space}");
            assert_eq!(name(other.as_bytes()), Some(other.clone()));
        }
    }

    #[test]
    fn latin1_and_utf8_name_the_same_consumer() {
        for name in ["André", "Ñandú ü", "\u{a0}x"] {
            let one_byte_each: Vec<u8> = name.chars().map(|c| c as u8).collect();
            assert_eq!(consumer(&[&one_byte_each]).unwrap().as_deref(), Some(name));
            assert_eq!(consumer(&[name.as_bytes()]).unwrap().as_deref(), Some(name));
        }
    }

    #[test]
    fn two_consumers_or_an_endless_one_are_none() {
        for values in [&[b"a".as_slice(), b"b"], &[b"a", b"a"], &[b"", b"a"]] {
            assert_eq!(consumer(values).unwrap_err().status(), 400);
        }
        assert!(consumer_id(&"x".repeat(LONGEST_CONSUMER)).is_ok());
        assert!(consumer_id(&"x".repeat(LONGEST_CONSUMER + 1)).is_err());
    }

    /// That this compiles proves that no handler without a caller fits the router.
    #[test]
    fn a_handler_without_a_caller_is_not_authenticated() {
        trait Maybe<Which> {
            fn named() {}
        }
        struct Also;
        impl<T> Maybe<()> for T {}
        impl<T: Authenticated> Maybe<Also> for T {}
        // Ambiguous, if these were authenticated.
        <((), HeaderMap) as Maybe<_>>::named();
        <((), HeaderMap, Caller) as Maybe<_>>::named();
        <((),) as Maybe<_>>::named();
        fn is<T: Authenticated>() {}
        is::<((), Caller)>();
        is::<((), ConsumerCaller, HeaderMap, HeaderMap)>();
    }
}
