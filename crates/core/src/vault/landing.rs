//! What a flight's end means for the snapshot, the log, those who watch and the next look.

use std::sync::Arc;

use super::{
    Inner,
    entry::GrantEntry,
    join::{Landing, News},
};
use crate::{
    error::TokenError,
    observe::{FlightOutcome, Signal},
    refresh::{
        flight::Ending,
        ledger::{FailureKind, GrantRow, Standing},
    },
    time::{Moment, StoreTime},
};

impl Inner {
    /// Draws the conclusions of a flight: the snapshot, the log, the next look.
    pub(super) fn land(
        &self,
        entry: &Arc<GrantEntry>,
        ending: Ending,
        asked: Moment,
        not_before: Option<Moment>,
    ) -> (Landing, FlightOutcome) {
        let grant = &entry.id;
        let failed = |error, retry_at| Landing::Failed { error, retry_at };
        let ours = |at: StoreTime, then| asked + at.until(then);
        match ending {
            Ending::Refreshed { row, at, recovered } => {
                tracing::info!(grant = %grant, connector = %row.connector, version = row.version, "refreshed");
                if recovered {
                    tracing::info!(grant = %grant, "refreshing works again");
                    self.observer.observe(&Signal::Recovered { grant });
                }
                let news = News {
                    ours: true,
                    not_before,
                };
                let landing = self.newer(entry, &row, at, asked, news);
                (landing, FlightOutcome::Refreshed)
            }
            Ending::Adopted { row, at } => {
                let news = News {
                    ours: false,
                    not_before,
                };
                let landing = self.newer(entry, &row, at, asked, news);
                (landing, FlightOutcome::Adopted)
            }
            Ending::Failed { row, at, first } => {
                let Some(trouble) = row.trouble else {
                    let error = TokenError::Store("a failure was not recorded".to_owned());
                    return (failed(error, None), FlightOutcome::StoreDown);
                };
                if first {
                    tracing::warn!(grant = %grant, connector = %row.connector, why = trouble.message, "refresh failed; it will be tried again");
                    self.observer.observe(&Signal::Pending {
                        grant,
                        message: &trouble.message,
                    });
                }
                let retry_at = ours(at, trouble.retry_at);
                self.look_again_at(retry_at, entry, row.version);
                let kind = trouble.kind;
                // A client that is refused needs a person: callers do not wait for the next try.
                let worth_waiting = kind != FailureKind::Configuration;
                let error = TokenError::Failed {
                    kind,
                    message: trouble.message,
                    retry_at: trouble.retry_at,
                };
                (
                    failed(error, worth_waiting.then_some(retry_at)),
                    FlightOutcome::Failed(kind),
                )
            }
            Ending::Deferred { row, at, until } => {
                let retry_at = ours(at, until);
                self.look_again_at(retry_at, entry, row.version);
                let lost = row.attempt.and_then(|attempt| attempt.lost);
                let (lost_at, why) = lost.map_or((at, String::new()), |lost| (lost.at, lost.why));
                let error = TokenError::AnswerLost {
                    lost_at,
                    why,
                    retry_at: until,
                };
                // What is waited for is the old token's end, which serves until then.
                (failed(error, None), FlightOutcome::Deferred)
            }
            Ending::Dead { row, first, .. } => {
                let Standing::Dead { at, reason } = row.standing else {
                    let error = TokenError::Store("a death was not recorded".to_owned());
                    return (failed(error, None), FlightOutcome::StoreDown);
                };
                if first {
                    tracing::error!(grant = %grant, connector = %row.connector, reason, "the provider ended the grant; it must be authorized anew");
                    self.observer.observe(&Signal::Died {
                        grant,
                        reason: &reason,
                    });
                }
                (
                    failed(TokenError::Dead { at, reason }, None),
                    FlightOutcome::Dead,
                )
            }
            Ending::GateShut { until } => {
                self.look_again_at(until, entry, entry.snapshot().version);
                let wait = self.clock.now().until(until);
                let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                (
                    failed(TokenError::Paused { retry_in_ms }, Some(until)),
                    FlightOutcome::GateShut,
                )
            }
            Ending::Missing => {
                // The connection was deleted, or linked to another grant, by somebody else.
                self.grants.pin().remove(grant);
                self.connections
                    .pin()
                    .retain(|_, resolved| resolved.grant.id != *grant);
                (
                    failed(TokenError::NotAuthorized(grant.to_string()), None),
                    FlightOutcome::Missing,
                )
            }
            Ending::StoreDown(why) => {
                tracing::error!(grant = %grant, %why, "the store is down; nothing was refreshed");
                (
                    failed(TokenError::Store(why), None),
                    FlightOutcome::StoreDown,
                )
            }
        }
    }

    fn newer(
        &self,
        entry: &Arc<GrantEntry>,
        row: &GrantRow,
        at: StoreTime,
        asked: Moment,
        news: News,
    ) -> Landing {
        match self.adopt_everywhere(entry, row, at, asked) {
            Ok(()) => Landing::Newer(news),
            Err(error) => {
                tracing::error!(grant = %entry.id, %error, "a newer version cannot be read");
                Landing::Failed {
                    error,
                    retry_at: None,
                }
            }
        }
    }
}
