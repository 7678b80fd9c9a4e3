//! The judge: each event is held against the promise (DESIGN, invariants I1 to I6) when it
//! happens, and everything again at the end.

use std::time::Duration;

use tokenward::{
    GrantId,
    oauth::TokenSet,
    refresh::ledger::{
        ClaimReply, CommitReply, CommitRequest, GrantRow, SettleReply, SettleRequest, Verdict,
    },
    store::{Authorized, Connection, Deleted},
};
use tokenward_testkit::sandbox::ledger::{AccessId, Decision, RefreshId, Refusal, Rotation};

use super::{
    books::{Books, FamilyId, Fate, GrantBook, Send, read_token, token_text},
    scenario::{HOUR, SECOND, SLOWEST_STORE},
    world::World,
};

/// How far the store's idea of an expiry may be from the provider's: latencies and drift.
const EXPIRY_SLACK: Duration = Duration::from_secs(2);
/// What an import leaves out of a token's life.
pub(super) const IMPORT_SLACK: Duration = Duration::from_secs(10);
/// A rejection counts for as long as the flight that it began, stops of its process included.
const LONGEST_FLIGHT: Duration = Duration::from_secs(600);
/// Half of a claim's life: nothing is sent under an older one.
const OLDEST_CLAIM: Duration = Duration::from_secs(10);
/// More attempts than this in an hour, beyond those that expiry and callers ask for, are a storm.
const STORM: u32 = 90;

fn access_of(tokens: &TokenSet) -> Option<(FamilyId, u32)> {
    read_token(tokens.access_token.as_ref()?.expose())
}

fn refresh_of(tokens: &TokenSet) -> Option<(FamilyId, u32)> {
    read_token(tokens.refresh_token.as_ref()?.expose())
}

// The provider.
impl World {
    /// A refresh token leaves a replica. Returns the number of this use.
    pub(super) fn sent(&self, life: usize, family: FamilyId, refresh: u32) -> usize {
        let now = self.now();
        let mut books = self.books();
        let grant = books.grant_of_family(family);
        let replica = books.lives[life].replica;
        books.note(
            now,
            grant,
            format_args!("r{replica} sends rt-{family}-{refresh}"),
        );
        self.attempted(&mut books, family);
        let book = &books.families[family];
        // I1: none is sent while another may be in flight, unless something befell that one.
        let rival = book.sends.iter().rev().take(8).find(|send| {
            matches!(send.fate, Fate::Open | Fate::Delivered)
                && !books.excused(family, send.by, send.at)
        });
        let mut found = Vec::new();
        if let Some(rival) = rival {
            found.push((
                "I1",
                format!(
                    "rt-{family}-{refresh} is sent while the use of rt-{family}-{} at {} has no end",
                    rival.refresh,
                    super::books::stamp(rival.at)
                ),
            ));
        }
        // I2: a token that was exchanged is sent again only when the answer may be lost, and
        // where that revokes, only when nothing is left to lose.
        let exchanged = book
            .sends
            .iter()
            .rev()
            .find(|send| send.refresh == refresh && send.granted.is_some());
        let terms = book.family.terms();
        if let Some(first) = exchanged
            && terms.rotation != Rotation::Never
        {
            let lost = matches!(first.fate, Fate::Lost | Fate::DiedWithHolder);
            if !lost && !books.excused(family, first.by, first.at) {
                found.push((
                    "I2",
                    format!(
                        "rt-{family}-{refresh} is sent again, though its answer was not lost ({:?})",
                        first.fate
                    ),
                ));
            }
            // The last look before the sending saw what was there when the store read it.
            let seen = now.saturating_sub(SLOWEST_STORE);
            let alive = books.newest_expiry(family, seen) > now + EXPIRY_SLACK;
            let rejected = book.rejected.is_some_and(|at| now < at + LONGEST_FLIGHT);
            if terms.rotation == Rotation::Revokes && alive && !rejected && !book.ended {
                found.push((
                    "I2",
                    format!("rt-{family}-{refresh} is sent again while the old token still lives"),
                ));
            }
        }
        for (property, what) in found {
            books.violated(now, property, grant, format_args!("{what}"));
        }
        let book = &mut books.families[family];
        book.sends.push(Send {
            at: now,
            by: life,
            refresh,
            granted: None,
            refused: false,
            fate: Fate::Open,
            heard: None,
            committed: None,
        });
        book.sends.len() - 1
    }

