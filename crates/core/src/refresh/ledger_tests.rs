use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: i64) -> StoreTime {
    StoreTime(seconds * 1000)
}

fn row() -> GrantRow {
    FreshGrant {
        counted_from: None,
        sealed: b"v1".to_vec(),
        expires_in: Some(HOUR),
        lifetime: Some(HOUR),
        keep_alive: None,
        fingerprint: None,
        consent: None,
    }
    .into_row("g".into(), "a".into(), "c".into(), at(0))
}

fn claim(
    row: &mut GrantRow,
    owner: &str,
    policy: ReplayPolicy,
    need: Need,
    now: i64,
) -> ClaimReply {
    let seen = row.version;
    claim_seen(row, owner, policy, need, seen, now)
}

fn claim_seen(
    row: &mut GrantRow,
    owner: &str,
    policy: ReplayPolicy,
    need: Need,
    seen: u64,
    now: i64,
) -> ClaimReply {
    let request = ClaimRequest {
        grant: row.id.clone(),
        seen,
        owner: owner.into(),
        ttl: TTL,
        need,
        policy,
        pardoned: None,
    };
    row.claim(&request, at(now))
}

fn commit(row: &mut GrantRow, base: u64, epoch: u64, sealed: &str) -> CommitReply {
    row.commit(CommitRequest {
        grant: row.id.clone(),
        base,
        epoch,
        sent_at: at(3600),
        sealed: sealed.into(),
        lifetime: Some(HOUR),
        keep_alive: None,
        fingerprint: None,
    })
}

fn settle(row: &mut GrantRow, base: u64, epoch: u64, verdict: Verdict, now: i64) -> SettleReply {
    row.settle(
        SettleRequest {
            grant: row.id.clone(),
            base,
            epoch,
            verdict,
        },
        at(now),
    )
}

fn failed(kind: FailureKind) -> Verdict {
    Verdict::Failed {
        kind,
        message: "m".to_owned(),
        retry_in: Duration::from_secs(1),
        asked: false,
    }
}

#[test]
fn one_claim_at_a_time_and_the_next_version_ends_it() {
    let mut row = row();
    assert!(matches!(
        claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 3600),
        ClaimReply::Claimed(_)
    ));
    assert!(matches!(
        claim(&mut row, "q", ReplayPolicy::Harmless, Need::Forced, 3601),
        ClaimReply::Held(_)
    ));
    assert!(matches!(
        commit(&mut row, 1, 1, "v2"),
        CommitReply::Committed {
            recovered: false,
            ..
        }
    ));
    assert_eq!(
        (row.version, row.claim.clone(), row.attempt.clone()),
        (2, None, None)
    );
    assert_eq!(row.expires_at, Some(at(7200)));
    assert!(matches!(
        claim_seen(&mut row, "q", ReplayPolicy::Harmless, Need::Forced, 1, 3602),
        ClaimReply::Newer(_)
    ));
}

#[test]
fn a_claim_whose_reply_was_lost_is_the_same_claim() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 3600);
    let ClaimReply::Claimed(again) = claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 3605)
    else {
        panic!("not ours");
    };
    assert_eq!((again.epoch, again.attempt.map(|a| a.sends)), (1, Some(1)));
}

/// Found by the crash harness: the claim of a dead owner held until the clock had caught up.
#[test]
fn a_clock_that_jumps_back_prolongs_neither_a_claim_nor_a_pause() {
    let mut row = row();
    let two_hours_ago = 3600 - 7200;
    claim(&mut row, "dead", ReplayPolicy::Harmless, Need::Stale, 3600);
    assert!(row.held(at(two_hours_ago)) && !row.held_within(TTL, at(two_hours_ago)));
    let asked = |row: &mut GrantRow, now| claim(row, "b", ReplayPolicy::Harmless, Need::Stale, now);
    assert!(matches!(
        asked(&mut row, two_hours_ago),
        ClaimReply::Held(_)
    ));
    // The owner may live: it has the whole length of a claim to show it.
    assert!(row.held_within(TTL, at(two_hours_ago)));
    assert!(matches!(
        asked(&mut row, two_hours_ago + 19),
        ClaimReply::Held(_)
    ));
    let ClaimReply::Claimed(ours) = asked(&mut row, two_hours_ago + 20) else {
        panic!("{row:?}")
    };
    settle(
        &mut row,
        ours.version,
        ours.epoch,
        failed(FailureKind::NotSent),
        3600,
    );
    assert!(row.cooling(at(3600)) && !row.cooling(at(two_hours_ago)));
    assert!(matches!(
        asked(&mut row, two_hours_ago + 21),
        ClaimReply::Claimed(_)
    ));
}

