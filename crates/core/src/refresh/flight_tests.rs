use super::*;
use crate::refresh::ledger::{Attempt, CommitRequest, FreshGrant, SettleRequest, Trouble};

/// A store of one row and a scripted provider, driven without I/O.
struct World {
    row: Option<GrantRow>,
    now: StoreTime,
    script: Vec<Outcome<&'static str>>,
    sent: Vec<u64>,
    spooled: usize,
    served: usize,
    /// How often a commit hangs before it is confirmed, and whether the spool takes anything.
    hangs: u32,
    disk_full: bool,
    revoked: Vec<&'static str>,
    store_down_for: u32,
    store_fails_after_send: u32,
    late: bool,
    well_since: Option<Moment>,
    clock: Moment,
    /// Runs between the provider's answer and what the flight does with it.
    meanwhile: Option<fn(&mut GrantRow, StoreTime)>,
}

const HOUR: Duration = Duration::from_secs(3600);

fn fresh(sealed: &str) -> FreshGrant {
    FreshGrant {
        counted_from: None,
        sealed: sealed.into(),
        expires_in: Some(Duration::from_secs(10)),
        lifetime: Some(HOUR),
        keep_alive: None,
        fingerprint: None,
        consent: None,
    }
}

impl World {
    fn new(script: impl IntoIterator<Item = Outcome<&'static str>>) -> Self {
        let now = StoreTime(1_000_000);
        Self {
            row: Some(fresh("v1").into_row("g".into(), "a".into(), "c".into(), now)),
            now,
            script: script.into_iter().collect(),
            sent: Vec::new(),
            spooled: 0,
            served: 0,
            hangs: 0,
            disk_full: false,
            revoked: Vec::new(),
            store_down_for: 0,
            store_fails_after_send: 0,
            late: false,
            well_since: None,
            clock: Moment(Duration::ZERO),
            meanwhile: None,
        }
    }

    fn stored<R>(&mut self, reply: impl FnOnce(&mut Self) -> R) -> Stored<R> {
        if self.store_down_for > 0 {
            self.store_down_for -= 1;
            return Stored::Down("down".to_owned());
        }
        let reply = reply(self);
        Stored::Ok(reply, self.now)
    }

    fn fly(&mut self, need: Need, policy: ReplayPolicy) -> Ending {
        let seen = self.row.as_ref().map_or(0, |row| row.version);
        self.fly_seen(seen, need, policy)
    }

