//! A new authorization: what a store reads for it, and what is decided from that.

use super::{Connection, ConnectionPatch};
use crate::{
    authorize::{Account, AttemptRow, Identity, Sameness},
    id::{ConnectionKey, GrantId},
    refresh::ledger::{FreshGrant, GrantRow},
    time::StoreTime,
};

/// A new authorization (or import) for a connection, in one statement.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The connection; made if it does not exist.
    pub connection: ConnectionKey,
    /// The grant that it was seen to use, if that exists.
    pub held: Option<GrantId>,
    /// Its grant from now on: a new id, the one that it has, or another that has the same token. The
    /// one that it used before goes with its last connection.
    pub grant: GrantId,
    /// The grant's version that was read; 0 for a new grant.
    pub expected: u64,
    /// Which account it may be of.
    pub account: Account,
    /// The token set, sealed for the version after `expected`.
    pub fresh: FreshGrant,
    /// Changes to the connection's own values.
    pub patch: ConnectionPatch,
    /// The attempt that ends with it, as it is then; its revision is the one that was read. What the
    /// provider has just granted to it is alive, whatever was seen of the token before.
    pub attempt: Option<Box<AttemptRow>>,
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
    /// The grant's version or the attempt has moved, or the connection has another grant: read again.
    Moved,
    /// It is of another account than the connection's, or that could not be told.
    OtherAccount(Box<Identity>, Sameness),
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
    /// The grant that the connection uses, if it exists.
    pub used: Option<GrantRow>,
    /// The attempt's revision.
    pub attempt: Option<u64>,
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
        if present.used.as_ref().map(|row| &row.id) != self.held.as_ref() {
            return Err(Conflict::Moved);
        }
        if self.attempt.as_ref().map(|attempt| attempt.revision) != present.attempt {
            return Err(Conflict::Moved);
        }
        self.same_account(present.used.as_ref())?;
        // A provider may grant an earlier token once more: what is held at present is no old one.
        let held = present.row.as_ref().and_then(|row| row.fingerprint);
        if let Some(replaced) = present.replaced
            && held != Some(replaced.fingerprint)
            && self.attempt.is_none()
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

    fn same_account(&self, used: Option<&GrantRow>) -> Result<(), Conflict> {
        let kept = used.and_then(|row| row.consent.as_ref());
        let Some(kept) = kept.filter(|_| self.account == Account::Same) else {
            return Ok(());
        };
        let nobody = Identity::default();
        let came = self.fresh.consent.as_ref();
        let came = came.map_or(&nobody, |consent| &consent.identity);
        match kept.identity.compare(came) {
            Sameness::Same => Ok(()),
            other => Err(Conflict::OtherAccount(
                Box::new(kept.identity.clone()),
                other,
            )),
        }
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
