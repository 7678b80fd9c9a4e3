//! Who is calling: API keys, applications, consumers.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use subtle::ConstantTimeEq as _;
use tokenward::{
    ApplicationId, ConsumerId, Secret,
    seal::random_bytes,
    store::{ApiKey, Store},
    time::{Clock, Moment, StoreTime},
};

use super::error::ApiError;

/// How long a key that was found is believed without another look: a revoked key works for this
/// much longer, at most, in other processes.
const BELIEVED: Duration = Duration::from_secs(1);
/// How long a key that was found goes on being believed while the store does not answer: a database
/// that is restarted or cut off is no reason to refuse those who are known.
const BELIEVED_ALONE: Duration = Duration::from_secs(300);
/// How long a store is waited for in such a case.
const PROMPT: Duration = Duration::from_secs(1);

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its application.
    pub application: ApplicationId,
}

impl Caller {
    /// The consumer that the headers name.
    ///
    /// # Errors
    ///
    /// 400 if there is none.
    pub fn consumer(&self, headers: &HeaderMap) -> Result<ConsumerId, ApiError> {
        text(headers, "x-apideck-consumer-id")?
            .map(ConsumerId::from)
            .ok_or_else(|| ApiError::missing_header("x-apideck-consumer-id"))
    }
}

/// Checks API keys.
#[derive(Clone)]
pub struct Keys {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    known: Arc<papaya::HashMap<[u8; 32], Known>>,
}

#[derive(Clone)]
struct Known {
    application: ApplicationId,
    /// When it was last found.
    found: Moment,
    until: Moment,
}

/// What is known of a key without asking the store.
enum AtHand<'a> {
    /// Whether it is a key of the application that the caller names.
    Belongs(bool),
    /// Nothing: its digest, and the application.
    Unknown([u8; 32], &'a str),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Keys of a store.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            known: Arc::default(),
        }
    }

    /// The caller of a request.
    ///
    /// # Errors
    ///
    /// 401 without a valid key of the application that `x-apideck-app-id` names; 400 without that
    /// header.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let key = headers.get(AUTHORIZATION);
        let named = text(headers, "x-apideck-app-id")?;
        self.check(key, named).await?;
        Ok(Caller {
            application: named.unwrap_or_default().into(),
        })
    }

    /// Whether an `Authorization` header holds a valid key of the named application.
    ///
    /// # Errors
    ///
    /// 401 if not; 400 without an application.
    pub async fn check(
        &self,
        key: Option<&HeaderValue>,
        named: Option<&str>,
    ) -> Result<(), ApiError> {
        let belongs = match self.at_hand(key, named)? {
            AtHand::Belongs(belongs) => belongs,
            // Boxed, so that the many who are known carry no room for it.
            AtHand::Unknown(digest, named) => {
                Box::pin(self.look_up(digest)).await?.as_str() == named
            }
        };
        if belongs {
            return Ok(());
        }
        Err(ApiError::unauthorized(
            "The API key belongs to another application than x-apideck-app-id",
        ))
    }

    /// As [`check`](Self::check), as far as it goes without the store.
    fn at_hand<'a>(
        &self,
        key: Option<&HeaderValue>,
        named: Option<&'a str>,
    ) -> Result<AtHand<'a>, ApiError> {
        let key = key.ok_or_else(|| ApiError::unauthorized("Missing authentication"))?;
        let bearer = bearer(key.as_bytes())
            .ok_or_else(|| ApiError::unauthorized("Invalid Authorization Token"))?;
        let named = named.ok_or_else(|| ApiError::missing_header("x-apideck-app-id"))?;
        let digest = key_digest(bearer);
        Ok(match self.known_to_be_of(&digest, named) {
            Some(belongs) => AtHand::Belongs(belongs),
            None => AtHand::Unknown(digest, named),
        })
    }

    /// Whether an `Authorization` header is known, without asking anybody, to hold a valid key of
    /// the named application. Never inlined, so that `bench/instructions.py` finds what it costs.
    #[inline(never)]
    pub(crate) fn knows(&self, authorization: &[u8], named: &str) -> bool {
        bearer(authorization)
            .and_then(|key| self.known_to_be_of(&key_digest(key), named))
            .unwrap_or(false)
    }

    /// Whether a key that was looked up a moment ago belongs to an application.
    fn known_to_be_of(&self, digest: &[u8; 32], application: &str) -> Option<bool> {
        let known = self.known.pin();
        let known = known.get(digest)?;
        (self.clock.now() < known.until).then(|| known.application.as_str() == application)
    }

    async fn look_up(&self, digest: [u8; 32]) -> Result<ApplicationId, ApiError> {
        let now = self.clock.now();
        let known = self.known.pin().get(&digest).cloned();
        let asked = self.store.key_by_digest(&digest);
        let found = match known.filter(|known| now < known.found + BELIEVED_ALONE) {
            None => asked.await,
            Some(known) => {
                let answer = tokio::select! {
                    biased;
                    answer = asked => answer.ok(),
                    () = self.clock.sleep(PROMPT) => None,
                };
                match answer {
                    Some(found) => Ok(found),
                    None => return Ok(self.believe(digest, known.application, known.found)),
                }
            }
        };
        let found = found.map_err(|error| ApiError::store(&error.0))?;
        match found.filter(|found| bool::from(found.digest.ct_eq(&digest))) {
            Some(found) => Ok(self.believe(digest, found.application, now)),
            None => {
                self.known.pin().remove(&digest);
                Err(ApiError::unauthorized("Invalid Authorization Token"))
            }
        }
    }

    fn believe(
        &self,
        digest: [u8; 32],
        application: ApplicationId,
        found: Moment,
    ) -> ApplicationId {
        let known = Known {
            application: application.clone(),
            found,
            until: self.clock.now() + BELIEVED,
        };
        self.known.pin().insert(digest, known);
        application
    }
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
pub fn new_key(application: &ApplicationId) -> (Secret, ApiKey) {
    let text = format!("tw_{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()));
    let kept = ApiKey {
        id: format!("key_{}", URL_SAFE_NO_PAD.encode(random_bytes::<9>())),
        application: application.clone(),
        digest: key_digest(text.as_bytes()),
        hint: text.chars().take(7).collect(),
        created_at: StoreTime(0),
    };
    (Secret::new(text), kept)
}

/// A header's text; an empty header is as good as none (the SDKs send those).
///
/// # Errors
///
/// 400 if it is neither ASCII nor UTF-8.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    headers
        .get(name)
        .map_or(Ok(None), |value| text_of(name, value))
}

/// As [`text`], of a value.
///
/// # Errors
///
/// 400 if it is neither ASCII nor UTF-8.
pub(crate) fn text_of<'a>(name: &str, value: &'a HeaderValue) -> Result<Option<&'a str>, ApiError> {
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| ApiError::bad_header(&format!("{name} is not valid UTF-8")))?
        .trim();
    Ok((!text.is_empty()).then_some(text))
}
