//! Answers of token endpoints that could not be read.

use std::fmt;

use crate::{id::GrantId, time::StoreTime};

/// An answer of a token endpoint that could not be read, as it came. It may hold the only living
/// token that there is: a mended connector, a later version or a person may yet read it.
#[derive(Clone, PartialEq, Eq)]
pub struct UnreadAnswer {
    /// Whose refresh it answers.
    pub grant: GrantId,
    /// The claim under which the request was sent. One claim keeps one answer: its last.
    pub epoch: u64,
    /// The version whose refresh token was used.
    pub base: u64,
    /// When it came.
    pub at: StoreTime,
    /// What came, sealed.
    pub sealed: Vec<u8>,
}

impl UnreadAnswer {
    /// So many are kept of each grant.
    pub const KEPT: usize = 4;

    /// The epochs of what is kept too much of one grant.
    ///
    /// The newest stay, and the first of the newest version: what came first was granted for a
    /// living token, and what a portal or an error page says later must not push it out.
    pub fn surplus(kept: &[Self]) -> Vec<u64> {
        let newest = kept.iter().map(|answer| answer.base).max();
        let first = kept
            .iter()
            .filter(|answer| Some(answer.base) == newest)
            .map(|answer| answer.epoch)
            .min();
        let mut others: Vec<u64> = kept
            .iter()
            .map(|answer| answer.epoch)
            .filter(|epoch| Some(*epoch) != first)
            .collect();
        others.sort_unstable();
        let surplus = kept.len().saturating_sub(Self::KEPT);
        others.truncate(surplus);
        others
    }
}

impl fmt::Debug for UnreadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnreadAnswer")
            .field("grant", &self.grant)
            .field("epoch", &self.epoch)
            .field("base", &self.base)
            .field("at", &self.at)
            .field("bytes", &self.sealed.len())
            .finish()
    }
}
