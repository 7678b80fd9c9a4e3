//! Each broken promise is found, and what is explained is not accused.

use super::*;

const GRANT: GrantId = GrantId(1);

/// A timeline in the making.
#[derive(Default)]
struct Story {
    evidence: Evidence,
    requests: u64,
    tokens: u32,
}

impl Story {
    fn new(rotation: Rotation, version: u64) -> Self {
        let mut story = Self::default();
        story.evidence.places.push(Place {
            name: "acme/accounting+sandbox".to_owned(),
            rotation,
            access_ttl_ms: 4000,
            families: vec![GRANT],
            version,
            deaths: Vec::new(),
            end: None,
        });
        story.tell(EventKind::Issued, None, 0, "", None);
        story
    }

    fn tell(
        &mut self,
        kind: EventKind,
        request: Option<u64>,
        at_ms: u64,
        via: &str,
        token: Option<u32>,
    ) -> &mut TimelineEvent {
        self.evidence.events.push(TimelineEvent {
            at_ms,
            kind,
            request,
            grant: Some(GRANT),
            token: token.map(RefreshId),
            access: None,
            issued: None,
            via: Some(via.to_owned()),
            note: None,
        });
        self.evidence.events.last_mut().unwrap()
    }

    fn seen(&mut self, at: u64, via: &str, token: u32) -> u64 {
        self.requests += 1;
        self.tell(EventKind::Seen, Some(self.requests), at, via, Some(token));
        self.requests
    }

    fn granted(&mut self, request: u64, at: u64) -> u32 {
        self.tokens += 1;
        let number = self.tokens;
        let event = self.tell(EventKind::Granted, Some(request), at, "", None);
        event.access = Some(AccessId(number));
        event.issued = Some(RefreshId(number));
        number
    }

    fn then(&mut self, kind: EventKind, request: u64, at: u64) {
        self.tell(kind, Some(request), at, "", None);
    }

    /// Seen, granted and answered at once.
    fn refresh(&mut self, at: u64, via: &str, token: u32) -> u32 {
        let request = self.seen(at, via, token);
        let issued = self.granted(request, at + 1);
        self.then(EventKind::Answered, request, at + 2);
        issued
    }

    fn end(&mut self, token: u32) {
        self.evidence.places[0].end = Some((GRANT, AccessId(token)));
    }

    fn kill(&mut self, via: &str, at: u64) {
        self.evidence
            .lives
            .entry(via.to_owned())
            .or_default()
            .killed = Some(at);
    }

    #[track_caller]
    fn is_fine(&self) -> Tally {
        let (tally, violations) = judge(&self.evidence);
        assert!(violations.is_empty(), "{violations:#?}");
        tally
    }

    #[track_caller]
    fn is_accused(&self, what: &str) {
        let (_, violations) = judge(&self.evidence);
        assert!(
            violations
                .iter()
                .any(|violation| violation.what.contains(what)),
            "{violations:#?}"
        );
    }
}

#[test]
fn one_refresh_per_expiry_is_fine() {
    let mut story = Story::new(Rotation::Revokes, 3);
    let first = story.refresh(1000, "a", 0);
    let second = story.refresh(4000, "b", first);
    story.end(second);
    let tally = story.is_fine();
    assert_eq!(
        (tally.granted, tally.committed, tally.repetitions),
        (2, 2, 0)
    );
}

#[test]
fn an_answer_that_was_dropped_is_found() {
    let mut story = Story::new(Rotation::Grace(std::time::Duration::from_secs(1800)), 2);
    let first = story.refresh(1000, "a", 0);
    story.refresh(2000, "b", 0);
    story.end(first);
    story.is_accused("its answer was dropped");
    story.is_accused("which had been answered");
}

#[test]
fn a_version_without_a_grant_is_found() {
    let mut story = Story::new(Rotation::Refused, 4);
    let first = story.refresh(1000, "a", 0);
    story.end(first);
    story.is_accused("tell of 1 committed refreshes, the vault of 3");
}

#[test]
fn an_answer_that_died_with_its_process_is_explained() {
    let mut story = Story::new(Rotation::Grace(std::time::Duration::from_secs(1800)), 2);
    story.refresh(1000, "a", 0);
    story.kill("a", 1005);
    let second = story.refresh(4000, "b", 0);
    story.end(second);
    let tally = story.is_fine();
    assert_eq!(
        (
            tally.granted,
            tally.lost_with_process,
            tally.repetitions_granted
        ),
        (2, 1, 1)
    );
    // But not if the process went on to ask again.
    story.evidence.lives.clear();
    story.is_accused("its answer was dropped");
}

