//! The desk of the token endpoint: what a form gets, as a change of the state.

use std::time::Duration;

use super::{
    books::{EventKind, GrantId, Note},
    ledger::{AccessId, Decision, RefreshId, Refusal},
    oauth::{Form, OauthError},
    secret::s256,
    state::State,
};

/// The tokens of a good reply. No Debug: they are secrets.
pub(super) struct Granted {
    pub(super) access_token: String,
    pub(super) expires_in: Duration,
    pub(super) refresh_token: Option<String>,
    pub(super) scope: Option<String>,
}

impl State {
    /// Decides a token request. With `rotate` false a refresh keeps the presented token.
    pub(super) fn decide(
        &mut self,
        request: u64,
        form: &Form,
        rotate: bool,
        now: Duration,
    ) -> Result<Granted, OauthError> {
        let grant_type = form.field("grant_type").unwrap_or_default();
        let decided = form.client(self).and_then(|client| match grant_type {
            "refresh_token" => self.decide_refresh(request, &client, form, rotate, now),
            "authorization_code" => self.decide_code(request, &client, form, now),
            "client_credentials" => Ok(self.decide_client(&client, form, now)),
            _ => Err(OauthError::new(
                "unsupported_grant_type",
                "unknown grant_type",
            )),
        });
        match decided {
            Ok((grant, granted)) => {
                let presented = form.field("refresh_token");
                let (access, refresh) = self.numbers(&granted);
                let note = Note::new(EventKind::Granted, Some(grant))
                    .request(request)
                    .token(presented.and_then(|token| Some(self.refresh.get(token)?.1)))
                    .granted(access, refresh);
                self.note(now, note);
                self.request_granted(request, grant, now);
                Ok(granted)
            }
            Err(error) => {
                let secret = form.field("refresh_token").or(form.field("code"));
                let grant = secret.and_then(|secret| self.grant_of(secret));
                self.note_refusal(request, grant, grant_type, &error, now);
                Err(error)
            }
        }
    }

    /// The tokens of a reply, by their numbers in the family.
    fn numbers(&self, granted: &Granted) -> (AccessId, Option<RefreshId>) {
        let refresh = granted.refresh_token.as_ref();
        (
            self.access[&granted.access_token].1,
            refresh.map(|refresh| self.refresh[refresh].1),
        )
    }

    /// Books a refusal, which may be a fault's.
    pub(super) fn note_refusal(
        &mut self,
        request: u64,
        grant: Option<GrantId>,
        grant_type: &str,
        error: &OauthError,
        now: Duration,
    ) {
        let of_refresh = grant_type == "refresh_token" && error.code == "invalid_grant";
        self.books.count(grant, |counts| {
            counts.refreshes_refused += u64::from(of_refresh);
            counts.other_refusals += u64::from(!of_refresh);
        });
        let refused = Note::new(EventKind::Refused, grant).request(request);
        self.note(
            now,
            refused.text(format!("{}, {}", error.code, error.description)),
        );
    }