    /// A replica turned to the token endpoint, whatever came of it.
    pub(super) fn attempted(&self, books: &mut Books, family: FamilyId) {
        let now = self.now();
        let hour = now.as_secs() / HOUR.as_secs();
        let book = &mut books.families[family];
        if book.hour.0 != hour {
            book.hour = (hour, 0);
        }
        book.hour.1 += 1;
        let forced = if book.forced.0 == hour {
            book.forced.1
        } else {
            0
        };
        let natural = 4 * HOUR.as_secs() / book.family.terms().access_ttl.as_secs();
        let count = book.hour.1;
        let limit = STORM + forced + u32::try_from(natural).unwrap_or(u32::MAX);
        if count > limit {
            let grant = books.grant_of_family(family);
            books.violated(
                now,
                "storm",
                grant,
                format_args!("{count} attempts within an hour"),
            );
        }
    }

    /// The provider decides.
    pub(super) fn decide(&self, family: FamilyId, send: usize, refresh: u32) -> Decision {
        let now = self.now();
        let mut books = self.books();
        let grant = books.grant_of_family(family);
        let book = &mut books.families[family];
        let decision = book.family.refresh(RefreshId(refresh), true, now);
        match decision {
            Decision::Granted { access, replay, .. } => {
                book.sends[send].granted = Some(access.0);
                books.counts.granted += 1;
                books.counts.replays += u64::from(replay);
            }
            Decision::Refused {
                reason,
                revoked_family,
                ..
            } => {
                book.sends[send].refused = true;
                let neglected =
                    reason == Refusal::Expired && !book.incident && book.failed.is_empty();
                books.counts.revoked_by_reuse += u64::from(revoked_family);
                if neglected {
                    books.violated(
                        now,
                        "keep alive",
                        grant,
                        format_args!("rt-{family}-{refresh} died of disuse"),
                    );
                }
            }
        }
        books.note(
            now,
            grant,
            format_args!("provider on rt-{family}-{refresh}: {decision:?}"),
        );
        if books.families[family].sends[send].fate == Fate::DiedWithHolder {
            books.families[family].incident = true;
        }
        decision
    }

    /// What becomes of an answer on its way to the replica.
    pub(super) fn answered(&self, family: FamilyId, send: usize, fate: Fate, how: &str) {
        let now = self.now();
        let mut books = self.books();
        let grant = books.grant_of_family(family);
        let book = &mut books.families[family];
        let entry = &mut book.sends[send];
        entry.heard = Some(now);
        if entry.fate != Fate::DiedWithHolder {
            entry.fate = fate;
        }
        if fate == Fate::Lost {
            book.incident = true;
        }
        books.note(now, grant, format_args!("answer {how}"));
    }
}

// The store.
impl World {
    pub(super) fn claimed(&self, life: usize, grant: &GrantId, reply: &ClaimReply) {
        let replica = self.books().lives[life].replica;
        let what = match reply {
            ClaimReply::Claimed(row) => format!(
                "epoch {} on version {}, use {}",
                row.epoch,
                row.version,
                row.attempt.as_ref().map_or(0, |attempt| attempt.sends)
            ),
            ClaimReply::Newer(row) => format!("newer: version {}", row.version),
            ClaimReply::Held(_) => "held".to_owned(),
            ClaimReply::Dead(_) => "dead".to_owned(),
            ClaimReply::Cooling(_) => "cooling".to_owned(),
            ClaimReply::Deferred(..) => "deferred".to_owned(),
            ClaimReply::Missing => "missing".to_owned(),
        };
        self.note(Some(grant), format_args!("r{replica} claims: {what}"));
    }

