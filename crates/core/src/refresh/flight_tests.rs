use super::*;
use crate::refresh::ledger::{CommitRequest, FreshGrant, SettleRequest};

/// A store of one row and a scripted provider, driven without I/O.
struct World {
    row: Option<GrantRow>,
    now: StoreTime,
    script: Vec<Outcome<&'static str>>,
    sent: Vec<u64>,
    spooled: usize,
    revoked: Vec<&'static str>,
    store_down_for: u32,
    store_fails_after_send: u32,
    late: bool,
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
            revoked: Vec::new(),
            store_down_for: 0,
            store_fails_after_send: 0,
            late: false,
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
        let plan = Plan {
            seen,
            need,
            policy,
            claim_ttl: Duration::from_secs(20),
            poll: Duration::from_millis(20),
            chance: 0.5,
        };
        let mut flight = Flight::new(plan.clone());
        let mut event = Event::Begin;
        for _ in 0..100 {
            let (next, effect) = flight.step(event, Moment(Duration::ZERO));
            flight = next;
            event = match effect {
                Effect::Look => Event::Looked(self.stored(|world| world.row.clone())),
                Effect::Admit => Event::Admitted(Admission::Go),
                Effect::Claim => Event::Claimed(self.stored(|world| match &mut world.row {
                    Some(row) => row.claim(
                        &crate::refresh::ledger::ClaimRequest {
                            grant: row.id.clone(),
                            seen,
                            owner: "me".into(),
                            ttl: plan.claim_ttl,
                            need,
                            policy,
                        },
                        world.now,
                    ),
                    None => ClaimReply::Missing,
                })),
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
                Effect::Commit { row, granted } => {
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
                    self.spooled += 1;
                    Event::Spooled
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
                Effect::Revoke { granted, .. } => {
                    self.revoked.push(granted);
                    Event::Revoked
                }
                Effect::Sleep(pause) => {
                    self.now = self.now + pause;
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

#[test]
fn failures_cool_down() {
    let mut world = World::new([lost(), Outcome::Granted("v2")]);
    world.fly(Need::Stale, ReplayPolicy::Harmless);
    assert!(matches!(
        world.fly(Need::Forced, ReplayPolicy::Harmless),
        Ending::Failed { first: false, .. }
    ));
    assert_eq!(world.sent, [1]);
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