#[test]
fn takeover_under_each_policy() {
    // An owner dies in flight while the access token lives.
    for (policy, sends_again) in [
        (ReplayPolicy::Harmless, true),
        (ReplayPolicy::Grace { seconds: 1800 }, true),
        (ReplayPolicy::Refused, true),
        (ReplayPolicy::Revokes, false),
    ] {
        let mut row = row();
        claim(&mut row, "p", policy, Need::Stale, 3570);
        let reply = claim(&mut row, "q", policy, Need::Stale, 3595);
        assert_eq!(
            matches!(reply, ClaimReply::Claimed(_)),
            sends_again,
            "{policy:?}: {reply:?}"
        );
        if !sends_again {
            assert!(matches!(reply, ClaimReply::Deferred(_, until) if until == at(3600)));
            assert!(
                row.attempt
                    .as_ref()
                    .is_some_and(|attempt| attempt.lost.is_some())
            );
            // With the access token dead there is nothing left to lose.
            assert!(matches!(
                claim(&mut row, "q", policy, Need::Stale, 3600),
                ClaimReply::Claimed(_)
            ));
            assert_eq!(row.attempt.as_ref().map(|a| a.sends), Some(2));
        }
    }
}

#[test]
fn a_rejected_access_token_is_nothing_left_to_lose() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 10);
    settle(&mut row, 1, 1, failed(FailureKind::Unknown), 11);
    assert!(matches!(
        claim(&mut row, "q", ReplayPolicy::Revokes, Need::Forced, 20),
        ClaimReply::Deferred(..)
    ));
    assert!(matches!(
        claim(&mut row, "q", ReplayPolicy::Revokes, Need::Rejected, 20),
        ClaimReply::Claimed(_)
    ));
}

/// Found by the model checker: version 1 is refreshed; the answer to the refresh of version 2 is
/// lost while its access token lives; then somebody reports a 401 that version 1 had got. Joined
/// as `Rejected` against version 2, it sent the spent token again and ended the family.
#[test]
fn a_401_of_an_older_version_does_not_send_a_spent_token_again() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 10);
    let need = Need::Rejected.of(row.version - 1, row.version);
    assert_eq!(need, Need::Stale);
    assert!(matches!(
        claim(&mut row, "q", ReplayPolicy::Revokes, need, 40),
        ClaimReply::Deferred(..)
    ));
    assert_eq!(
        Need::Rejected.of(row.version, row.version),
        Need::Rejected,
        "a 401 of the newest version is what it says"
    );
}

#[test]
fn a_late_answer_is_adopted_while_the_version_stands() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    claim(&mut row, "q", ReplayPolicy::Refused, Need::Stale, 3630);
    assert!(matches!(
        commit(&mut row, 1, 1, "late"),
        CommitReply::Committed { .. }
    ));
    assert_eq!(row.sealed, b"late");
    assert!(matches!(
        commit(&mut row, 1, 2, "second"),
        CommitReply::Superseded(_)
    ));
    assert_eq!(row.sealed, b"late");
    assert_eq!(row.claim, None);
}

/// Found by `histories_keep_the_fence`: a claim on version 1 outlives version 1.
#[test]
fn a_claim_that_outlived_its_version_is_not_taken_for_a_claim_on_the_next() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    claim(&mut row, "q", ReplayPolicy::Refused, Need::Stale, 3630);
    commit(&mut row, 1, 1, "late");
    let ClaimReply::Claimed(again) = claim(&mut row, "q", ReplayPolicy::Refused, Need::Stale, 3631)
    else {
        panic!("not claimed")
    };
    assert_eq!((again.version, again.epoch), (2, 3));
    assert_eq!(again.attempt.map(|attempt| attempt.sends), Some(1));
}

#[test]
fn a_commit_whose_reply_was_lost_is_known_again() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    commit(&mut row, 1, 1, "v2");
    assert!(matches!(
        commit(&mut row, 1, 1, "v2"),
        CommitReply::Committed { .. }
    ));
    assert_eq!(row.version, 2);
}

