//! Whose account a grant is of, and whether another login is of the same.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    connector::{Claim, ClaimSource, IdentityRules},
    secret::{Secret, scrub},
    time::StoreTime,
};

/// An account at a provider, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Who vouches for it: the issuer of the id token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The person or service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The organisation, where a grant is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What people call it: shown, and given to the provider as a hint. Never compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whether two logins are of the same account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// As far as it was known before, it is the same.
    Same,
    /// It is another one.
    Other,
    /// What was known before is not told now.
    Untold,
}

/// Which account a new authorization may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that the connection has, if it has one that is known.
    Same,
    /// Whichever it is.
    Any,
}

/// What a person has agreed to, kept with the grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Consent {
    /// When: for a login, before its code was sent. The latest one counts.
    pub at: StoreTime,
    /// With which account.
    pub identity: Identity,
    /// Scopes that were asked for.
    pub asked: Vec<String>,
    /// Scopes that were granted.
    pub granted: Vec<String>,
}

impl Identity {
    /// Whether `came` is the account that is kept.
    pub fn compare(&self, came: &Self) -> Sameness {
        let pairs = [
            (&self.issuer, &came.issuer),
            (&self.subject, &came.subject),
            (&self.tenant, &came.tenant),
        ];
        let other = |(kept, came): &(&Option<String>, &Option<String>)| {
            kept.is_some() && came.is_some() && kept != came
        };
        if pairs.iter().any(other) {
            Sameness::Other
        } else if pairs
            .iter()
            .any(|(kept, came)| kept.is_some() && came.is_none())
        {
            Sameness::Untold
        } else {
            Sameness::Same
        }
    }

    /// Reads an account from what came with a login, as the connector says.
    pub fn read(rules: &IdentityRules, sources: &Sources<'_>) -> Self {
        let read = |claim: &Option<Claim>| {
            let claim = claim.as_ref()?;
            let text = match claim.from {
                ClaimSource::IdToken => text(sources.id_token?.get(&claim.field)?)?,
                ClaimSource::Userinfo => text(sources.userinfo?.get(&claim.field)?)?,
                ClaimSource::Reply => sources.reply.get(&claim.field)?.clone(),
                ClaimSource::Callback => sources.callback.get(&claim.field)?.clone(),
            };
            (!text.is_empty() && text.len() <= LONGEST).then_some(text)
        };
        let subject = read(&rules.subject);
        let vouched = rules
            .subject
            .as_ref()
            .is_some_and(|claim| claim.from == ClaimSource::IdToken);
        let issuer = sources.id_token.and_then(|claims| text(claims.get("iss")?));
        Self {
            issuer: issuer.filter(|_| vouched && subject.is_some()),
            subject,
            tenant: read(&rules.tenant),
            name: read(&rules.name).map(|name| scrub(&name, &[])),
        }
    }
}

/// No identifier of an account is longer.
const LONGEST: usize = 512;

/// What comes with a login and may tell whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The id token's claims, checked.
    pub id_token: Option<&'a Map<String, Value>>,
    /// The userinfo endpoint's answer.
    pub userinfo: Option<&'a Map<String, Value>>,
    /// The connector's chosen fields of the token reply.
    pub reply: &'a BTreeMap<String, String>,
    /// The callback's parameters.
    pub callback: &'a BTreeMap<String, String>,
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What an id token must be to be believed.
#[derive(Clone, Copy, Debug)]
pub struct IdTokenCheck<'a> {
    /// The issuer, where it is known.
    pub issuer: Option<&'a str>,
    /// Our client id.
    pub client_id: &'a str,
    /// The nonce that was sent.
    pub nonce: Option<&'a Secret>,
    /// Now.
    pub now: StoreTime,
}

/// Clocks differ by less.
const SKEW_S: i64 = 300;

/// The claims of an id token that came from the token endpoint, over TLS, in answer to our own request:
/// its signature need not be checked then (OpenID Connect Core section 3.1.3.7, point 6). Everything
/// else is.
///
/// # Errors
///
/// What is wrong with it, in words for a person.
pub fn read_id_token(
    token: &Secret,
    check: &IdTokenCheck<'_>,
) -> Result<Map<String, Value>, &'static str> {
    let claims = claims_of(token).ok_or("it cannot be read")?;
    let said = |name: &str| claims.get(name).and_then(Value::as_str);
    let issuer = said("iss").ok_or("it names no issuer")?;
    if check.issuer.is_some_and(|expected| expected != issuer) {
        return Err("it is another issuer's");
    }
    let audience: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&check.client_id) {
        return Err("it is for another application");
    }
    let party = said("azp");
    if party.is_some_and(|party| party != check.client_id) || audience.len() > 1 && party.is_none()
    {
        return Err("it was issued to another application");
    }
    let expires = claims.get("exp").and_then(Value::as_f64);
    let now = check.now.0 / 1000;
    if expires.is_none_or(|at| at + (SKEW_S as f64) < now as f64) {
        return Err("it has expired");
    }
    if let Some(nonce) = check.nonce {
        let repeated = said("nonce").is_some_and(|it| Secret::new(it) == *nonce);
        if !repeated {
            return Err("it does not repeat the nonce");
        }
    }
    Ok(claims)
}

/// The claims in a JWT, unchecked.
fn claims_of(token: &Secret) -> Option<Map<String, Value>> {
    let mut parts = token.expose().split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
