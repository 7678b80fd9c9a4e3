//! Broken variants of the safeguards. Each is a small deviation around the real code; the model
//! checker must catch every one, which is how the checker itself is tested.

use super::{Breach, Kind, Policy};

/// One safeguard taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// An end is recorded whatever the epoch of the claim in force.
    NoEpochCheck,
    /// No attempt is on record before the refresh token leaves.
    NoIntent,
    /// The grant is condemned without comparing version and claim in the same statement.
    NoReRead,
    /// The flight belongs to the caller who began it, and ends when that caller leaves.
    CallerOwned,
    /// A refresh token whose answer was lost is sent again whatever the replay policy.
    BlindReplay,
    /// Whoever ends its work clears the claim, also somebody else's.
    ForeignRelease,
    /// Waiters get the new token before it is committed.
    UseBeforeCommit,
    /// While the store is down, a granted answer is kept in memory only.
    NoSpool,
    /// An answer that comes after its claim was taken over is thrown away.
    LateAnswerDropped,
    /// An owner sends however old its claim is.
    NoNotAfter,
    /// A commit does not compare the version.
    NoVersionCheck,
    /// A re-authorization does not void the refresh that is under way.
    NoVoid,
    /// The snapshot of an adopted version replaces a newer one.
    SnapshotGoesBack,
    /// A 401 for an older version is taken for one of the present version.
    StaleRejection,
    /// Not a safeguard but an assumption: an owner may stop between the check of its claim's age
    /// and the write of the first byte for longer than half a claim.
    LongGap,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::NoEpochCheck,
        Self::NoIntent,
        Self::NoReRead,
        Self::CallerOwned,
        Self::BlindReplay,
        Self::ForeignRelease,
        Self::UseBeforeCommit,
        Self::NoSpool,
        Self::LateAnswerDropped,
        Self::NoNotAfter,
        Self::NoVersionCheck,
        Self::NoVoid,
        Self::SnapshotGoesBack,
        Self::StaleRejection,
        Self::LongGap,
    ];

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::NoEpochCheck => "no epoch check",
            Self::NoIntent => "no intent record",
            Self::NoReRead => "no re-read before condemning",
            Self::CallerOwned => "caller-owned refresh",
            Self::BlindReplay => "blind replay",
            Self::ForeignRelease => "release by a non-owner",
            Self::UseBeforeCommit => "use before commit",
            Self::NoSpool => "no spool",
            Self::LateAnswerDropped => "late answer dropped",
            Self::NoNotAfter => "send after the claim's time",
            Self::NoVersionCheck => "no version check in commit",
            Self::NoVoid => "re-authorization does not void",
            Self::SnapshotGoesBack => "snapshot goes back",
            Self::StaleRejection => "401 of an older version carried over",
            Self::LongGap => "assumption dropped: long stop between check and write",
        }
    }

    /// The policy under which it is looked for.
    pub fn policy(self) -> Policy {
        match self {
            Self::NoIntent | Self::BlindReplay | Self::StaleRejection => Policy::Revokes,
            Self::NoReRead | Self::NoSpool | Self::LateAnswerDropped => Policy::Refused,
            Self::SnapshotGoesBack | Self::NoVersionCheck | Self::UseBeforeCommit => Policy::Grace,
            Self::NoEpochCheck
            | Self::CallerOwned
            | Self::ForeignRelease
            | Self::NoNotAfter
            | Self::NoVoid
            | Self::LongGap => Policy::Harmless,
        }
    }

    /// The disturbances under which it is looked for: those that its safeguard is against.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::StaleRejection => &[Kind::Wire, Kind::Report],
            Self::NoIntent => &[Kind::Crash, Kind::Force],
            Self::BlindReplay => &[Kind::Wire, Kind::Crash],
            Self::CallerOwned => &[Kind::Leave],
            Self::NoSpool => &[Kind::Store, Kind::Crash],
            Self::NoVersionCheck | Self::NoVoid => &[Kind::Person, Kind::Store],
            Self::SnapshotGoesBack => &[Kind::Person],
            Self::NoReRead | Self::LateAnswerDropped | Self::NoNotAfter | Self::LongGap => {
                &[Kind::Pause]
            }
            Self::NoEpochCheck | Self::ForeignRelease => &[Kind::Pause, Kind::Wire],
            Self::UseBeforeCommit => &[],
        }
    }

    /// The property that must catch it.
    pub fn caught_by(self) -> Breach {
        match self {
            Self::NoEpochCheck | Self::ForeignRelease | Self::NoNotAfter | Self::LongGap => {
                Breach::TwoInFlight
            }
            Self::NoIntent | Self::BlindReplay | Self::StaleRejection => Breach::Replay,
            Self::NoReRead => Breach::Condemned,
            Self::CallerOwned | Self::NoSpool | Self::LateAnswerDropped => Breach::Lost,
            Self::UseBeforeCommit => Breach::Uncommitted,
            Self::NoVersionCheck | Self::NoVoid => Breach::Fence,
            Self::SnapshotGoesBack => Breach::Older,
        }
    }
}