    pub(super) async fn committed(
        &self,
        life: usize,
        request: &CommitRequest,
        reply: &CommitReply,
    ) {
        let position = self.position().await;
        let now = self.now();
        let tokens = self.tokens(&request.grant, request.base + 1, &request.sealed);
        let access = tokens.as_ref().and_then(access_of);
        let mut books = self.books();
        let replica = books.lives[life].replica;
        let number = books.number(&request.grant);
        let Some((family, access)) = access else {
            return books.violated(
                now,
                "I4",
                number,
                format_args!("a commit without a token of ours"),
            );
        };
        let text = token_text("at", family, access);
        let (fate, what) = match reply {
            CommitReply::Committed { row, .. } => {
                let known = books.committed.contains_key(&text);
                if !known {
                    books.counts.committed += 1;
                    books
                        .committed
                        .insert(text.clone(), (request.grant.clone(), row.version));
                    if row.version != request.base + 1 {
                        books.violated(
                            now,
                            "I4",
                            number,
                            format_args!(
                                "{text}, for version {}, became version {}",
                                request.base + 1,
                                row.version
                            ),
                        );
                    }
                    books.moved(&request.grant, position, row.version, family);
                }
                (Fate::Committed, format!("version {}", row.version))
            }
            CommitReply::Superseded(row) => (Fate::Void, format!("superseded by {}", row.version)),
            CommitReply::Reauthorized(row) => {
                (Fate::Void, format!("reauthorized as {}", row.version))
            }
            CommitReply::Missing => (Fate::Void, "missing".to_owned()),
        };
        books.note(
            now,
            number,
            format_args!(
                "r{replica} commits {text} (epoch {}): {what}",
                request.epoch
            ),
        );
        let own_reauthorization = books
            .grants
            .get(&request.grant)
            .is_some_and(|book| book.family != family || book.deleted.is_some());
        let found = books.families[family]
            .sends
            .iter_mut()
            .rev()
            .find(|send| send.granted == Some(access));
        match found {
            Some(send) if send.fate != Fate::Committed => {
                send.fate = fate;
                send.committed = (fate == Fate::Committed).then_some(now);
                if fate == Fate::Void && own_reauthorization {
                    // Revoking it is right.
                    books.families[family].ended = true;
                }
            }
            Some(_) => {}
            None => books.violated(now, "I4", number, format_args!("{text} was never granted")),
        }
    }

    pub(super) fn settled(&self, life: usize, request: &SettleRequest, reply: &SettleReply) {
        let now = self.now();
        let mut books = self.books();
        let number = books.number(&request.grant);
        let replica = books.lives[life].replica;
        let what = match reply {
            SettleReply::Settled { .. } => "settled",
            SettleReply::Superseded(_) => "superseded",
            SettleReply::Missing => "missing",
        };
        let verdict = match &request.verdict {
            Verdict::Dead { reason } => format!("dead: {reason}"),
            Verdict::Failed { kind, message, .. } => format!("{kind:?}: {message}"),
            Verdict::Released => "released".to_owned(),
            Verdict::Spent => "spent".to_owned(),
        };
        books.note(
            now,
            number,
            format_args!(
                "r{replica} settles (epoch {}) {verdict}: {what}",
                request.epoch
            ),
        );
        if let (Verdict::Dead { .. }, SettleReply::Settled { row, .. }) = (&request.verdict, reply)
        {
            self.condemned(&mut books, row);
        }
    }

    /// I6, and that no grant dies of a cause that was in our power.
    fn condemned(&self, books: &mut Books, row: &GrantRow) {
        let now = self.now();
        let number = books.number(&row.id);
        if let Some(book) = books.grants.get_mut(&row.id) {
            book.dead = true;
        }
        let refresh = self
            .tokens(&row.id, row.version, &row.sealed)
            .as_ref()
            .and_then(refresh_of);
        let Some((family, refresh)) = refresh else {
            return books.violated(now, "I6", number, format_args!("condemned without a token"));
        };
        let book = &books.families[family];
        let (ended, incident) = (book.ended, book.incident || !book.failed.is_empty());
        let said = book
            .sends
            .iter()
            .any(|send| send.refresh == refresh && send.refused);
        if book.family.refresh_is_live(RefreshId(refresh), now) || !said {
            books.violated(
                now,
                "I6",
                number,
                format_args!("condemned, but the provider has not refused rt-{family}-{refresh}"),
            );
        } else if !ended && !incident {
            books.violated(
                now,
                "no needless death",
                number,
                format_args!("rt-{family}-{refresh} died, and nothing had befallen it"),
            );
        }
    }

