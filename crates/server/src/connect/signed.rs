//! Statements of ours that others carry: JWTs, signed with a key of the vault.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokenward::time::StoreTime;

const ISSUER: &str = "tokenward";

/// Signs and reads statements of one kind. The algorithm, the issuer and the audience, which is the kind, are
/// fixed: no other JWT of this vault is taken for one.
pub(super) struct Signer {
    audience: &'static str,
    sign: EncodingKey,
    verify: DecodingKey,
    validation: Validation,
}

/// What every statement says beside its own.
#[derive(Serialize, Deserialize)]
struct Stated<T> {
    iss: String,
    aud: String,
    /// In seconds since 1970.
    iat: i64,
    exp: i64,
    #[serde(flatten)]
    own: T,
}

impl Signer {
    pub(super) fn new(key: &[u8; 32], audience: &'static str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // By the caller's clock, below.
        validation.validate_exp = false;
        Self {
            audience,
            sign: EncodingKey::from_secret(key),
            verify: DecodingKey::from_secret(key),
            validation,
        }
    }

    /// A statement that holds from now on for so many seconds.
    pub(super) fn sign<T: Serialize>(&self, own: T, now: StoreTime, seconds: i64) -> String {
        let iat = now.0.div_euclid(1000);
        let stated = Stated {
            iss: ISSUER.to_owned(),
            aud: self.audience.to_owned(),
            iat,
            exp: iat + seconds,
            own,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &stated, &self.sign)
            .expect("it serializes, and HMAC takes every key")
    }

    /// What was stated, if it is ours, of this kind, and holds.
    pub(super) fn read<T: DeserializeOwned>(&self, token: &str, now: StoreTime) -> Option<T> {
        let read = jsonwebtoken::decode::<Stated<T>>(token, &self.verify, &self.validation);
        let stated = read.ok()?.claims;
        (now.0 < stated.exp.saturating_mul(1000)).then_some(stated.own)
    }
}