    fn fly_seen(&mut self, seen: u64, need: Need, policy: ReplayPolicy) -> Ending {
        let plan = Plan {
            seen,
            need,
            policy,
            claim_ttl: Duration::from_secs(20),
            poll: Duration::from_millis(20),
            confirm_within: Duration::from_millis(100),
            well_since: self.well_since,
            chance: 0.5,
        };
        let mut flight = Flight::new(plan.clone());
        let mut event = Event::Begin;
        for _ in 0..100 {
            let (next, effect) = flight.step(event, self.clock);
            flight = next;
            event = match effect {
                Effect::Look => Event::Looked(self.stored(|world| world.row.clone())),
                Effect::Admit => Event::Admitted(Admission::Go),
                Effect::Claim { seen, pardoned } => {
                    Event::Claimed(self.stored(|world| match &mut world.row {
                        Some(row) => row.claim(
                            &crate::refresh::ledger::ClaimRequest {
                                grant: row.id.clone(),
                                seen,
                                owner: "me".into(),
                                ttl: plan.claim_ttl,
                                need,
                                policy,
                                pardoned,
                            },
                            world.now,
                        ),
                        None => ClaimReply::Missing,
                    }))
                }
                Effect::Send { row, .. } => {
                    if self.late {
                        self.late = false;
                        Event::Answered(Outcome::TooLate)
                    } else {
                        self.sent.push(row.version);
                        let outcome = self.script.remove(0);
                        if let (Some(meanwhile), Some(row)) = (self.meanwhile.take(), &mut self.row)
                        {
                            meanwhile(row, self.now);
                            if row.id.as_str() == "deleted" {
                                self.row = None;
                            }
                        }
                        self.store_down_for = self.store_fails_after_send;
                        Event::Answered(outcome)
                    }
                }
                Effect::Commit {
                    within: Some(_), ..
                } if self.hangs > 0 => {
                    self.hangs -= 1;
                    Event::Unconfirmed
                }
                Effect::Commit { row, granted, .. } => {
                    Event::Committed(self.stored(|world| match &mut world.row {
                        Some(stored) => stored.commit(CommitRequest {
                            grant: row.id.clone(),
                            base: row.version,
                            epoch: row.epoch,
                            sent_at: world.now,
                            sealed: granted.into(),
                            lifetime: Some(HOUR),
                            keep_alive: None,
                            fingerprint: None,
                        }),
                        None => CommitReply::Missing,
                    }))
                }
                Effect::Spool { .. } => {
                    self.spooled += usize::from(!self.disk_full);
                    Event::Spooled(!self.disk_full)
                }
                Effect::Serve { .. } => {
                    assert!(self.spooled > 0, "served before it is durable");
                    self.served += 1;
                    Event::Served
                }
                Effect::Settle { row, verdict } => {
                    Event::Settled(self.stored(|world| match &mut world.row {
                        Some(stored) => stored.settle(
                            SettleRequest {
                                grant: row.id.clone(),
                                base: row.version,
                                epoch: row.epoch,
                                verdict,
                            },
                            world.now,
                        ),
                        None => SettleReply::Missing,
                    }))
                }
                Effect::Revoke { granted } => {
                    self.revoked.push(granted);
                    Event::Revoked
                }
                Effect::Sleep(pause) | Effect::Rest(pause) => {
                    self.now = self.now + pause;
                    self.clock = self.clock + pause;
                    Event::Woken
                }
                Effect::Finish(ending) => return ending,
            };
        }
        panic!("the flight never ends");
    }
}

fn lost() -> Outcome<&'static str> {
    Outcome::Failed {
        kind: FailureKind::Unknown,
        fault: Fault::Endpoint,
        message: "reset".to_owned(),
        retry_after: None,
    }
}

#[test]
fn a_grant_is_committed() {
    let mut world = World::new([Outcome::Granted("v2")]);
    let Ending::Refreshed {
        row,
        recovered: false,
        ..
    } = world.fly(Need::Stale, ReplayPolicy::Revokes)
    else {
        panic!("not refreshed")
    };
    assert_eq!((row.version, row.sealed.as_slice()), (2, &b"v2"[..]));
}

#[test]
fn a_store_that_is_down_before_the_claim_means_that_nothing_is_sent() {
    let mut world = World::new([]);
    world.store_down_for = 50;
    assert!(matches!(
        world.fly(Need::Stale, ReplayPolicy::Harmless),
        Ending::StoreDown(_)
    ));
    assert!(world.sent.is_empty());
}

#[test]
fn a_store_that_fails_after_the_answer_costs_nothing() {
    let mut world = World::new([Outcome::Granted("v2")]);
    world.store_fails_after_send = 3;
    let ending = world.fly(Need::Stale, ReplayPolicy::Revokes);
    assert!(matches!(ending, Ending::Refreshed { .. }), "{ending:?}");
    assert_eq!((world.spooled, world.sent.as_slice()), (1, &[1][..]));
}

#[test]
fn an_answer_whose_commit_hangs_is_spooled_and_then_served_while_the_commit_goes_on() {
    let mut world = World::new([Outcome::Granted("v2")]);
    world.hangs = 1;
    let ending = world.fly(Need::Stale, ReplayPolicy::Revokes);
    assert!(matches!(ending, Ending::Refreshed { .. }), "{ending:?}");
    assert_eq!((world.spooled, world.served), (1, 1));
}