#[test]
fn a_save_that_comes_late_lengthens_no_life() {
    let mut row = row();
    let fresh = |from| FreshGrant {
        counted_from: Some(at(from)),
        sealed: b"new".to_vec(),
        expires_in: Some(HOUR),
        lifetime: Some(HOUR),
        keep_alive: Some(2 * HOUR),
        fingerprint: None,
        consent: None,
    };
    row.authorize(fresh(100), at(143));
    assert_eq!(row.expires_at, Some(at(3700)));
    assert_eq!(row.keep_alive_at, Some(at(7300)));
    // A moment that has not come yet is not believed.
    row.authorize(fresh(500), at(150));
    assert_eq!(row.expires_at, Some(at(3750)));
}

#[test]
fn an_answer_from_before_a_new_authorization_is_void() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    let fresh = FreshGrant {
        counted_from: None,
        sealed: b"new".to_vec(),
        expires_in: Some(HOUR),
        lifetime: None,
        keep_alive: None,
        fingerprint: None,
        consent: None,
    };
    row.authorize(fresh, at(3601));
    assert!(matches!(
        commit(&mut row, 1, 1, "old"),
        CommitReply::Reauthorized(_)
    ));
    assert_eq!(row.sealed, b"new");
    assert!(matches!(
        settle(&mut row, 1, 1, Verdict::Dead { reason: "x".into() }, 3602),
        SettleReply::Superseded(_)
    ));
    assert_eq!(row.standing, Standing::Live);
}

#[test]
fn only_a_dead_grants_own_version_is_spent() {
    let mut row = row();
    // The grant lives: the API's word alone ends nothing.
    assert!(matches!(
        settle(&mut row, 1, 0, Verdict::Spent, 1),
        SettleReply::Superseded(_)
    ));
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Forced, 1);
    settle(&mut row, 1, 1, Verdict::Dead { reason: "x".into() }, 2);
    assert!(row.access_alive(at(3)));
    assert!(matches!(
        settle(&mut row, 2, 0, Verdict::Spent, 3),
        SettleReply::Superseded(_)
    ));
    for now in [3, 4] {
        let settled = settle(&mut row, 1, 0, Verdict::Spent, now);
        assert!(matches!(settled, SettleReply::Settled { first: false, .. }));
        assert_eq!(row.expires_at, Some(at(3)));
    }
    assert!(matches!(row.standing, Standing::Dead { .. }));
    // An answer that comes late all the same has a life of its own.
    commit(&mut row, 1, 1, "v2");
    assert!(row.access_alive(at(3601)));
}

#[test]
fn invalid_grant_after_losing_a_race_condemns_nobody() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    claim(&mut row, "q", ReplayPolicy::Refused, Need::Stale, 3630);
    // q holds the claim now: p's refusal is not the last word.
    assert!(matches!(
        settle(&mut row, 1, 1, Verdict::Dead { reason: "x".into() }, 3631),
        SettleReply::Superseded(_)
    ));
    assert_eq!(row.standing, Standing::Live);
    commit(&mut row, 1, 2, "v2");
    assert!(matches!(
        settle(&mut row, 1, 1, Verdict::Dead { reason: "x".into() }, 3632),
        SettleReply::Superseded(_)
    ));
}

#[test]
fn a_death_tells_of_the_lost_answer() {
    let mut row = row();
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3600);
    settle(
        &mut row,
        1,
        1,
        Verdict::Failed {
            kind: FailureKind::Unknown,
            message: "connection reset".into(),
            retry_in: Duration::ZERO,
            asked: false,
        },
        3601,
    );
    claim(&mut row, "p", ReplayPolicy::Refused, Need::Stale, 3602);
    settle(
        &mut row,
        1,
        2,
        Verdict::Dead {
            reason: "invalid_grant".into(),
        },
        3603,
    );
    let Standing::Dead { reason, .. } = &row.standing else {
        panic!("alive")
    };
    assert!(
        reason.contains("invalid_grant") && reason.contains("connection reset"),
        "{reason}"
    );
    assert!(matches!(
        claim(&mut row, "p", ReplayPolicy::Refused, Need::Rejected, 9999),
        ClaimReply::Dead(_)
    ));
}

