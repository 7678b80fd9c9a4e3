//! Where a connection stands, for people and programs: one answer for every face.

use crate::{
    connector::Connector,
    oauth::TokenSet,
    refresh::ledger::{GrantRow, Standing},
    seal::Purpose,
    store::Connection,
    time::StoreTime,
};

use super::Vault;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// There is no connection yet.
    Available,
    /// It exists, and nobody has authorized it.
    Added,
    /// It is authorized, and settings that it needs are missing.
    Authorized,
    /// It can be used.
    Callable,
    /// It was authorized, and must be authorized anew.
    Invalid,
}

impl State {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Added => "added",
            Self::Authorized => "authorized",
            Self::Callable => "callable",
            Self::Invalid => "invalid",
        }
    }
}

/// What a connection needs, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing.
    Ok,
    /// An authorization.
    NeedsAuth,
    /// Settings.
    MissingSettings,
    /// A refresh has failed and will be tried again.
    PendingRefresh,
}

impl Health {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NeedsAuth => "needs_auth",
            Self::MissingSettings => "missing_settings",
            Self::PendingRefresh => "pending_refresh",
        }
    }
}

/// What is known of a connection's grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantFacts {
    /// The provider has ended it.
    pub dead: bool,
    /// The access token lives.
    pub access_alive: bool,
    /// A new access token can be had without a person.
    pub refreshable: bool,
    /// The last refresh failed.
    pub in_trouble: bool,
}

/// Where a connection stands. `settings_missing` and `grant` are of a connection that exists.
pub fn state(exists: bool, settings_missing: bool, grant: Option<GrantFacts>) -> (State, Health) {
    let grant = match grant {
        _ if !exists => return (State::Available, Health::NeedsAuth),
        None => return (State::Added, Health::NeedsAuth),
        Some(grant) => grant,
    };
    if grant.dead || !grant.access_alive && !grant.refreshable {
        return (State::Invalid, Health::NeedsAuth);
    }
    if settings_missing {
        return (State::Authorized, Health::MissingSettings);
    }
    if grant.in_trouble {
        return (State::Callable, Health::PendingRefresh);
    }
    (State::Callable, Health::Ok)
}

impl Vault {
    /// Where a connection stands, with its grant's row as it was `at` that time.
    pub fn state(
        &self,
        connector: &Connector,
        connection: Option<&Connection>,
        grant: Option<&GrantRow>,
        at: StoreTime,
    ) -> (State, Health) {
        let missing = connection.is_some_and(|connection| {
            connector.settings.iter().any(|(name, setting)| {
                let given = connection.settings.contains_key(name);
                setting.required && setting.default.is_none() && !given
            })
        });
        let facts = grant.map(|row| self.facts(row, at));
        state(connection.is_some(), missing, facts)
    }

    fn facts(&self, row: &GrantRow, at: StoreTime) -> GrantFacts {
        let access_alive = row.access_alive(at);
        GrantFacts {
            dead: matches!(row.standing, Standing::Dead { .. }),
            access_alive,
            // Every refresh token has a fingerprint. What has none may yet be minted with the
            // client's credentials; only what is sealed tells, and only the expired need to ask.
            refreshable: row.fingerprint.is_some() || !access_alive && self.mints(row),
            in_trouble: row.trouble.is_some(),
        }
    }

    fn mints(&self, row: &GrantRow) -> bool {
        let purpose = Purpose::TokenSet {
            grant: &row.id,
            version: row.version,
        };
        let opened = self.inner.unseal(purpose, &row.sealed).ok();
        let tokens = opened.and_then(|plain| TokenSet::from_plain(&plain));
        // What does not open here is not called lost.
        tokens.is_none_or(|tokens| tokens.refreshable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_connection_stands() {
        let fine = GrantFacts {
            dead: false,
            access_alive: true,
            refreshable: true,
            in_trouble: false,
        };
        let dead = GrantFacts { dead: true, ..fine };
        let expired = GrantFacts {
            access_alive: false,
            ..fine
        };
        let final_token = GrantFacts {
            refreshable: false,
            ..fine
        };
        let spent = GrantFacts {
            access_alive: false,
            ..final_token
        };
        let failing = GrantFacts {
            in_trouble: true,
            ..expired
        };
        let cases = [
            (false, false, None, "available", "needs_auth"),
            (true, false, None, "added", "needs_auth"),
            (true, true, None, "added", "needs_auth"),
            (true, false, Some(fine), "callable", "ok"),
            (true, false, Some(expired), "callable", "ok"),
            (true, false, Some(final_token), "callable", "ok"),
            (true, false, Some(failing), "callable", "pending_refresh"),
            (true, true, Some(fine), "authorized", "missing_settings"),
            (true, true, Some(failing), "authorized", "missing_settings"),
            (true, false, Some(dead), "invalid", "needs_auth"),
            (true, false, Some(spent), "invalid", "needs_auth"),
            (true, true, Some(spent), "invalid", "needs_auth"),
        ];
        for (exists, missing, grant, expected_state, expected_health) in cases {
            let (state, health) = state(exists, missing, grant);
            assert_eq!(
                (state.as_str(), health.as_str()),
                (expected_state, expected_health),
                "{exists} {missing} {grant:?}"
            );
        }
    }
}
