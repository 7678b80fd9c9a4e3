//! Who is calling: API keys, applications, consumers.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
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
    until: Moment,
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
        let key = headers
            .get(AUTHORIZATION)
            .ok_or_else(|| ApiError::unauthorized("Missing authentication"))?;
        let key = key.as_bytes();
        let bearer = key
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key.trim_ascii())
            .ok_or_else(|| ApiError::unauthorized("Invalid Authorization Token"))?;
        let named = text(headers, "x-apideck-app-id")?
            .ok_or_else(|| ApiError::missing_header("x-apideck-app-id"))?;
        let application = self.application_of(bearer).await?;
        if application.as_str() != named {
            return Err(ApiError::unauthorized(
                "The API key belongs to another application than x-apideck-app-id",
            ));
        }
        Ok(Caller { application })
    }

    async fn application_of(&self, key: &[u8]) -> Result<ApplicationId, ApiError> {
        let digest = key_digest(key);
        let now = self.clock.now();
        if let Some(known) = self.known.pin().get(&digest)
            && now < known.until
        {
            return Ok(known.application.clone());
        }
        let found = self
            .store
            .key_by_digest(&digest)
            .await
            .map_err(|error| ApiError::store(&error.0))?;
        match found.filter(|found| bool::from(found.digest.ct_eq(&digest))) {
            Some(found) => {
                let known = Known {
                    application: found.application.clone(),
                    until: now + BELIEVED,
                };
                self.known.pin().insert(digest, known);
                Ok(found.application)
            }
            None => {
                self.known.pin().remove(&digest);
                Err(ApiError::unauthorized("Invalid Authorization Token"))
            }
        }
    }
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
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| ApiError::bad_header(&format!("{name} is not valid UTF-8")))?
        .trim();
    Ok((!text.is_empty()).then_some(text))
}
