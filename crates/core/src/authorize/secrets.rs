//! What of an attempt is secret: sealed with the row, or handed out once.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{attempt::Digest, identity::Consent};
use crate::{
    id::{AttemptId, GrantId},
    oauth::{KeptReply, TokenSet},
    secret::Secret,
};

/// A secret that says whose it is: `<attempt>.<256 random bits>`. A ticket, a state, a confirm token.
#[derive(Clone, Debug)]
pub struct NamedSecret {
    /// The attempt's public id.
    pub attempt: AttemptId,
    /// All of it.
    pub secret: Secret,
}

impl NamedSecret {
    /// One of an attempt, from random bytes.
    pub fn new(attempt: &AttemptId, random: [u8; 32]) -> Self {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(random));
        Self {
            attempt: attempt.clone(),
            secret: Secret::new(format!("{attempt}.{}", &*secret)),
        }
    }

    /// Reads one that came back; `None` if it cannot be one.
    pub fn read(text: &str) -> Option<Self> {
        let (attempt, rest) = text.split_once('.')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = |text: &str| (1..=64).contains(&text.len()) && text.bytes().all(plain);
        (fits(attempt) && fits(rest)).then(|| Self {
            attempt: attempt.into(),
            secret: Secret::new(text),
        })
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.secret)
    }
}

/// What an attempt must remember and nobody may read.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The PKCE verifier.
    pub verifier: Option<Secret>,
    /// The nonce that an id token must repeat.
    pub id_token_nonce: Option<Secret>,
    /// The nonce that the application gave, to be told to it in the end.
    pub nonce: Option<Secret>,
    /// What was granted, until it is confirmed.
    pub held: Option<Held>,
    /// An answer that could not be read.
    pub unread: Option<KeptReply>,
}

/// What a provider has granted to an attempt.
#[derive(Clone, Debug)]
pub struct Held {
    /// The tokens.
    pub tokens: TokenSet,
    /// The access token's lifetime.
    pub lifetime: Option<Duration>,
    /// How long the refresh token may rest.
    pub rest: Option<Duration>,
    /// By whom, for what, and when.
    pub consent: Consent,
    /// The grant that the connection had when the code was sent, and the version at which it was
    /// authorized.
    pub base: Option<(GrantId, u64)>,
    /// The confirm token, where it waits for one.
    pub confirm: Option<Secret>,
}

/// The sealed form.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Plain<'a> {
    #[serde(rename = "v", skip_serializing_if = "Option::is_none")]
    verifier: Option<Cow<'a, str>>,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    id_token_nonce: Option<Cow<'a, str>>,
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    nonce: Option<Cow<'a, str>>,
    #[serde(rename = "h", skip_serializing_if = "Option::is_none")]
    held: Option<PlainHeld<'a>>,
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    unread: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct PlainHeld<'a> {
    tokens: Cow<'a, str>,
    lifetime_ms: Option<u64>,
    rest_ms: Option<u64>,
    consent: Cow<'a, Consent>,
    base: Option<(GrantId, u64)>,
    confirm: Option<Cow<'a, str>>,
}

fn millis(span: Option<Duration>) -> Option<u64> {
    span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn encoded(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes))
}

fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    URL_SAFE_NO_PAD.decode(text).ok().map(Zeroizing::new)
}

impl Held {
    /// The plain bytes that are to be sealed.
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let tokens = encoded(&self.tokens.to_plain());
        let plain = self.plain(&tokens);
        Zeroizing::new(serde_json::to_vec(&plain).expect("strings serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote; `None` if it is something else.
    pub fn from_plain(bytes: &[u8]) -> Option<Self> {
        Self::read(serde_json::from_slice(bytes).ok()?)
    }

    fn plain<'a>(&'a self, tokens: &'a str) -> PlainHeld<'a> {
        PlainHeld {
            tokens: tokens.into(),
            lifetime_ms: millis(self.lifetime),
            rest_ms: millis(self.rest),
            consent: Cow::Borrowed(&self.consent),
            base: self.base.clone(),
            confirm: self.confirm.as_ref().map(|it| it.expose().into()),
        }
    }

    fn read(plain: PlainHeld<'_>) -> Option<Self> {
        Some(Self {
            tokens: TokenSet::from_plain(&decoded(&plain.tokens)?)?,
            lifetime: plain.lifetime_ms.map(Duration::from_millis),
            rest: plain.rest_ms.map(Duration::from_millis),
            consent: plain.consent.into_owned(),
            base: plain.base,
            confirm: plain.confirm.map(|it| Secret::new(it.into_owned())),
        })
    }
}

impl Secrets {
    /// The plain bytes that are to be sealed.
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        fn text(secret: &Option<Secret>) -> Option<Cow<'_, str>> {
            secret.as_ref().map(|secret| secret.expose().into())
        }
        let tokens = self.held.as_ref().map(|it| encoded(&it.tokens.to_plain()));
        let unread = self.unread.as_ref().map(|it| encoded(&it.to_plain()));
        let held = self.held.as_ref().zip(tokens.as_ref());
        let plain = Plain {
            verifier: text(&self.verifier),
            id_token_nonce: text(&self.id_token_nonce),
            nonce: text(&self.nonce),
            held: held.map(|(held, tokens)| held.plain(tokens)),
            unread: unread.as_ref().map(|text| text.as_str().into()),
        };
        Zeroizing::new(serde_json::to_vec(&plain).expect("strings serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote; `None` if it is something else.
    pub fn from_plain(bytes: &[u8]) -> Option<Self> {
        let plain: Plain<'_> = serde_json::from_slice(bytes).ok()?;
        let secret = |text: Option<Cow<'_, str>>| text.map(|text| Secret::new(text.into_owned()));
        Some(Self {
            verifier: secret(plain.verifier),
            id_token_nonce: secret(plain.id_token_nonce),
            nonce: secret(plain.nonce),
            held: match plain.held {
                Some(held) => Some(Held::read(held)?),
                None => None,
            },
            unread: match plain.unread {
                Some(text) => Some(KeptReply::from_plain(&decoded(&text)?)?),
                None => None,
            },
        })
    }

    /// What the application gave, and nothing of what the exchange needed.
    #[must_use]
    pub fn kept(&self) -> Self {
        Self {
            nonce: self.nonce.clone(),
            ..Self::default()
        }
    }
}