    pub(super) async fn authorized(&self, connection: usize, reply: &Authorized) {
        let position = self.position().await;
        let now = self.now();
        let Authorized::Done(saved, row) = reply else {
            return;
        };
        let Some((family, access)) = self
            .tokens(&row.id, row.version, &row.sealed)
            .as_ref()
            .and_then(access_of)
        else {
            return;
        };
        let mut books = self.books();
        let number = books.grants.len();
        books
            .grants
            .entry(row.id.clone())
            .or_insert_with(|| GrantBook {
                number,
                ..GrantBook::default()
            });
        books.committed.insert(
            token_text("at", family, access),
            (row.id.clone(), row.version),
        );
        books.moved(&row.id, position, row.version, family);
        let number = books.number(&row.id);
        books.note(
            now,
            number,
            format_args!(
                "c{connection} authorized: version {}, family {family}",
                row.version
            ),
        );
        books.connection_changed(connection, position, Some(saved));
    }

    pub(super) async fn saved(&self, connection: usize, saved: &Connection) {
        let position = self.position().await;
        let mut books = self.books();
        let number = saved.grant.as_ref().and_then(|grant| books.number(grant));
        books.note(
            self.now(),
            number,
            format_args!("c{connection} saved, enabled: {}", saved.enabled),
        );
        books.connection_changed(connection, position, Some(saved));
    }

    pub(super) async fn deleted(&self, connection: usize, deleted: &Deleted) {
        let position = self.position().await;
        let mut books = self.books();
        books.connection_changed(connection, position, None);
        let now = self.now();
        let Some(row) = &deleted.grant else { return };
        let number = books.number(&row.id);
        books.note(now, number, format_args!("c{connection} deleted"));
        if let Some(book) = books.grants.get_mut(&row.id) {
            book.deleted = Some(now);
            let family = book.family;
            books.families[family].ended = true;
        }
    }
}

impl Books {
    /// Whether a replica may have lost its hold on a grant since then: it stopped or died, or the
    /// store failed it.
    fn excused(&self, family: FamilyId, life: usize, since: Duration) -> bool {
        let after = |incident: Option<Duration>| incident.is_some_and(|at| at >= since);
        after(self.families[family].failed.get(&life).copied()) || after(self.lives[life].incident)
    }

    /// When the newest access token ends of those that had been committed by then.
    fn newest_expiry(&self, family: FamilyId, then: Duration) -> Duration {
        let book = &self.families[family];
        // The engine counts from the claim, which is at most this much before the sending.
        let ttl = book.family.terms().access_ttl;
        let committed = book.sends.iter().rev().find_map(|send| {
            let committed = send.committed.is_some_and(|at| at <= then);
            let access = send.granted.filter(|_| committed)?;
            let counted = (send.at + ttl).saturating_sub(OLDEST_CLAIM);
            Some(book.family.access_expiry(AccessId(access))?.min(counted))
        });
        committed.unwrap_or_else(|| {
            let imported = book.family.access_expiry(AccessId(0));
            imported.unwrap_or_default().saturating_sub(IMPORT_SLACK)
        })
    }

    /// A grant has a new version.
    fn moved(&mut self, grant: &GrantId, position: u64, version: u64, family: FamilyId) {
        self.families[family].grant = Some(grant.clone());
        let Some(book) = self.grants.get_mut(grant) else {
            return;
        };
        book.versions.push((position, version));
        book.family = family;
        book.dead = false;
    }

