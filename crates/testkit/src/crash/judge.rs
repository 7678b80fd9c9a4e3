//! Judges a run by the provider's timeline. Pure: evidence in, violations out.
//!
//! Every refresh that the provider granted is one of: the step to a version that the vault
//! committed; an answer that the client cannot have got; an answer that a process held when it
//! was killed, or when it had been stopped so long that it was taken over. Nothing else is
//! explained, and nothing is explained by a number alone: each has its request and its process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::uses::{Use, uses};
use crate::sandbox::{AccessId, EventKind, GrantId, RefreshId, Rotation, TimelineEvent};

/// Events of two sources are not ordered more finely than this.
const SLACK_MS: u64 = 50;

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The provider's whole timeline.
    pub events: Vec<TimelineEvent>,
    /// How processes fared, by the name that they gave themselves.
    pub lives: BTreeMap<String, Life>,
    /// The vault's grants.
    pub places: Vec<Place>,
    /// How much earlier than the provider the vault may take an access token for dead: half a
    /// claim, because expiry counts from the claim.
    pub early_ms: u64,
}

/// How a process fared.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// When it was killed.
    pub killed: Option<u64>,
    /// From when to when it was stopped.
    pub stopped: Vec<(u64, u64)>,
}

/// One grant of the vault.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its connection.
    pub name: String,
    /// The provider's policy.
    pub rotation: Rotation,
    /// The life of its access tokens.
    pub access_ttl_ms: u64,
    /// The provider's grants that were imported into it, in order.
    pub families: Vec<GrantId>,
    /// Its version in the end.
    pub version: u64,
    /// When it was seen dead in the vault, and which of its families.
    pub deaths: Vec<(GrantId, u64)>,
    /// The access token that the vault held in the end, if it was not dead.
    pub end: Option<(GrantId, AccessId)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The connection.
    pub place: String,
    /// The provider's grant.
    pub grant: Option<GrantId>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(grant) = self.grant {
            write!(f, " ({grant})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How the granted refreshes add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Granted by the provider.
    pub granted: u64,
    /// Committed by the vault.
    pub committed: u64,
    /// Granted, and the client cannot have got the answer.
    pub lost_at_provider: u64,
    /// Answered to a process that was killed before it had saved the answer.
    pub lost_with_process: u64,
    /// Answered to a process that was stopped until others had taken over.
    pub superseded: u64,
    /// Refresh tokens sent again after an answer was lost.
    pub repetitions: u64,
    /// Of these, granted by the provider.
    pub repetitions_granted: u64,
    /// `invalid_grant`.
    pub refused: u64,
}

/// Why an answer did not become a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    AtProvider(u64),
    WithProcess(u64),
    Superseded(u64),
}

/// Judges a run.
pub fn judge(evidence: &Evidence) -> (Tally, Vec<Violation>) {
    let mut court = Court {
        evidence,
        tally: Tally::default(),
        violations: Vec::new(),
    };
    let uses = uses(&evidence.events);
    for place in &evidence.places {
        court.place(place, &uses);
    }
    (court.tally, court.violations)
}

struct Court<'a> {
    evidence: &'a Evidence,
    tally: Tally,
    violations: Vec<Violation>,
}