#[test]
fn a_request_may_be_repeated_whose_slow_provider_grants_it_after_its_sender_has_died() {
    let mut story = Story::new(Rotation::Grace(std::time::Duration::from_secs(1800)), 2);
    let slow = story.seen(1000, "a", 0);
    story.kill("a", 1010);
    story.then(EventKind::Dropped, slow, 1011);
    let second = story.refresh(1200, "b", 0);
    story.granted(slow, 1800);
    story.then(EventKind::Lost, slow, 1800);
    story.end(second);
    let tally = story.is_fine();
    assert_eq!((tally.lost_at_provider, tally.repetitions_granted), (1, 1));
    // But not while its sender lives.
    story.evidence.lives.clear();
    story
        .evidence
        .events
        .retain(|event| event.kind != EventKind::Dropped);
    story.is_accused("was in flight");
}

#[test]
fn two_in_flight_are_found_unless_the_first_was_stopped() {
    let mut story = Story::new(Rotation::Grace(std::time::Duration::from_secs(1800)), 2);
    let slow = story.seen(1000, "a", 0);
    let second = story.refresh(4000, "b", 0);
    story.granted(slow, 5000);
    story.then(EventKind::Answered, slow, 5001);
    story.end(second);
    story.is_accused("was in flight");
    let life = story.evidence.lives.entry("a".to_owned()).or_default();
    life.stopped.push((1200, 5200));
    assert_eq!(story.is_fine().superseded, 1);
}

#[test]
fn with_a_revoking_provider_a_repetition_waits_for_the_death_of_the_token() {
    for (again, fine) in [(3000, false), (4100, true)] {
        let mut story = Story::new(Rotation::Revokes, 1);
        let first = story.seen(1000, "a", 0);
        story.granted(first, 1001);
        story.then(EventKind::Dropped, first, 1002);
        story.then(EventKind::Lost, first, 1002);
        let second = story.seen(again, "a", 0);
        story.then(EventKind::Refused, second, again + 1);
        story.then(EventKind::Answered, second, again + 1);
        story.evidence.places[0].deaths.push((GRANT, again + 10));
        if fine {
            assert_eq!(story.is_fine().refused, 1);
        } else {
            story.is_accused("before the access token's death");
        }
    }
}

#[test]
fn a_refusal_or_a_death_without_reason_is_found() {
    let mut story = Story::new(Rotation::Refused, 1);
    story.evidence.places[0].deaths.push((GRANT, 10));
    story.is_accused("without the provider's word");
    let request = story.seen(5, "a", 0);
    story.then(EventKind::Refused, request, 6);
    story.then(EventKind::Answered, request, 6);
    story.is_accused("no lost answer explains it");
}

#[test]
fn without_rotation_the_numbers_must_add_up() {
    let mut story = Story::new(Rotation::Never, 2);
    for at in [1000, 4000] {
        let request = story.seen(at, "a", 0);
        story.granted(request, at + 1);
        story.evidence.events.last_mut().unwrap().issued = None;
        story.then(EventKind::Answered, request, at + 2);
    }
    story.is_accused("1 answers were dropped");
    story.kill("a", 4010);
    assert_eq!(story.is_fine().lost_with_process, 1);
}

#[test]
fn a_revoked_family_refuses_what_a_stopped_owner_brought_home() {
    let mut story = Story::new(Rotation::Revokes, 2);
    let slow = story.seen(1000, "a", 0);
    let brought = story.granted(slow, 1001);
    story.then(EventKind::Answered, slow, 1002);
    let life = story.evidence.lives.entry("a".to_owned()).or_default();
    life.stopped.push((1000, 4500));
    let again = story.seen(4100, "b", 0);
    story.then(EventKind::Refused, again, 4101);
    story.then(EventKind::Answered, again, 4101);
    let last = story.seen(4600, "a", brought);
    story.then(EventKind::Refused, last, 4601);
    story.then(EventKind::Answered, last, 4601);
    assert_eq!(story.is_fine().refused, 2);
}

/// A stopped owner's answer that is saved when the grant was found dead, in the moment before a
/// new authorization takes its place.
#[test]
fn an_answer_that_was_saved_and_never_used_is_committed() {
    let mut story = Story::new(Rotation::Revokes, 3);
    let slow = story.seen(1000, "a", 0);
    story.granted(slow, 1001);
    story.then(EventKind::Answered, slow, 1002);
    let life = story.evidence.lives.entry("a".to_owned()).or_default();
    life.stopped.push((1000, 4900));
    let again = story.seen(5100, "b", 0);
    story.then(EventKind::Refused, again, 5101);
    story.then(EventKind::Answered, again, 5101);
    story.kill("a", 5300);
    story.is_accused("tell of 0 committed refreshes, the vault of 2");
    // Two imports: one version more than those is the answer's.
    story.evidence.places[0].families.push(GrantId(2));
    let tally = story.is_fine();
    assert_eq!((tally.committed, tally.superseded), (1, 0));
    // Without that version, it was not saved.
    story.evidence.places[0].version = 2;
    let tally = story.is_fine();
    assert_eq!((tally.committed, tally.superseded), (0, 1));
    // Nor can it have been by a process that was dead when the token was used again.
    story.evidence.places[0].version = 3;
    story.kill("a", 5000);
    story.is_accused("tell of 0 committed refreshes, the vault of 1");
}