    fn connection_changed(&mut self, connection: usize, position: u64, now: Option<&Connection>) {
        let grant = now
            .filter(|connection| connection.enabled)
            .and_then(|connection| connection.grant.clone());
        self.connections[connection].states.push((position, grant));
    }

    /// A revocation of another family of the same user ends this one too. No living connection
    /// may lose its grant by that.
    pub(super) fn ends_with_its_user(&mut self, family: FamilyId, by: FamilyId, now: Duration) {
        // Who deletes one of two authorizations of the same user ends both, by the provider's
        // rules. One that was made after the deletion must not end with it.
        let deleted = self.families[by].grant.as_ref();
        let deleted = deleted.and_then(|grant| self.grants[grant].deleted);
        let book = &mut self.families[family];
        let later = deleted.is_none_or(|deleted| deleted < book.minted);
        if book.ended || !book.family.revoke() {
            return;
        }
        book.ended = true;
        let used = later
            && book.grant.as_ref().is_some_and(|grant| {
                self.grants[grant].family == family
                    && self.connections.iter().any(|connection| {
                        let last = connection.states.last();
                        last.is_some_and(|(_, used)| used.as_ref() == Some(grant))
                    })
            });
        if used {
            let grant = self.grant_of_family(family);
            self.violated(
                now,
                "a revocation ends what it is meant to end",
                grant,
                format_args!("family {family} is in use, and ends with another of its user"),
            );
        }
    }

    /// The newest version of a grant that a replica must know of, and the one that it must know of while
    /// the store does not answer.
    pub(super) fn floor(&self, life: usize, grant: &GrantId) -> (u64, u64) {
        let life = &self.lives[life];
        let newest = |told: &dyn Fn(u64) -> bool| {
            let book = self.grants.get(grant)?;
            let mut told = book.versions.iter().rev().filter(|(at, _)| told(*at));
            told.next().map(|(_, version)| *version)
        };
        let own = life.own.get(grant).copied().unwrap_or(0);
        let one_by_one = |at| at <= life.born || (life.unsure < at && at <= life.known);
        (
            newest(&|at| at <= life.known).unwrap_or(0).max(own),
            newest(&one_by_one).unwrap_or(0).max(own),
        )
    }
}

// The end.
impl World {
    /// Every answer that a provider gave has had an end (I1, I4).
    pub(super) fn audit(&self) {
        let now = self.now();
        let mut books = self.books();
        let mut found = Vec::new();
        let mut granted = 0;
        let mut ends = 0;
        for (family, book) in books.families.iter().enumerate() {
            for send in &book.sends {
                granted += u64::from(send.granted.is_some());
                ends += u64::from(send.granted.is_some() && send.fate == Fate::Committed);
                let open = matches!(send.fate, Fate::Open | Fate::Delivered | Fate::Spooled);
                if open && let Some(access) = send.granted {
                    found.push((
                        books.grant_of_family(family),
                        format!(
                            "at-{family}-{access}, granted at {}, is neither committed nor kept ({:?})",
                            super::books::stamp(send.at),
                            send.fate
                        ),
                    ));
                }
            }
        }
        if granted != books.counts.granted || ends != books.counts.committed {
            found.push((
                None,
                format!(
                    "granted {granted} of {}, committed {ends} of {}",
                    books.counts.granted, books.counts.committed
                ),
            ));
        }
        for (grant, what) in found {
            books.violated(now, "I4", grant, format_args!("{what}"));
        }
    }

    /// Callers that have not been answered in time (I5).
    pub(super) fn overdue(&self) {
        let now = self.now();
        let mut books = self.books();
        let mut late = Vec::new();
        for life in &mut books.lives {
            while let Some((call, due)) = life
                .waiting
                .iter()
                .find(|(_, due)| **due + SECOND < now)
                .map(|(call, due)| (*call, *due))
            {
                life.waiting.remove(&call);
                late.push((call, due));
            }
        }
        for (call, due) in late {
            books.violated(
                now,
                "I5",
                None,
                format_args!("call {call} was due at {}", super::books::stamp(due)),
            );
        }
    }
}
