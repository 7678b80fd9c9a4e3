//! The pure decisions, with the time as data.

use std::time::Duration;

use tokenward_sandbox::ledger::{AccessId, Decision, Family, RefreshId, Refusal, Rotation, Terms};

const FIRST: RefreshId = RefreshId(0);
const SECOND: RefreshId = RefreshId(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn terms(rotation: Rotation) -> Terms {
    Terms {
        rotation,
        access_ttl: seconds(100),
        refresh_ttl: None,
        refresh_idle: None,
        refresh_kills_access_token: false,
    }
}

fn family(terms: Terms) -> Family {
    let mut family = Family::new(terms);
    let first = family.issue(seconds(100), Duration::ZERO);
    assert_eq!(first, (AccessId(0), FIRST));
    family
}

fn granted(access: u32, refresh: Option<u32>, replay: bool) -> Decision {
    Decision::Granted {
        access: AccessId(access),
        refresh: refresh.map(RefreshId),
        replay,
    }
}

fn refused(reason: Refusal, replay: bool, revoked_family: bool) -> Decision {
    Decision::Refused {
        reason,
        replay,
        revoked_family,
    }
}

#[test]
fn never_keeps_the_token() {
    let mut family = family(terms(Rotation::Never));
    for (nth, at) in [(1, 10), (2, 10), (3, 1_000_000)] {
        assert_eq!(
            family.refresh(FIRST, true, seconds(at)),
            granted(nth, None, false)
        );
    }
}

#[test]
fn grace_runs_from_the_first_use_and_ends() {
    let mut family = family(terms(Rotation::Grace(seconds(30))));
    assert_eq!(
        family.refresh(FIRST, true, seconds(10)),
        granted(1, Some(1), false)
    );
    assert_eq!(
        family.refresh(FIRST, true, seconds(39)),
        granted(2, Some(2), true)
    );

    // The second use did not extend it.
    let late = refused(Refusal::Replaced, true, false);
    assert_eq!(family.refresh(FIRST, true, seconds(40)), late);

    // Both pairs that were given are good, and the refusal changed nothing.
    assert_eq!(
        family.refresh(SECOND, true, seconds(41)),
        granted(3, Some(3), false)
    );
    assert_eq!(
        family.refresh(RefreshId(2), true, seconds(42)),
        granted(4, Some(4), false)
    );
}

#[test]
fn refused_leaves_the_family_alone() {
    let mut family = family(terms(Rotation::Refused));
    assert_eq!(
        family.refresh(FIRST, true, seconds(1)),
        granted(1, Some(1), false)
    );
    let replay = refused(Refusal::Replaced, true, false);
    assert_eq!(family.refresh(FIRST, true, seconds(1)), replay);
    assert!(family.access_is_live(AccessId(1), seconds(2)));
    assert_eq!(
        family.refresh(SECOND, true, seconds(2)),
        granted(2, Some(2), false)
    );
}

#[test]
fn revokes_takes_everything_down_once() {
    let mut family = family(terms(Rotation::Revokes));
    assert_eq!(
        family.refresh(FIRST, true, seconds(1)),
        granted(1, Some(1), false)
    );
    let replay = refused(Refusal::Replaced, true, true);
    assert_eq!(family.refresh(FIRST, true, seconds(1)), replay);

    assert!(family.is_revoked());
    assert!(!family.access_is_live(AccessId(1), seconds(1)));
    let dead = refused(Refusal::Revoked, false, false);
    assert_eq!(family.refresh(SECOND, true, seconds(2)), dead);
    let again = refused(Refusal::Revoked, true, false);
    assert_eq!(family.refresh(FIRST, true, seconds(2)), again);
}

#[test]
fn an_omitted_token_stays_good_under_every_policy() {
    let grace = Rotation::Grace(seconds(1));
    for rotation in [Rotation::Never, grace, Rotation::Refused, Rotation::Revokes] {
        let mut family = family(terms(rotation));
        assert_eq!(
            family.refresh(FIRST, false, seconds(1)),
            granted(1, None, false)
        );
        assert_eq!(
            family.refresh(FIRST, false, seconds(9)),
            granted(2, None, false)
        );
    }
}

#[test]
fn refresh_tokens_expire() {
    let absolute = Terms {
        refresh_ttl: Some(seconds(50)),
        ..terms(Rotation::Never)
    };
    let expired = refused(Refusal::Expired, false, false);
    let mut by_age = family(absolute);
    assert_eq!(
        by_age.refresh(FIRST, true, seconds(49)),
        granted(1, None, false)
    );
    assert!(!by_age.refresh_is_live(FIRST, seconds(50)));
    assert_eq!(by_age.refresh(FIRST, true, seconds(50)), expired);

    let idle = Terms {
        refresh_idle: Some(seconds(50)),
        ..terms(Rotation::Never)
    };
    let mut by_use = family(idle);
    assert_eq!(
        by_use.refresh(FIRST, true, seconds(49)),
        granted(1, None, false)
    );
    assert_eq!(
        by_use.refresh(FIRST, true, seconds(98)),
        granted(2, None, false)
    );
    assert_eq!(by_use.refresh(FIRST, true, seconds(148)), expired);
}

#[test]
fn access_tokens_die_of_age_and_of_a_refresh() {
    let mut family = family(Terms {
        refresh_kills_access_token: true,
        ..terms(Rotation::Refused)
    });
    assert!(family.access_is_live(AccessId(0), seconds(99)));
    assert!(!family.access_is_live(AccessId(0), seconds(100)));
    assert_eq!(
        family.refresh(FIRST, true, seconds(10)),
        granted(1, Some(1), false)
    );
    assert!(!family.access_is_live(AccessId(0), seconds(10)));
    assert!(family.access_is_live(AccessId(1), seconds(10)));
}

#[test]
fn unknown_tokens_are_refused() {
    let mut family = family(terms(Rotation::Revokes));
    let unknown = refused(Refusal::Unknown, false, false);
    assert_eq!(family.refresh(RefreshId(7), true, seconds(1)), unknown);
    assert!(!family.access_is_live(AccessId(7), seconds(1)));
}