    fn decide_refresh(
        &mut self,
        request: u64,
        client: &str,
        form: &Form,
        rotate: bool,
        now: Duration,
    ) -> Result<(GrantId, Granted), OauthError> {
        let presented = form
            .field("refresh_token")
            .ok_or_else(|| OauthError::invalid_request("no refresh_token"))?;
        let (grant, token) = *self
            .refresh
            .get(presented)
            .ok_or_else(|| OauthError::invalid_grant("unknown refresh token"))?;
        if self.grants[&grant].client_id != client {
            return Err(OauthError::invalid_grant("another client's refresh token"));
        }
        let decision = self.family(grant).refresh(token, rotate, now);
        let (Decision::Granted { replay, .. } | Decision::Refused { replay, .. }) = decision;
        let about = |kind| {
            Note::new(kind, Some(grant))
                .request(request)
                .token(Some(token))
        };
        if replay {
            self.note(now, about(EventKind::Replay));
        }
        match decision {
            Decision::Granted {
                access,
                refresh,
                replay,
            } => {
                self.books.count(Some(grant), |counts| {
                    counts.refreshes_granted += 1;
                    counts.replays_allowed += u64::from(replay);
                });
                let granted = Granted {
                    access_token: self.name_access(grant, access),
                    expires_in: self.family(grant).terms().access_ttl,
                    refresh_token: refresh.map(|refresh| self.name_refresh(grant, refresh)),
                    scope: self.grants[&grant].scope.clone(),
                };
                Ok((grant, granted))
            }
            Decision::Refused {
                reason,
                replay,
                revoked_family,
            } => {
                self.books.count(Some(grant), |counts| {
                    counts.replays_refused += u64::from(replay);
                    counts.family_revocations += u64::from(revoked_family);
                });
                if revoked_family {
                    self.note(
                        now,
                        about(EventKind::Revoked).text("the family, for a replay"),
                    );
                }
                Err(OauthError::invalid_grant(match reason {
                    Refusal::Unknown => "unknown refresh token",
                    Refusal::Replaced => "the refresh token was used before",
                    Refusal::Expired => "the refresh token has expired",
                    Refusal::Revoked => "the grant was revoked",
                }))
            }
        }
    }

    fn decide_code(
        &mut self,
        request: u64,
        client: &str,
        form: &Form,
        now: Duration,
    ) -> Result<(GrantId, Granted), OauthError> {
        let presented = form
            .field("code")
            .ok_or_else(|| OauthError::invalid_request("no code"))?;
        if let Some(verifier) = form.field("code_verifier") {
            self.secrets.push(verifier.to_owned());
        }
        let code = self
            .codes
            .get(presented)
            .filter(|code| code.client_id == client)
            .ok_or_else(|| OauthError::invalid_grant("unknown code"))?;
        if let Some(grant) = code.spent_for {
            // RFC 6749 section 4.1.2: what a stolen code gave must not stay good.
            if self.family(grant).revoke() {
                self.books
                    .count(Some(grant), |counts| counts.family_revocations += 1);
                let revoked = Note::new(EventKind::Revoked, Some(grant)).request(request);
                self.note(now, revoked.text("the family, for a code used twice"));
            }
            return Err(OauthError::invalid_grant("the code was used before"));
        }
        if now >= code.expires_at {
            return Err(OauthError::invalid_grant("the code has expired"));
        }
        if form.field("redirect_uri") != Some(code.redirect_uri.as_str()) {
            return Err(OauthError::invalid_grant("another redirect_uri"));
        }
        let proven = match (&code.challenge, form.field("code_verifier")) {
            (Some(challenge), Some(verifier)) => s256(verifier) == *challenge,
            (None, None) => true,
            _ => false,
        };
        if !proven {
            return Err(OauthError::invalid_grant("wrong code_verifier"));
        }

        let (terms, scope) = (self.terms, code.scope.clone());
        let grant = self.open_grant(client.to_owned(), scope.clone(), terms);
        let (access_token, refresh_token) = self.first_pair(grant, terms.access_ttl, now);
        if let Some(code) = self.codes.get_mut(presented) {
            code.spent_for = Some(grant);
        }
        self.books
            .count(Some(grant), |counts| counts.code_exchanges += 1);
        let granted = Granted {
            access_token,
            expires_in: terms.access_ttl,
            refresh_token: Some(refresh_token),
            scope,
        };
        Ok((grant, granted))
    }

    fn decide_client(&mut self, client: &str, form: &Form, now: Duration) -> (GrantId, Granted) {
        let terms = self.terms;
        let scope = form.field("scope").map(str::to_owned);
        let grant = match self.machine_grants.get(client) {
            Some(grant) => *grant,
            None => {
                let grant = self.open_grant(client.to_owned(), scope.clone(), terms);
                self.machine_grants.insert(client.to_owned(), grant);
                grant
            }
        };
        let access = self.family(grant).issue_access(now);
        self.books
            .count(Some(grant), |counts| counts.client_credentials += 1);
        let granted = Granted {
            access_token: self.name_access(grant, access),
            expires_in: terms.access_ttl,
            refresh_token: None,
            scope,
        };
        (grant, granted)
    }
}
