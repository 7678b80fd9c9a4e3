//! What a rejected token is answered with: pure, with time as data.
//!
//! A token may be rejected because it has ended early: then a refresh helps. Or the API rejects
//! every token, and each refresh is in vain. So a grant's rejections are answered with one refresh,
//! and with the next one only after a pause, which doubles as long as freshly granted tokens are
//! rejected, too.

use std::time::Duration;

use crate::time::Moment;

/// The first pause.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(3600);

/// A grant whose tokens were rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Distrust {
    /// The version whose rejection was last answered with a refresh.
    base: u64,
    /// How many versions in a row have been.
    refusals: u32,
    /// No further refresh before this.
    until: Moment,
    /// Whether a later version was accepted for longer than the pause.
    accepted: bool,
    /// The version after whose rejection the store was last looked into.
    looked: u64,
}

/// What is done about a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A refresh, or the one that is under way.
    Refresh,
    /// The API's answer stands, unless the store knows of a newer version.
    Look,
    /// The API's answer stands.
    None,
}

/// Of what kind the rejected version is.
#[derive(Clone, Copy, Debug)]
pub struct Newest {
    /// It can be refreshed.
    pub refreshable: bool,
    /// It was authorized or imported, not granted by a refresh.
    pub authorized: bool,
}

/// Nothing has been rejected.
impl Default for Distrust {
    fn default() -> Self {
        Self {
            base: 0,
            refusals: 0,
            until: Moment(Duration::ZERO),
            accepted: false,
            looked: 0,
        }
    }
}

impl Distrust {
    /// The newest version was rejected, which a refresh granted, or a person authorized.
    pub fn rejected(&mut self, version: u64, newest: Newest, now: Moment) -> Remedy {
        if newest.authorized && version != self.base {
            // What was rejected before was another authorization's.
            *self = Self {
                looked: self.looked,
                ..Self::default()
            };
        }
        let refreshable = newest.refreshable;
        if refreshable && (version == self.base || self.until <= now) {
            if version != self.base {
                let long_ago = self.until + LONGEST <= now;
                self.refusals = if self.accepted || long_ago {
                    1
                } else {
                    self.refusals.saturating_add(1)
                };
                self.base = version;
                self.until = now + self.pause();
                self.accepted = false;
            }
            return Remedy::Refresh;
        }
        if self.looked == version {
            return Remedy::None;
        }
        self.looked = version;
        Remedy::Look
    }

    /// The API took a token of this version.
    pub fn accepted(&mut self, version: u64, now: Moment) {
        self.accepted |= version > self.base && self.until <= now;
    }

    /// The version whose rejection was last answered with a refresh.
    pub fn answered(&self) -> u64 {
        self.base
    }

    /// How often in a row freshly granted tokens were rejected, and until when nothing is done
    /// about it; `None` if that cannot be said.
    pub fn refused(&self) -> Option<(u32, Moment)> {
        (self.refusals > 1 && !self.accepted).then(|| (self.refusals - 1, self.until))
    }

    fn pause(&self) -> Duration {
        let doublings = self.refusals.saturating_sub(1).min(16);
        (SHORTEST * 2_u32.pow(doublings)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: Newest = Newest {
        refreshable: true,
        authorized: false,
    };

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    /// Rejects whatever is granted, once a second for so long; how many refreshes that costs.
    fn rejections(distrust: &mut Distrust, from: u64, seconds: u64) -> u64 {
        let mut version = distrust.base + 1;
        let first = version;
        for second in from..from + seconds {
            if distrust.rejected(version, GRANTED, at(second)) == Remedy::Refresh {
                version += 1;
            }
        }
        version - first
    }

    #[test]
    fn an_api_that_rejects_everything_costs_ever_fewer_refreshes() {
        let mut distrust = Distrust::default();
        // After 1 + 2 + ... + 2048 s, then hourly.
        assert_eq!(rejections(&mut distrust, 10, 4095), 12);
        assert_eq!(rejections(&mut distrust, 10 + 4095, 10 * 3600), 10);
        assert_eq!(distrust.refused().unwrap().0, 21);
    }

    #[test]
    fn all_who_report_one_version_get_the_same_refresh() {
        let mut distrust = Distrust::default();
        for _ in 0..3 {
            assert_eq!(distrust.rejected(4, GRANTED, at(10)), Remedy::Refresh);
        }
        assert_eq!(distrust.refused(), None);
        // What it granted is rejected, too: one look, then silence.
        assert_eq!(distrust.rejected(5, GRANTED, at(10)), Remedy::Look);
        assert_eq!(distrust.rejected(5, GRANTED, at(10)), Remedy::None);
        assert_eq!(distrust.rejected(5, GRANTED, at(11)), Remedy::Refresh);
        assert_eq!(distrust.refused(), Some((1, at(13))));
    }

    #[test]
    fn a_token_that_was_accepted_for_longer_than_the_pause_is_trusted_again() {
        let mut distrust = Distrust::default();
        rejections(&mut distrust, 10, 100);
        let (_, until) = distrust.refused().unwrap();
        let next = distrust.base + 1;
        // Too early to say.
        distrust.accepted(next, at(20));
        assert!(distrust.refused().is_some());
        distrust.accepted(next, until);
        assert_eq!(distrust.refused(), None);
        assert_eq!(distrust.rejected(next, GRANTED, until), Remedy::Refresh);
        assert_eq!(distrust.until, until + SHORTEST);
    }

    #[test]
    fn a_new_authorization_begins_anew() {
        let mut distrust = Distrust::default();
        rejections(&mut distrust, 10, 100);
        let authorized = Newest {
            authorized: true,
            ..GRANTED
        };
        assert_eq!(distrust.rejected(99, authorized, at(110)), Remedy::Refresh);
        assert_eq!(distrust.until, at(110) + SHORTEST);
    }

    #[test]
    fn what_cannot_be_refreshed_is_looked_up_once() {
        const FINAL: Newest = Newest {
            refreshable: false,
            authorized: true,
        };
        let mut distrust = Distrust::default();
        assert_eq!(distrust.rejected(1, FINAL, at(10)), Remedy::Look);
        assert_eq!(distrust.rejected(1, FINAL, at(99)), Remedy::None);
    }
}