impl Court<'_> {
    fn accuse(&mut self, place: &Place, grant: Option<GrantId>, what: String) {
        self.violations.push(Violation {
            place: place.name.clone(),
            grant,
            what,
        });
    }

    fn place(&mut self, place: &Place, all: &BTreeMap<GrantId, Vec<Use>>) {
        let imports = place.families.len() as u64;
        let by_refresh = place.version.saturating_sub(imports);
        let (mut committed, mut unused) = (0, Vec::new());
        for family in &place.families {
            let uses = all.get(family).map_or(&[][..], Vec::as_slice);
            self.tally.granted += uses.iter().filter(|used| used.granted.is_some()).count() as u64;
            self.tally.refused += uses.iter().filter(|used| used.refused).count() as u64;
            let losses = self.losses(uses);
            committed += if place.rotation == Rotation::Never {
                self.add_up_unrotated(place, *family, uses, &losses, by_refresh)
            } else {
                let (links, saved) = self.follow_chain(place, *family, uses, &losses);
                unused.extend(saved);
                links
            };
            self.repetitions(place, *family, uses, &losses);
            self.refusals(place, *family, uses, &losses);
        }
        // The vault's number tells which of them were saved.
        for loss in unused {
            if committed < by_refresh {
                committed += 1;
            } else {
                self.count_loss(loss);
            }
        }
        self.tally.committed += by_refresh;
        if committed != by_refresh {
            let what = format!(
                "the provider's books tell of {committed} committed refreshes, the vault of {by_refresh} \
                 (version {}, {imports} imports)",
                place.version
            );
            self.accuse(place, None, what);
        }
        for (family, at) in &place.deaths {
            let word = all
                .get(family)
                .into_iter()
                .flatten()
                .any(|used| used.refused && used.seen <= *at);
            if !word {
                self.accuse(
                    place,
                    Some(*family),
                    "declared dead without the provider's word".to_owned(),
                );
            }
        }
    }

    /// What can have become of each answer that was not committed, by what happened to it and to
    /// the process that asked.
    fn losses(&self, uses: &[Use]) -> Vec<Option<Loss>> {
        let loss = |(at, used): (usize, &Use)| {
            let granted = used.granted?;
            if let Some(lost) = used.lost {
                return Some(Loss::AtProvider(lost));
            }
            let life = self.evidence.lives.get(&used.via)?;
            // Stopped between the provider's answer and the next owner's request.
            let next = uses.get(at + 1).map_or(u64::MAX, |next| next.seen);
            let over = |(from, to): &&(u64, u64)| *from <= next && granted <= *to;
            if let Some((from, _)) = life.stopped.iter().find(over) {
                return Some(Loss::Superseded(*from));
            }
            let killed = life.killed.filter(|killed| granted <= *killed)?;
            // Who asks for the same grant again has saved, or recorded as lost, what came before.
            let later = uses[at + 1..].iter().any(|later| later.via == used.via);
            (!later).then_some(Loss::WithProcess(killed))
        };
        uses.iter().enumerate().map(loss).collect()
    }

    fn count_loss(&mut self, loss: Loss) {
        match loss {
            Loss::AtProvider(_) => self.tally.lost_at_provider += 1,
            Loss::WithProcess(_) => self.tally.lost_with_process += 1,
            Loss::Superseded(_) => self.tally.superseded += 1,
        }
    }

    /// Follows the refresh tokens: only one that was committed is ever presented. Beside the
    /// steps: an answer that may have been one more.
    fn follow_chain(
        &mut self,
        place: &Place,
        family: GrantId,
        uses: &[Use],
        losses: &[Option<Loss>],
    ) -> (u64, Option<Loss>) {
        let mut kept: BTreeSet<RefreshId> = uses.iter().filter_map(|used| used.presented).collect();
        if let Some((_, access)) = place.end.filter(|(grant, _)| *grant == family) {
            kept.extend(
                uses.iter()
                    .filter(|used| used.access == Some(access))
                    .filter_map(|used| used.issued),
            );
        }
        let (mut current, mut links) = (RefreshId(0), BTreeSet::new());
        loop {
            let children: Vec<&Use> = uses
                .iter()
                .filter(|used| used.presented == Some(current))
                .filter(|used| used.issued.is_some_and(|issued| kept.contains(&issued)))
                .collect();
            if children.len() > 1 {
                let what = format!("two answers to refresh token {} were used", current.0);
                self.accuse(place, Some(family), what);
            }
            let Some(child) = children.first() else { break };
            links.insert(child.request);
            current = child.issued.unwrap_or(current);
        }
        let mut unused = None;
        for (used, loss) in uses.iter().zip(losses) {
            if used.granted.is_none() || links.contains(&used.request) {
                continue;
            }
            match loss {
                Some(loss)
                    if unused.is_none()
                        && used.presented == Some(current)
                        && self.may_be_saved(place, family, used, *loss, uses) =>
                {
                    unused = Some(*loss);
                }
                Some(loss) => self.count_loss(*loss),
                None => {
                    let what = format!(
                        "request {} by {} was granted and answered, but its answer was dropped",
                        used.request, used.via
                    );
                    self.accuse(place, Some(family), what);
                }
            }
        }
        (links.len() as u64, unused)
    }

    /// Whether an answer may have been saved although nobody ever presented what was in it: a
    /// person authorized anew, and its process had lived on after the last use of the token that it
    /// replaces.
    fn may_be_saved(
        &self,
        place: &Place,
        family: GrantId,
        used: &Use,
        loss: Loss,
        uses: &[Use],
    ) -> bool {
        let same = uses
            .iter()
            .filter(|other| other.presented == used.presented);
        let last = same.map(|other| other.seen).max().unwrap_or_default();
        let life = self.evidence.lives.get(&used.via);
        let killed = life.and_then(|life| life.killed);
        place.families.last() != Some(&family)
            && !matches!(loss, Loss::AtProvider(_))
            && killed.is_none_or(|killed| killed >= last)
    }

    /// Without rotation no answer can be recognised: only the numbers can be compared.
    fn add_up_unrotated(
        &mut self,
        place: &Place,
        family: GrantId,
        uses: &[Use],
        losses: &[Option<Loss>],
        by_refresh: u64,
    ) -> u64 {
        let granted = uses.iter().filter(|used| used.granted.is_some()).count() as u64;
        let (mut sure, mut possible) = (0, Vec::new());
        for loss in losses.iter().flatten() {
            match loss {
                Loss::AtProvider(_) => {
                    sure += 1;
                    self.count_loss(*loss);
                }
                Loss::WithProcess(_) | Loss::Superseded(_) => possible.push(*loss),
            }
        }
        let arrived = granted - sure;
        let missing = usize::try_from(arrived.saturating_sub(by_refresh)).unwrap_or(usize::MAX);
        if missing > possible.len() {
            let what = format!(
                "{missing} answers were dropped, but only {} processes ended with one in hand",
                possible.len()
            );
            self.accuse(place, Some(family), what);
        }
        for loss in possible.into_iter().take(missing) {
            self.count_loss(loss);
        }
        arrived.saturating_sub(missing as u64)
    }

    /// I1 and I2: none while another may be in flight, none again but by the policy.
    fn repetitions(
        &mut self,
        place: &Place,
        family: GrantId,
        uses: &[Use],
        losses: &[Option<Loss>],
    ) {
        for (at, again) in uses.iter().enumerate() {
            let earlier = uses[..at].iter().zip(losses);
            let same = earlier.filter(|(used, _)| used.presented == again.presented);
            // Without rotation every refresh sends the same token.
            let mut repetition = place.rotation == Rotation::Never
                && at > 0
                && losses[at - 1].is_some_and(|loss| matches!(loss, Loss::AtProvider(_)));
            for (used, loss) in same {
                let open = used
                    .closed
                    .is_none_or(|closed| again.seen + SLACK_MS < closed);
                if open && !self.was_away(&used.via, again.seen) {
                    let what = format!(
                        "request {} by {} was sent while request {} by {} was in flight",
                        again.request, again.via, used.request, used.via
                    );
                    self.accuse(place, Some(family), what);
                }
                if place.rotation == Rotation::Never || used.granted.is_none() {
                    continue;
                }
                repetition = true;
                match loss {
                    // Nobody got it; whether it was still to come is judged above.
                    Some(Loss::AtProvider(_)) => {}
                    Some(Loss::WithProcess(at) | Loss::Superseded(at))
                        if *at <= again.seen + SLACK_MS => {}
                    _ => {
                        let what = format!(
                            "request {} by {} sent the refresh token of request {} again, which had been answered",
                            again.request, again.via, used.request
                        );
                        self.accuse(place, Some(family), what);
                    }
                }
            }
            if repetition {
                self.tally.repetitions += 1;
                self.tally.repetitions_granted += u64::from(again.granted.is_some());
                if place.rotation == Rotation::Revokes {
                    self.nothing_left(place, family, uses, again);
                }
            }
        }
    }

    /// Under `Revokes`, a refresh token is sent again only when the access token is dead.
    fn nothing_left(&mut self, place: &Place, family: GrantId, uses: &[Use], again: &Use) {
        let events = &self.evidence.events;
        let maker = uses
            .iter()
            .find(|used| used.issued.is_some() && used.issued == again.presented);
        let (issued, early, access) = match maker {
            Some(used) => (
                used.granted.unwrap_or(used.seen),
                used.granted.map_or(0, |granted| granted - used.seen),
                used.access,
            ),
            None => {
                let made = |event: &&TimelineEvent| {
                    event.kind == EventKind::Issued && event.grant == Some(family)
                };
                let made = events.iter().find(made);
                (made.map_or(0, |event| event.at_ms), 0, Some(AccessId(0)))
            }
        };
        let dead_from = (issued + place.access_ttl_ms)
            .saturating_sub(early + self.evidence.early_ms + SLACK_MS);
        let rejected = events.iter().any(|event| {
            event.kind == EventKind::ApiRefused
                && event.grant == Some(family)
                && event.access == access
                && event.at_ms <= again.seen
        });
        if again.seen < dead_from && !rejected {
            let what = format!(
                "request {} sent a spent refresh token {} ms before the access token's death, with a provider that revokes",
                again.request,
                dead_from - again.seen
            );
            self.accuse(place, Some(family), what);
        }
    }

    /// A refusal needs an answer that was lost before it, with a provider that minds; or a fault.
    fn refusals(&mut self, place: &Place, family: GrantId, uses: &[Use], losses: &[Option<Loss>]) {
        // A family that a repetition has revoked refuses whatever comes later, such as the answer
        // that a stopped owner brought home.
        let mut revoked = false;
        for (at, used) in uses.iter().enumerate() {
            if !used.refused
                || used
                    .fault
                    .as_deref()
                    .is_some_and(|fault| fault == "InvalidGrant")
            {
                continue;
            }
            let minds = matches!(place.rotation, Rotation::Refused | Rotation::Revokes);
            let lost = uses[..at].iter().zip(losses).any(|(earlier, loss)| {
                earlier.presented == used.presented && earlier.granted.is_some() && loss.is_some()
            });
            if minds && lost {
                revoked |= place.rotation == Rotation::Revokes;
            } else if !revoked {
                let what = format!(
                    "request {} by {} was refused, and no lost answer explains it",
                    used.request, used.via
                );
                self.accuse(place, Some(family), what);
            }
        }
    }

    /// Whether a process was stopped or dead at a time.
    fn was_away(&self, via: &str, at: u64) -> bool {
        self.evidence.lives.get(via).is_some_and(|life| {
            let stopped = |(from, to): &(u64, u64)| *from <= at && at <= *to + SLACK_MS;
            life.stopped.iter().any(stopped)
                || life.killed.is_some_and(|killed| killed <= at + SLACK_MS)
        })
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
