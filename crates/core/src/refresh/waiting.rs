//! What a caller does that needs a refresh: wait for it, take the old token, try again, give up.

use std::time::Duration;

use crate::time::Moment;

/// With this much life left, the old token is served while the refresh goes on, where the provider
/// leaves it alive. It has to last for the request that it is for.
const ENOUGH_LIFE: Duration = Duration::from_secs(10);

/// A caller's patience.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When it asked.
    pub begun: Moment,
    /// When it wants an answer.
    pub deadline: Moment,
    /// How long it waits for a refresh while the old token lives.
    pub stale_wait: Duration,
    /// Whether the provider is known to leave the old access token alive when it grants a new one.
    pub old_token_survives: bool,
}

/// The old token, if the caller may be served with it: when it ends; `None`: it does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldToken(pub Option<Moment>);

/// What to do about a flight that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Serve the old token now.
    Not,
    /// Wait for the flight until then.
    Until(Moment),
}

/// What to do when a flight has brought nothing, or has been waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Serve the old token.
    ServeOld,
    /// Wait for the flight on.
    WaitOn,
    /// Begin anew then, or at a sign that the trouble is over.
    TryAgainAt(Moment),
    /// Tell the caller why not.
    GiveUp,
}

impl Waiting {
    /// For a flight that has just been joined.
    pub fn wait(&self, now: Moment, old: Option<OldToken>) -> Wait {
        match old {
            Some(OldToken(end))
                if self.old_token_survives && end.is_none_or(|end| now + ENOUGH_LIFE <= end) =>
            {
                Wait::Not
            }
            Some(_) => Wait::Until(self.deadline.min(self.begun + self.stale_wait)),
            None => Wait::Until(self.deadline),
        }
    }

    /// When patience has run out and the flight is still under way.
    pub fn out_of_patience(&self, now: Moment, old: Option<OldToken>) -> Then {
        match old {
            Some(_) => Then::ServeOld,
            // The old token was worth waiting a little for, and has died meanwhile: now the whole
            // of the caller's patience counts.
            None if now < self.deadline => Then::WaitOn,
            None => Then::GiveUp,
        }
    }

    /// When a flight has failed. `retry_at`: when another may be tried; `None`: that will not help.
    pub fn failed(&self, old: Option<OldToken>, retry_at: Option<Moment>) -> Then {
        match (old, retry_at) {
            (Some(_), _) => Then::ServeOld,
            (None, Some(at)) if at < self.deadline => Then::TryAgainAt(at),
            (None, _) => Then::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn waiting(old_token_survives: bool) -> Waiting {
        Waiting {
            begun: at(100),
            deadline: at(128),
            stale_wait: Duration::from_secs(5),
            old_token_survives,
        }
    }

    fn ends(seconds: u64) -> Option<OldToken> {
        Some(OldToken(Some(at(seconds))))
    }

    #[test]
    fn nobody_waits_while_an_old_token_has_life_left_that_is_known_to_stay_alive() {
        let known = waiting(true);
        assert_eq!(known.wait(at(100), ends(110)), Wait::Not);
        assert_eq!(known.wait(at(100), Some(OldToken(None))), Wait::Not);
        assert_eq!(known.wait(at(100), ends(109)), Wait::Until(at(105)));
        assert_eq!(known.wait(at(100), None), Wait::Until(at(128)));
        assert_eq!(
            waiting(false).wait(at(100), ends(125)),
            Wait::Until(at(105))
        );
    }

    #[test]
    fn callers_wait_for_the_next_try_as_long_as_they_have_time() {
        let caller = waiting(false);
        assert_eq!(
            caller.failed(None, Some(at(127))),
            Then::TryAgainAt(at(127))
        );
        assert_eq!(caller.failed(None, Some(at(128))), Then::GiveUp);
        assert_eq!(caller.failed(None, None), Then::GiveUp);
        assert_eq!(caller.failed(ends(101), Some(at(127))), Then::ServeOld);
    }

    #[test]
    fn the_death_of_the_old_token_restores_the_whole_of_a_callers_patience() {
        let caller = waiting(false);
        assert_eq!(caller.out_of_patience(at(105), ends(106)), Then::ServeOld);
        assert_eq!(caller.out_of_patience(at(105), None), Then::WaitOn);
        assert_eq!(caller.out_of_patience(at(128), None), Then::GiveUp);
    }
}
