//! What a command's end tells scripts.

use tokenward::{
    TokenError,
    refresh::ledger::FailureKind,
    store::StoreError,
    vault::{AdminError, OpenError},
};

use super::signals::INTERRUPTED;

/// For `--help`.
pub(super) const HELP: &str = "\
Exit codes:
  0    done
  1    failed for another reason than these
  2    the arguments cannot be understood
  3    a person must authorize the connection (again)
  4    not now: try again later
  5    there is no such thing
  6    the operator must mend the configuration
  130  ended by a signal";

/// There is no such thing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotFound(pub(super) String);

/// The exit code for an error.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    const FAILED: u8 = 1;
    const AUTHORIZE: u8 = 3;
    const RETRY: u8 = 4;
    const MISSING: u8 = 5;
    const OPERATOR: u8 = 6;
    for cause in error.chain() {
        if cause.is::<NotFound>() {
            return MISSING;
        }
        if let Some(error) = cause.downcast_ref::<TokenError>() {
            return match error {
                TokenError::UnknownConnection(_) | TokenError::UnknownConnector(_) => MISSING,
                TokenError::NotAuthorized(_)
                | TokenError::Dead { .. }
                | TokenError::NoRefreshToken => AUTHORIZE,
                TokenError::Failed {
                    kind: FailureKind::Configuration,
                    ..
                }
                | TokenError::NoClient(_)
                | TokenError::Disabled(_)
                | TokenError::Seal(_) => OPERATOR,
                TokenError::Failed { .. }
                | TokenError::AnswerLost { .. }
                | TokenError::Paused { .. }
                | TokenError::DeadlineExceeded { .. }
                | TokenError::Store(_) => RETRY,
                TokenError::ShuttingDown => INTERRUPTED,
                _ => FAILED,
            };
        }
        if let Some(error) = cause.downcast_ref::<AdminError>() {
            return match error {
                AdminError::UnknownConnection(_) | AdminError::UnknownConnector(_) => MISSING,
                AdminError::Conflict | AdminError::Store(_) => RETRY,
                _ => FAILED,
            };
        }
        if cause.is::<StoreError>() {
            return RETRY;
        }
        if let Some(OpenError::WrongKey(..)) = cause.downcast_ref() {
            return OPERATOR;
        }
    }
    FAILED
}
