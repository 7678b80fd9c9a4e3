//! Authorization attempts, and the authorization that ends one.

use std::sync::Arc;

use tokenward::{
    authorize::{
        Account, AttemptRow, Consent, Digest, Failure, Identity, Initiator, Intent, Outcome, Phase,
        Sameness, Visit,
    },
    id::{AttemptId, ConnectionKey},
    secret::Secret,
    store::{Authorize, Authorized, Conflict, ConsumerDeletion, Stamped, Store},
    time::StoreTime,
};
use tokio::{sync::Barrier, task::JoinSet};

use super::scene::*;

pub(super) fn attempt(id: &str, consumer: &str) -> AttemptRow {
    AttemptRow {
        id: id.into(),
        connection: key(consumer),
        begun_by: Initiator::Api,
        intent: Intent::Connect,
        redirect_uri: "https://vault.example/vault/callback".to_owned(),
        return_to: Some("https://app.example/done?a=\u{0}b".to_owned()),
        two_step: true,
        asked: vec!["a".to_owned(), "b".to_owned()],
        ticket: Digest::of(&Secret::new("ticket")),
        visit: Some(Visit {
            browser: Digest::of(&Secret::new("cookie")),
            state: Digest::of(&Secret::new("state")),
            issuer: Some("https://id.example".to_owned()),
            issuer_required: true,
        }),
        begun_at: StoreTime(0),
        expires_at: StoreTime(0),
        phase: Phase::Open,
        sealed: b"sealed".to_vec(),
        revision: 0,
    }
}

async fn begun(store: &dyn Store, id: &str, consumer: &str) -> AttemptRow {
    let begun = store.begin_attempt(attempt(id, consumer)).await;
    begun.expect("begin").expect("there is room").value
}

async fn known(store: &dyn Store, id: &str) -> Option<AttemptRow> {
    store.attempt(&id.into()).await.expect("read").value
}

fn exchanging(row: &AttemptRow, owner: &str) -> AttemptRow {
    AttemptRow {
        phase: Phase::Exchanging {
            owner: owner.into(),
            since: row.begun_at,
            until: row.begun_at + HOUR,
        },
        ..row.clone()
    }
}

fn written(row: AttemptRow) -> AttemptRow {
    AttemptRow {
        revision: row.revision + 1,
        ..row
    }
}

/// An attempt is kept as it was begun, stamped with the store's time, until it is forgotten.
pub async fn an_attempt_is_kept_as_it_is(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(known(store, "one").await, None);
    let row = begun(store, "one", "c").await;
    let Stamped { value, at } = store.attempt(&"one".into()).await.expect("read");
    assert_eq!(value.as_ref(), Some(&row));
    assert!(row.begun_at.0 > 0 && row.begun_at <= at, "{row:?} at {at}");
    assert_eq!(
        row.expires_at,
        row.begun_at + tokenward::authorize::OPEN_FOR
    );
    let as_given = AttemptRow {
        begun_at: StoreTime(0),
        expires_at: StoreTime(0),
        revision: 0,
        ..row.clone()
    };
    assert_eq!((as_given, row.revision), (attempt("one", "c"), 1));

    let other = begun(store, "two", "d").await;
    let here = store.attempts_at(&key("c")).await.expect("read").value;
    assert_eq!(here, std::slice::from_ref(&row));
    assert_eq!(known(store, "two").await, Some(other));

    let gone = |revision| store.remove_attempt(&row.id, revision);
    assert!(!gone(2).await.expect("remove"));
    assert!(gone(1).await.expect("remove"));
    assert!(!gone(1).await.expect("remove"));
    assert_eq!(known(store, "one").await, None);
}