#[test]
fn what_the_spool_does_not_take_is_not_served_and_is_given_to_it_again() {
    let mut world = World::new([Outcome::Granted("v2")]);
    world.disk_full = true;
    world.hangs = 3;
    let ending = world.fly(Need::Stale, ReplayPolicy::Revokes);
    assert!(matches!(ending, Ending::Refreshed { .. }), "{ending:?}");
    assert_eq!((world.spooled, world.served, world.hangs), (0, 0, 0));
}

#[test]
fn a_lost_answer_is_tried_again_only_where_the_policy_allows() {
    let mut world = World::new([lost(), Outcome::Granted("v2")]);
    assert!(matches!(
        world.fly(Need::Stale, ReplayPolicy::Revokes),
        Ending::Failed { first: true, .. }
    ));
    world.now = world.now + Duration::from_secs(3);
    assert!(matches!(
        world.fly(Need::Forced, ReplayPolicy::Revokes),
        Ending::Deferred { .. }
    ));
    assert_eq!(world.sent, [1]);
    // The access token dies: nothing left to lose.
    world.now = world.now + Duration::from_secs(10);
    assert!(matches!(
        world.fly(Need::Stale, ReplayPolicy::Revokes),
        Ending::Refreshed {
            recovered: true,
            ..
        }
    ));
    assert_eq!(world.sent, [1, 1]);
}

fn throttled(seconds: u64) -> Outcome<&'static str> {
    Outcome::Failed {
        kind: FailureKind::Throttled,
        fault: Fault::Endpoint,
        message: "later".to_owned(),
        retry_after: Some(Duration::from_secs(seconds)),
    }
}

#[test]
fn failures_cool_down() {
    let mut world = World::new([lost(), Outcome::Granted("v2")]);
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    assert!(matches!(
        world.fly(Need::Stale, ReplayPolicy::Harmless),
        Ending::Failed { first: false, .. }
    ));
    assert_eq!(world.sent, [1]);
}

#[test]
fn a_person_may_try_before_the_retry_time_unless_the_provider_itself_has_named_it() {
    let mut world = World::new([lost(), throttled(3600), Outcome::Granted("v2")]);
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    world.fly(Need::Forced, ReplayPolicy::Harmless);
    assert_eq!(world.sent, [1, 1]);
    world.now = world.now + Duration::from_secs(3599);
    assert!(matches!(
        world.fly(Need::Forced, ReplayPolicy::Harmless),
        Ending::Failed { first: false, .. }
    ));
    assert_eq!(world.sent, [1, 1]);
}

#[test]
fn failures_from_before_a_sign_that_all_is_well_hold_nobody_back() {
    let mut world = World::new([lost(), lost(), Outcome::Granted("v2")]);
    let pass = |world: &mut World, ms| {
        world.now = world.now + Duration::from_millis(ms);
        world.clock = world.clock + Duration::from_millis(ms);
    };
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    pass(&mut world, 10);
    world.well_since = Some(world.clock);
    pass(&mut world, 10);
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    assert_eq!(world.sent, [1, 1]);
    // The same sign says nothing about what has failed since.
    pass(&mut world, 10);
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    assert_eq!(world.sent, [1, 1]);
}

#[test]
fn a_forced_flight_is_satisfied_by_what_is_committed_after_its_first_look_only() {
    let mut world = World::new([Outcome::Granted("v3")]);
    world.row.as_mut().unwrap().version = 2;
    let plan_seen_one = world.fly_seen(1, Need::Forced, ReplayPolicy::Revokes);
    assert!(matches!(plan_seen_one, Ending::Refreshed { .. }));
    assert_eq!(world.sent, [2]);
    let newer = world.fly_seen(1, Need::Stale, ReplayPolicy::Revokes);
    assert!(matches!(newer, Ending::Adopted { .. }));
}

