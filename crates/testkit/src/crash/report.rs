//! What a run has shown.

use std::fmt;

use serde::Serialize;

use super::{
    callers::CallerBooks,
    chaos::ChaosBooks,
    database::DatabaseBooks,
    judge::{Tally, Violation},
};
use crate::sandbox::Counts;

/// A run, in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Repeats the schedule; real processes do not repeat to the microsecond.
    pub seed: u64,
    /// Seconds of it.
    pub seconds: u64,
    /// Servers at a time.
    pub processes: usize,
    /// Callers at a time.
    pub callers: usize,
    /// Grants in the vault.
    pub grants: usize,
    /// From when to when the disk took no writes for half a claim and more, in milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<(u64, u64)>,
    /// What was done to it.
    pub chaos: ChaosBooks,
    /// What was done to the database, if it is one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseBooks>,
    /// Who got what.
    pub calls: CallerBooks,
    /// Commands that printed a token.
    pub commands: u64,
    /// Grants that the provider ended, and that were authorized anew.
    pub reauthorized: u64,
    /// How the provider's grants add up.
    pub tally: Tally,
    /// The provider's books.
    pub books: Counts,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// What is needed to understand them: timelines and logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            seconds,
            processes,
            callers,
            grants,
            chaos,
            calls,
            tally,
            books,
            ..
        } = self;
        writeln!(
            f,
            "seed {seed}: {seconds} s, {processes} servers, {callers} callers, {grants} grants"
        )?;
        writeln!(
            f,
            "  done      {} kills ({} of servers), {} stops, {} faults; {} restarts",
            chaos.kills, chaos.servers_killed, chaos.stops, chaos.faults, chaos.restarts
        )?;
        if let Some(database) = &self.database {
            writeln!(
                f,
                "  database  {} times all connections cut, {} outages, {} silences, {} restarts, {} kills",
                database.cuts, database.outages, database.holes, database.restarts, database.kills
            )?;
        }
        for (from, to) in &self.stalls {
            writeln!(f, "  disk      took no writes for {} ms", to - from)?;
        }
        for (moment, count) in &chaos.moments {
            writeln!(f, "            {count:>5} {moment}")?;
        }
        writeln!(
            f,
            "  calls     {} ended, {} served, {} sent again after a kill, {} unanswered, the longest {} ms; {} commands",
            calls.calls,
            calls.served,
            calls.sent_again,
            calls.unanswered,
            calls.longest_ms,
            self.commands
        )?;
        for (cause, count) in &calls.errors {
            writeln!(f, "            {count:>5} told: {cause}")?;
        }
        writeln!(
            f,
            "  refreshes {} granted = {} committed + {} lost at the provider + {} lost with a killed process + {} superseded",
            tally.granted,
            tally.committed,
            tally.lost_at_provider,
            tally.lost_with_process,
            tally.superseded
        )?;
        writeln!(
            f,
            "            {} repetitions of a lost answer ({} granted), {} refused, {} families revoked, {} grants authorized anew",
            tally.repetitions,
            tally.repetitions_granted,
            tally.refused,
            books.family_revocations,
            self.reauthorized
        )?;
        for trace in &self.traces {
            writeln!(f, "{trace}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION {violation}")?;
        }
        write!(
            f,
            "crash: {} kills survived, {} violations",
            chaos.kills,
            self.violations.len()
        )
    }
}