/// Of many who have read the same row one writes it: a code is exchanged once.
pub async fn one_of_many_redeems_a_code(subject: Subject) {
    const MANY: usize = 8;
    let first = subject.store;
    let mut stores = vec![first.clone()];
    // A process with connections of its own.
    stores.extend(subject.reopen.as_ref().map(|open| open()));
    for round in 0..4 {
        let row = begun(&*first, &format!("a{round}"), "c").await;
        let start = Arc::new(Barrier::new(MANY));
        let mut tries = JoinSet::new();
        for number in 0..MANY {
            let (store, start) = (stores[number % stores.len()].clone(), start.clone());
            let ours = exchanging(&row, &format!("p{number}"));
            tries.spawn(async move {
                start.wait().await;
                let written = store.replace_attempt(ours.clone()).await;
                written.expect("replace").then_some(ours)
            });
        }
        let winners: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
        let [winner] = winners.try_into().expect("one of them");
        assert_eq!(
            known(&*first, row.id.as_str()).await,
            Some(written(winner.clone()))
        );
        // The row that was read is not the present one any more, whoever has it.
        assert!(!first.replace_attempt(winner).await.expect("replace"));
    }
}

/// One who keeps beginning pushes out what is over, then what is oldest, and nothing that was granted.
pub async fn a_connection_has_few_attempts(subject: Subject) {
    let store = &*subject.store;
    let ids = async || -> Vec<String> {
        let rows = store.attempts_at(&key("c")).await.expect("read").value;
        let mut ids: Vec<_> = rows.iter().map(|row| row.id.to_string()).collect();
        ids.sort();
        ids
    };
    begun(store, "of another", "d").await;
    let first = begun(store, "00", "c").await;
    assert!(
        store
            .replace_attempt(exchanging(&first, "p"))
            .await
            .expect("replace")
    );
    for number in 1..AttemptRow::KEPT {
        begun(store, &format!("{number:02}"), "c").await;
    }
    let over = known(store, "09").await.expect("there");
    let over = over.failed(Failure::Superseded, over.begun_at);
    assert!(store.replace_attempt(over).await.expect("replace"));
    begun(store, "next", "c").await;
    let kept = ids().await;
    assert_eq!(kept.len(), AttemptRow::KEPT);
    assert!(!kept.contains(&"09".to_owned()), "{kept:?}");
    for number in 0..40 {
        begun(store, &format!("x{number:02}"), "c").await;
    }
    let kept = ids().await;
    assert_eq!(kept.len(), AttemptRow::KEPT);
    assert!(kept.contains(&"00".to_owned()), "{kept:?}");
    assert!(known(store, "of another").await.is_some());

    // Where every one holds a login, nobody begins another.
    for id in kept.iter().filter(|id| *id != "00") {
        let row = known(store, id).await.expect("there");
        let held = row.held(
            Digest::of(&Secret::new("t")),
            b"held".to_vec(),
            row.begun_at,
        );
        assert!(store.replace_attempt(held).await.expect("replace"));
    }
    let refused = store.begin_attempt(attempt("late", "c")).await;
    assert_eq!(refused, Ok(None));
    assert_eq!(ids().await, kept);
}

/// What is due is found, the longest due first; what is not is left alone.
pub async fn attempts_fall_due(subject: Subject) {
    let store = &*subject.store;
    for id in ["open", "old", "older"] {
        begun(store, id, id).await;
    }
    for (id, age) in [("old", 100), ("older", 200)] {
        let row = known(store, id).await.expect("there");
        let at = StoreTime(row.begun_at.0 - age * 24 * 3_600_000);
        let over = AttemptRow {
            expires_at: at,
            phase: Phase::Ended {
                at,
                outcome: Outcome::Connected,
            },
            ..row
        };
        assert!(store.replace_attempt(over).await.expect("replace"));
    }
    let due = async |limit| -> Vec<String> {
        let due = store.attempts_due(limit).await.expect("read").value;
        due.iter().map(|row| row.id.to_string()).collect()
    };
    assert_eq!(due(10).await, ["older", "old"]);
    assert_eq!(due(1).await, ["older"]);
    let Stamped { value, at } = store.attempts_due(0).await.expect("read");
    assert!(value.is_empty() && at.0 > 0);
}