#[test]
fn what_was_not_sent_leaves_no_attempt_and_trouble_is_announced_once() {
    let mut row = row();
    for (round, expect_first) in [(0, true), (1, false), (2, false)] {
        let now = 3600 + round * 10;
        let ClaimReply::Claimed(claimed) =
            claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, now)
        else {
            panic!("not claimed")
        };
        let SettleReply::Settled { first, row: after } = settle(
            &mut row,
            1,
            claimed.epoch,
            failed(FailureKind::NotSent),
            now,
        ) else {
            panic!("not settled")
        };
        assert_eq!(first, expect_first);
        assert_eq!(after.attempt, None);
        assert!(matches!(
            claim(&mut row, "p", ReplayPolicy::Revokes, Need::Forced, now),
            ClaimReply::Cooling(_)
        ));
    }
    assert_eq!(
        row.trouble.as_ref().map(|t| (t.since, t.failures)),
        Some((at(3600), 3))
    );
    claim(&mut row, "p", ReplayPolicy::Revokes, Need::Stale, 3700);
    assert!(matches!(
        commit(&mut row, 1, 4, "v2"),
        CommitReply::Committed {
            recovered: true,
            ..
        }
    ));
}

/// One action of a random history; owners are named by number.
#[derive(Clone, Debug)]
enum Action {
    Claim { owner: u8, forced: bool },
    Answer { owner: u8, granted: bool },
    Lose { owner: u8 },
    Pass { seconds: i64 },
    Authorize,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (0..3_u8, any::<bool>()).prop_map(|(owner, forced)| Action::Claim { owner, forced }),
        4 => (0..3_u8, any::<bool>()).prop_map(|(owner, granted)| Action::Answer { owner, granted }),
        1 => (0..3_u8).prop_map(|owner| Action::Lose { owner }),
        3 => (1..60_i64).prop_map(|seconds| Action::Pass { seconds }),
        1 => Just(Action::Authorize),
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    /// Over any history: the version counts authorizations and first commits, only one
    /// unexpired claim exists, and under `revokes` a second send happens only when the access
    /// token has died.
    #[test]
    fn histories_keep_the_fence(history in actions()) {
        let mut row = row();
        let mut now = 3550;
        let mut sent: [Option<(u64, u64)>; 3] = [None; 3];
        for action in history {
            let before = row.version;
            match action {
                Action::Pass { seconds } => now += seconds,
                Action::Authorize => {
                    let fresh = FreshGrant { counted_from: None, sealed: vec![9], expires_in: Some(HOUR), lifetime: None, keep_alive: None, fingerprint: None, consent: None, };
                    row.authorize(fresh, at(now));
                    prop_assert_eq!(row.version, before + 1);
                }
                Action::Claim { owner, forced } => {
                    let held_by_other = row.claim.as_ref().is_some_and(|c| at(now) < c.until && c.owner.as_str() != format!("o{owner}"));
                    let need = if forced { Need::Forced } else { Need::Stale };
                    // A flight that has sent claims no second time: it is over by then.
                    if sent[usize::from(owner)].is_some() { continue; }
                    if let ClaimReply::Claimed(claimed) = claim(&mut row, &format!("o{owner}"), ReplayPolicy::Revokes, need, now) {
                        prop_assert!(!held_by_other);
                        let sends = claimed.attempt.as_ref().map_or(0, |a| a.sends);
                        prop_assert!(sends == 1 || !claimed.access_alive(at(now)));
                        sent[usize::from(owner)] = Some((claimed.version, claimed.epoch));
                    }
                    prop_assert_eq!(row.version, before);
                }
                Action::Answer { owner, granted } => {
                    let Some((base, epoch)) = sent[usize::from(owner)].take() else { continue };
                    if granted {
                        let reply = commit(&mut row, base, epoch, "n");
                        let expected = if base == before { before + 1 } else { before };
                        prop_assert_eq!(row.version, expected);
                        prop_assert_eq!(base == before, matches!(reply, CommitReply::Committed { .. }));
                    } else {
                        settle(&mut row, base, epoch, failed(FailureKind::NotSent), now);
                        prop_assert_eq!(row.version, before);
                    }
                    prop_assert!(row.claim.as_ref().is_none_or(|c| c.epoch != epoch));
                }
                Action::Lose { owner } => { sent[usize::from(owner)] = None; }
            }
        }
    }
}
