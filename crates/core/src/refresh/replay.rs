//! When a refresh token whose answer was lost may be sent again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ledger::{Attempt, Need};
use crate::time::StoreTime;

/// What a provider does with a refresh token that it has already exchanged.
///
/// Read from the connector's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "policy", deny_unknown_fields)]
pub enum ReplayPolicy {
    /// It stays valid (Google): sending again is free.
    Harmless,
    /// It is accepted for a while after its first use (Xero 30 min, Atlassian 10 min).
    Grace {
        /// The window, in seconds.
        seconds: u64,
    },
    /// It is refused, and nothing else happens (Box, GitHub).
    Refused,
    /// It is refused **and the living grant is revoked** (Salesforce with rotation, Auth0).
    /// The assumption for unknown providers.
    Revokes,
}

/// What may be done about a refresh token that was sent without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Send it again.
    Send,
    /// Not before this time: until then the old access token serves and there is something to
    /// lose.
    NotBefore(StoreTime),
}

/// Decides about sending again.
///
/// Under `Harmless`, `Grace` and `Refused` a repetition cannot hurt: at worst the provider says
/// `invalid_grant`, which is then its word. (After a grace window has passed, the token is as
/// under `Refused`.) Under `Revokes` a repetition kills whatever is left of the grant, so it
/// waits until nothing is left: the old access token has expired, or the API has rejected it.
///
/// The spacing of repetitions is the row's retry time, not decided here.
pub fn replay(
    policy: ReplayPolicy,
    attempt: &Attempt,
    need: Need,
    expires_at: Option<StoreTime>,
    now: StoreTime,
) -> Replay {
    debug_assert!(attempt.sends > 0);
    match policy {
        ReplayPolicy::Harmless | ReplayPolicy::Grace { .. } | ReplayPolicy::Refused => Replay::Send,
        ReplayPolicy::Revokes if need == Need::Rejected => Replay::Send,
        ReplayPolicy::Revokes => match expires_at {
            Some(at) if now < at => Replay::NotBefore(at),
            // Expired, or of unknown life: a token of unknown life is only known dead when the
            // API says so, which is the arm above.
            Some(_) => Replay::Send,
            None => Replay::NotBefore(now + Duration::from_secs(60)),
        },
    }
}

/// How long an answer is waited for.
///
/// `stated` is what the connector or the configuration says. Where a token whose answer was lost
/// may not be sent again while the old access token lives (or is lost with its answer), hanging up
/// gains nothing until that token ends: the connection that is still open may bring the answer.
pub fn answer_patience(
    policy: ReplayPolicy,
    stated: Duration,
    expires_at: Option<StoreTime>,
    now: StoreTime,
) -> Duration {
    match policy {
        ReplayPolicy::Harmless | ReplayPolicy::Grace { .. } => stated,
        ReplayPolicy::Refused | ReplayPolicy::Revokes => {
            let left = expires_at.map_or(Duration::ZERO, |at| now.until(at));
            stated.max(left.min(LONGEST_ANSWER))
        }
    }
}

/// No open connection is believed in for longer.
const LONGEST_ANSWER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_while_the_old_token_lives_where_asking_again_would_cost_the_grant() {
        let s = Duration::from_secs;
        let now = StoreTime(1_000_000);
        let wait = |policy, left: u64| answer_patience(policy, s(60), Some(now + s(left)), now);
        for policy in [ReplayPolicy::Refused, ReplayPolicy::Revokes] {
            assert_eq!(wait(policy, 0), s(60));
            assert_eq!(wait(policy, 100), s(100));
            assert_eq!(wait(policy, 7200), LONGEST_ANSWER);
            assert_eq!(answer_patience(policy, s(400), None, now), s(400));
        }
        for policy in [ReplayPolicy::Harmless, ReplayPolicy::Grace { seconds: 60 }] {
            assert_eq!(wait(policy, 7200), s(60));
        }
    }
}