/// Pages meet every attempt once.
pub async fn attempts_page_by_id(subject: Subject) {
    let store = &*subject.store;
    let ids = ["A", "_b", "a", "b", "c-1"];
    for id in ids {
        begun(store, id, id).await;
    }
    let (mut met, mut after) = (Vec::new(), None::<AttemptId>);
    loop {
        let page = store.attempts_after(after.as_ref(), 2).await.expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.id.clone());
        met.extend(page.into_iter().map(|row| row.id.to_string()));
    }
    assert_eq!(met, ids);
}

fn of(subject: Option<&str>, at: i64) -> Option<Box<Consent>> {
    Some(Box::new(Consent {
        at: StoreTime(at),
        identity: Identity {
            subject: subject.map(str::to_owned),
            ..Identity::default()
        },
        asked: vec!["a".to_owned()],
        granted: vec!["a".to_owned(), "ü\u{0}".to_owned()],
    }))
}

fn login(
    consumer: &str,
    grant: &str,
    expected: u64,
    consent: Option<Box<Consent>>,
    attempt: Option<&AttemptRow>,
) -> Authorize {
    let mut request = authorization(consumer, grant, expected, fresh("granted"));
    request.fresh.consent = consent;
    request.account = Account::Same;
    request.attempt = attempt.map(|row| Box::new(row.connected(row.begun_at)));
    request
}

async fn save(store: &dyn Store, request: Authorize) -> Authorized {
    store.authorize(request).await.expect("authorize").value
}

/// The grant is saved and the attempt ended in one, or neither is.
pub async fn a_grant_is_saved_with_its_attempts_end(subject: Subject) {
    let store = &*subject.store;
    let row = begun(store, "one", "c").await;
    let elsewhere = AttemptRow {
        revision: 7,
        ..row.clone()
    };
    let stale = login("c", "g", 0, of(Some("anna"), 1), Some(&elsewhere));
    assert_eq!(
        save(store, stale).await,
        Authorized::Conflict(Conflict::Moved)
    );
    assert_eq!(store.connection(&key("c")).await, Ok(None));
    assert_eq!(known(store, "one").await, Some(row.clone()));
    let unknown = attempt("none", "c");
    let unknown = login("c", "g", 0, None, Some(&unknown));
    assert_eq!(
        save(store, unknown).await,
        Authorized::Conflict(Conflict::Moved)
    );

    let done = save(store, login("c", "g", 0, of(Some("anna"), 1), Some(&row))).await;
    let Authorized::Done(connection, grant) = done else {
        panic!("it should not conflict: {done:?}")
    };
    assert_eq!(connection.grant, Some("g".into()));
    assert_eq!(grant.consent, of(Some("anna"), 1));
    assert_eq!(read(store, "g").await, *grant);
    let ended = known(store, "one").await.expect("there");
    assert_eq!(ended, written(row.connected(row.begun_at)));

    // A refresh leaves what was agreed to as it is.
    let claimed = claimed(store, "g", 1, "p", HOUR).await;
    committed(store, "g", 1, claimed.epoch, "v2").await;
    assert_eq!(read(store, "g").await.consent, of(Some("anna"), 1));
}