#[test]
fn retry_times_are_bounded_by_the_time_that_the_trouble_has_lasted() {
    let s = Duration::from_secs;
    let row = |failures, since: i64, last_at: i64| GrantRow {
        trouble: Some(Trouble {
            since: StoreTime(since * 1000),
            failures,
            failed_at: StoreTime(since * 1000),
            retry_at: StoreTime(since * 1000),
            asked: false,
            kind: FailureKind::Unknown,
            message: String::new(),
        }),
        attempt: Some(Attempt {
            sends: 1,
            first_at: StoreTime(last_at * 1000),
            last_at: StoreTime(last_at * 1000),
            in_flight: true,
            lost: None,
        }),
        ..World::new([]).row.unwrap()
    };
    let unknown = |row: &GrantRow| retry_in(FailureKind::Unknown, row, None, 1.0);
    assert_eq!(unknown(&row(1, 0, 1)), s(1));
    assert_eq!(unknown(&row(10, 0, 60)), s(15));
    assert_eq!(unknown(&row(20, 0, 3600)), LONGEST_RETRY);
    let refused = |row: &GrantRow| retry_in(FailureKind::Configuration, row, None, 1.0);
    assert_eq!(refused(&row(5, 0, 20)), s(10));
    // What the provider asks for is never cut short, but by a day.
    let asked = |wish| retry_in(FailureKind::Throttled, &row(1, 0, 1), Some(wish), 0.0);
    assert_eq!(asked(s(7200)), s(7200));
    assert_eq!(asked(s(u64::MAX)), s(24 * 3600));
}

#[test]
fn a_refusal_is_final() {
    let mut world = World::new([Outcome::Refused {
        reason: "invalid_grant".to_owned(),
    }]);
    assert!(matches!(
        world.fly(Need::Stale, ReplayPolicy::Harmless),
        Ending::Dead { first: true, .. }
    ));
    assert!(matches!(
        world.fly(Need::Forced, ReplayPolicy::Harmless),
        Ending::Dead { first: false, .. }
    ));
    assert_eq!(world.sent, [1]);
}

#[test]
fn a_refusal_after_a_lost_race_adopts_the_winner() {
    let mut world = World::new([Outcome::Refused {
        reason: "invalid_grant".to_owned(),
    }]);
    world.meanwhile = Some(|row, now| {
        let claimed = row.epoch;
        let reply = row.commit(CommitRequest {
            grant: row.id.clone(),
            base: 1,
            epoch: claimed + 1,
            sent_at: now,
            sealed: b"winner".to_vec(),
            lifetime: Some(HOUR),
            keep_alive: None,
            fingerprint: None,
        });
        assert!(matches!(reply, CommitReply::Committed { .. }));
    });
    let Ending::Adopted { row, .. } = world.fly(Need::Stale, ReplayPolicy::Refused) else {
        panic!("not adopted")
    };
    assert_eq!(
        (row.sealed.as_slice(), &row.standing),
        (&b"winner"[..], &Standing::Live)
    );
}

#[test]
fn an_answer_that_outlived_its_grant_is_revoked() {
    let mut world = World::new([Outcome::Granted("v2")]);
    world.meanwhile = Some(|row, now| row.authorize(fresh("reauthorized"), now));
    let Ending::Adopted { row, .. } = world.fly(Need::Stale, ReplayPolicy::Refused) else {
        panic!("not adopted")
    };
    assert_eq!(
        (row.sealed.as_slice(), world.revoked.as_slice()),
        (&b"reauthorized"[..], &["v2"][..])
    );

    let mut world = World::new([Outcome::Granted("v2")]);
    world.meanwhile = Some(|row, _| row.id = "deleted".into());
    assert_eq!(
        world.fly(Need::Stale, ReplayPolicy::Refused),
        Ending::Missing
    );
    assert_eq!(world.revoked, ["v2"]);
}

#[test]
fn an_owner_that_was_paused_gives_the_claim_back_and_tries_again() {
    let mut world = World::new([Outcome::Granted("v2")]);
    world.late = true;
    let Ending::Refreshed { row, .. } = world.fly(Need::Stale, ReplayPolicy::Revokes) else {
        panic!("not refreshed")
    };
    assert_eq!((row.version, world.sent.as_slice()), (2, &[1][..]));
}
