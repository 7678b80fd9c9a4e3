//! A new authorization: what a store reads for it, and what is decided from that.

use super::{Connection, ConnectionPatch};
use crate::{
    id::{ConnectionKey, GrantId},
    refresh::ledger::{FreshGrant, GrantRow},
    time::StoreTime,
};

/// A new authorization (or import) for a connection, in one statement.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The connection; made if it does not exist.
    pub connection: ConnectionKey,
    /// Its grant: a new id, or the one that it has.
    pub grant: GrantId,
    /// The grant's version that was read; 0 for a new grant.
    pub expected: u64,
    /// The token set, sealed for the version after `expected`.
    pub fresh: FreshGrant,
    /// Changes to the connection's own values.
    pub patch: ConnectionPatch,
}

/// What became of an authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorized {
    /// Done.
    Done(Box<Connection>, Box<GrantRow>),
    /// Nothing was changed.
    Conflict(Conflict),
}

/// Why an authorization was not saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The grant's version has moved, or the connection has another grant: read again.
    Moved,
    /// Another grant has the same refresh token: share it.
    Twin(GrantId),
    /// A refresh has replaced this refresh token here. Its provider would take a use of it for
    /// theft, and could revoke what has replaced it.
    Replaced {
        /// The grant that holds a newer one.
        grant: GrantId,
        /// When it was replaced.
        at: StoreTime,
    },
}

/// What a store has read for an authorization, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// The grant that the request names.
    pub row: Option<GrantRow>,
    /// The connection.
    pub connection: Option<Connection>,
    /// Whether the grant that the connection uses exists.
    pub granted: bool,
    /// The first grant by id, of the same application and connector, with the same refresh token.
    pub twin: Option<GrantId>,
    /// Where the refresh token was replaced, in a grant of the same application and connector.
    pub replaced: Option<ReplacedToken>,
}

impl Authorize {
    /// The rows to save, or why not.
    ///
    /// # Errors
    ///
    /// [`Conflict`].
    pub fn decide(
        self,
        present: Present,
        now: StoreTime,
    ) -> Result<(Connection, GrantRow), Conflict> {
        if let Some(twin) = present.twin.filter(|twin| *twin != self.grant) {
            return Err(Conflict::Twin(twin));
        }
        if present.row.as_ref().map_or(0, |row| row.version) != self.expected {
            return Err(Conflict::Moved);
        }
        let used = present.connection.as_ref().and_then(|c| c.grant.as_ref());
        let theirs = if self.expected > 0 {
            used != Some(&self.grant)
        } else {
            // A new grant does not replace one that exists.
            present.granted
        };
        if theirs {
            return Err(Conflict::Moved);
        }
        // A provider may grant an earlier token once more: what is held at present is no old one.
        let held = present.row.as_ref().and_then(|row| row.fingerprint);
        if let Some(replaced) = present.replaced
            && held != Some(replaced.fingerprint)
        {
            return Err(Conflict::Replaced {
                grant: replaced.grant,
                at: replaced.at,
            });
        }
        let key = self.connection;
        let row = match present.row {
            Some(mut row) => {
                row.authorize(self.fresh, now);
                row
            }
            None => self.fresh.into_row(
                self.grant.clone(),
                key.application.clone(),
                key.service.clone(),
                now,
            ),
        };
        let mut connection = present
            .connection
            .unwrap_or_else(|| Connection::new(key, now));
        connection.grant = Some(self.grant);
        connection.apply(self.patch, now);
        Ok((connection, row))
    }
}

/// A refresh token that a refresh has replaced, as a digest. The newest are kept of each grant, so
/// that an old export is recognised when it is imported again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedToken {
    /// The grant that holds a newer one.
    pub grant: GrantId,
    /// Its place among the grant's: whatever was there is forgotten.
    pub slot: u8,
    /// Keyed digest of the token.
    pub fingerprint: [u8; 32],
    /// When it was replaced.
    pub at: StoreTime,
}

impl ReplacedToken {
    /// So many are kept of each grant.
    pub const KEPT: u64 = 16;

    /// What a commit has replaced. A token that a person has replaced may be alive still, and is
    /// none of these.
    pub fn between(before: &GrantRow, after: &GrantRow, at: StoreTime) -> Option<Self> {
        let refreshed = after.version > before.version
            && after.authorized_version == before.authorized_version
            && after.fingerprint.is_some()
            && after.fingerprint != before.fingerprint;
        Some(Self {
            grant: before.id.clone(),
            slot: Self::slot(before.version),
            fingerprint: before.fingerprint.filter(|_| refreshed)?,
            at,
        })
    }

    fn slot(version: u64) -> u8 {
        u8::try_from(version % Self::KEPT).unwrap_or_default()
    }
}