/// Another account is refused by the statement itself, and so is one that is not told.
pub async fn another_account_is_refused(subject: Subject) {
    let store = &*subject.store;
    save(store, login("c", "g", 0, of(Some("anna"), 1), None)).await;
    let before = read(store, "g").await;
    for (came, sameness) in [
        (of(Some("mallory"), 2), Sameness::Other),
        (of(None, 2), Sameness::Untold),
        (None, Sameness::Untold),
    ] {
        let row = begun(store, "try", "c").await;
        let refused = save(store, login("c", "g", 1, came, Some(&row))).await;
        let Authorized::Conflict(Conflict::OtherAccount(kept, how)) = refused else {
            panic!("it should be refused: {refused:?}")
        };
        assert_eq!((kept.subject.as_deref(), how), (Some("anna"), sameness));
        assert_eq!(read(store, "g").await, before);
        assert_eq!(known(store, "try").await, Some(row.clone()));
        store.remove_attempt(&row.id, 1).await.expect("remove");
    }
    let again = save(store, login("c", "g", 1, of(Some("anna"), 2), None)).await;
    assert!(matches!(again, Authorized::Done(..)), "{again:?}");
}

/// Another account, if that is what was asked for, has a grant of its own; the one before goes with its
/// last connection.
pub async fn a_switch_replaces_the_grant(subject: Subject) {
    let store = &*subject.store;
    save(store, login("c", "g", 0, of(Some("anna"), 1), None)).await;
    store
        .link(&key("d"), &"g".into(), Default::default())
        .await
        .expect("link");
    let switch = |consumer, grant, held: Option<&str>| Authorize {
        account: Account::Any,
        held: held.map(Into::into),
        ..login(consumer, grant, 0, of(Some("bert"), 2), None)
    };
    let unseen = save(store, switch("c", "h", None)).await;
    assert_eq!(unseen, Authorized::Conflict(Conflict::Moved));
    let done = save(store, switch("c", "h", Some("g"))).await;
    assert!(matches!(done, Authorized::Done(..)), "{done:?}");
    // The other connection's account is as it was.
    assert_eq!(read(store, "g").await.consent, of(Some("anna"), 1));
    let done = save(store, switch("d", "i", Some("g"))).await;
    assert!(matches!(done, Authorized::Done(..)), "{done:?}");
    let gone = store.grant(&"g".into()).await.expect("read").value;
    assert_eq!(gone, None);
}

/// A connection's grant is taken away, and the connection stays.
pub async fn an_unlinked_connection_stays(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(store.unlink(&key("c")).await, Ok(None));
    granted(store, "c", "g").await;
    store
        .link(&key("d"), &"g".into(), Default::default())
        .await
        .expect("link");
    let first = store.unlink(&key("c")).await.expect("unlink");
    let first = first.expect("there");
    assert_eq!((&first.connection.grant, &first.grant), (&None, &None));
    let last = store.unlink(&key("d")).await.expect("unlink");
    assert_eq!(
        last.and_then(|last| last.grant).map(|row| row.id),
        Some("g".into())
    );
    let left = store.connection(&key("d")).await.expect("read");
    assert_eq!(left.map(|left| left.grant), Some(None));
    let gone = store.grant(&"g".into()).await.expect("read").value;
    assert_eq!(gone, None);
}

/// Whoever deletes a connection, or its consumer, ends the logins at it.
pub async fn attempts_go_with_their_connection(subject: Subject) {
    let store = &*subject.store;
    granted(store, "c", "g").await;
    let row = begun(store, "one", "c").await;
    begun(store, "two", "d").await;
    store.delete_connection(&key("c")).await.expect("delete");
    assert_eq!(known(store, "one").await, None);
    assert!(known(store, "two").await.is_some());
    let (application, consumer) = (APPLICATION.into(), "d".into());
    let gone = store.delete_consumer(&application, &consumer).await;
    assert_eq!(gone, Ok(ConsumerDeletion::Missing));
    assert_eq!(known(store, "two").await, None);
    let late = login("c", "h", 0, None, Some(&row));
    assert_eq!(
        save(store, late).await,
        Authorized::Conflict(Conflict::Moved)
    );
    assert_eq!(store.connection(&key("c")).await, Ok(None::<_>));
    let elsewhere = ConnectionKey::new(APPLICATION, "c", API, "ledgers");
    let there = store.attempts_at(&elsewhere).await.expect("read").value;
    assert_eq!(there, []);
}
