//! Those who ask for tokens, and those who change connections.

use std::{sync::Arc, time::Duration};

use tokenward::{GrantId, Held, Secret, Token, TokenError, store::ConnectionPatch, vault::Import};
use tokenward_testkit::sandbox::ledger::AccessId;

use super::{
    books::{read_token, token_text},
    judge::IMPORT_SLACK,
    replica::Process,
    scenario::{HOUR, KINDS, SECOND, SLOWEST_STORE},
    world::{World, kind_of},
};

/// For so long after a question in vain a replica may hold the store for away: a second, or until the next
/// poll of the feed.
const STORE_AWAY: Duration = Duration::from_millis(1_200);

/// When the memory store's clock begins.
const STORE_EPOCH: i64 = 1_767_225_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Token,
    Validate,
    Rejected,
}

/// What the asker may expect, as it was when it asked.
struct Asked {
    at: Duration,
    call: u64,
    grant: Option<GrantId>,
    /// No older version will do.
    floor: u64,
    /// Nor one that is older than this while the store does not answer.
    floor_alone: u64,
    /// The newest in the store.
    newest: u64,
    known: u64,
}

impl World {
    fn asks(&self, process: &Process, connection: usize, question: Question) -> Asked {
        let now = self.now();
        let wait = self.scenario.config.wait;
        let mut books = self.books();
        let grant = books.connections[connection]
            .states
            .last()
            .and_then(|(_, grant)| grant.clone());
        if books.all.is_some() {
            let life = process.number;
            let number = grant.as_ref().and_then(|grant| books.number(grant));
            books.note(
                now,
                number,
                format_args!("c{connection} {question:?} asked of life {life}"),
            );
        }
        let mut asked = Asked {
            at: now,
            call: self.rng.next(),
            floor: 0,
            floor_alone: 0,
            newest: 0,
            known: books.lives[process.number].known,
            grant: None,
        };
        if let Some(grant) = grant {
            (asked.floor, asked.floor_alone) = books.floor(process.number, &grant);
            let book = &books.grants[&grant];
            asked.newest = book.versions.last().map_or(0, |(_, version)| *version);
            let family = book.family;
            if question != Question::Token {
                let hour = now.as_secs() / HOUR.as_secs();
                let book = &mut books.families[family];
                if book.forced.0 != hour {
                    book.forced = (hour, 0);
                }
                book.forced.1 += 1;
            }
            asked.grant = Some(grant);
        }
        // Beside its wait, a call may read the store a few times.
        // Whoever reports a rejection has asked for a token first.
        let waits = if question == Question::Rejected { 2 } else { 1 };
        let due = now + waits * wait + 8 * SLOWEST_STORE;
        books.lives[process.number].waiting.insert(asked.call, due);
        asked
    }

    /// The API has refused a token: from now on nothing is left of it to lose.
    fn rejected(&self, token: &Token) {
        let (family, _) = read_token(token.secret().expose()).expect("a token of ours");
        self.books().families[family].rejected = Some(self.now());
    }

    fn answered_call(
        &self,
        process: &Process,
        connection: usize,
        question: Question,
        asked: &Asked,
        answer: Result<Option<Held>, TokenError>,
    ) {
        if process.life.is_dead() {
            return;
        }
        let now = self.now();
        let mut books = self.books();
        books.lives[process.number].waiting.remove(&asked.call);
        let number = asked.grant.as_ref().and_then(|grant| books.number(grant));
        let token = match answer {
            Ok(Some(token)) => token,
            Ok(None) => return books.counts.call("rejection stands"),
            Err(error) => {
                let (name, allowed) = cause(&error);
                books.counts.call(name);
                books.note(
                    now,
                    number,
                    format_args!("c{connection} {question:?} gets {name}"),
                );
                // A connection may have been taken away by its owner.
                let there = asked.grant.is_some()
                    && books.connections[connection].states.last().is_some_and(
                        |(position, grant)| *position <= asked.known && *grant == asked.grant,
                    );
                let living = asked
                    .grant
                    .as_ref()
                    .and_then(|grant| books.grants.get(grant))
                    .is_some_and(|book| !book.dead && !books.families[book.family].ended);
                if !allowed || (self.scenario.calm && there && living) {
                    books.violated(
                        now,
                        "I5",
                        number,
                        format_args!("c{connection} {question:?} gets {error:?}"),
                    );
                }
                return;
            }
        };
        let secret = token.secret();
        let text = secret.expose();
        let (family, access) = read_token(text).expect("a token of ours");
        let version = token.version();
        books.counts.call("a token");
        if question != Question::Token || version != asked.newest {
            books.note(
                now,
                number,
                format_args!("c{connection} {question:?} gets {text}, version {version}"),
            );
        }
        let mut found = Vec::new();
        // Durable in the store, or in the spool of a process that the store does not answer.
        let name = token_text("at", family, access);
        let known = books.committed.get(&name).or(books.spooled.get(&name));
        match known.cloned() {
            None => found.push(("commit before use", format!("{text} was never committed"))),
            Some((grant, committed)) => {
                if committed != version {
                    found.push((
                        "I3",
                        format!("{text} was committed as {committed}, not as {version}"),
                    ));
                }
                if asked.grant.as_ref() == Some(&grant) {
                    let forced = question == Question::Validate;
                    // A flight of the same process was under way: until its commit was confirmed, or until it
                    // heard that another had taken over.
                    let joined = version > asked.floor
                        && books.families[family].sends.iter().any(|send| {
                            let waited =
                                send.at <= asked.at && send.heard.is_none_or(|at| at >= asked.at);
                            send.by == process.number && (send.granted == Some(access) || waited)
                        });
                    let forced = forced && version <= asked.newest && !joined;
                    let alone = books.lives[process.number]
                        .in_vain
                        .is_some_and(|at| at + STORE_AWAY >= asked.at);
                    let floor = if alone {
                        asked.floor_alone
                    } else {
                        asked.floor
                    };
                    if version < floor || forced {
                        found.push((
                            "I3",
                            format!(
                                "c{connection} {question:?} at {} gets version {version}; known were {} and {} (to all)",
                                super::books::stamp(asked.at), asked.floor, asked.newest
                            ),
                        ));
                    }
                }
                // The grant must be one that the connection has had since what is known.
                let states = &books.connections[connection].states;
                let old = states
                    .iter()
                    .rposition(|(position, _)| *position <= asked.known)
                    .unwrap_or(0);
                if !states[old..]
                    .iter()
                    .any(|(_, state)| state.as_ref() == Some(&grant))
                {
                    found.push((
                        "I3",
                        format!("c{connection} gets a token of a grant that it has not"),
                    ));
                }
            }
        }
        let expiry = books.families[family]
            .family
            .access_expiry(AccessId(access))
            .unwrap_or_default();
        let grace = 2 * SECOND + 4 * SLOWEST_STORE;
        if now > expiry + grace && question != Question::Rejected {
            found.push((
                "I5",
                format!(
                    "c{connection} {question:?} gets {text}, which ended at {}",
                    super::books::stamp(expiry)
                ),
            ));
        }
        for (property, what) in found {
            books.violated(now, property, number, format_args!("{what}"));
        }
    }
}

/// The name of an error, and whether a caller may ever get it here.
fn cause(error: &TokenError) -> (&'static str, bool) {
    match error {
        TokenError::UnknownConnection(_) => ("no connection", true),
        TokenError::NotAuthorized(_) => ("not authorized", true),
        TokenError::Disabled(_) => ("disabled", true),
        TokenError::Dead { .. } => ("dead", true),
        TokenError::AnswerLost { .. } => ("answer lost", true),
        TokenError::Failed { .. } => ("failed", true),
        TokenError::Paused { .. } => ("paused", true),
        TokenError::DeadlineExceeded { .. } => ("deadline exceeded", true),
        TokenError::Store(_) => ("store", true),
        _ => ("an error that nothing explains", false),
    }
}

/// One caller, from its question to its answer; some leave early.
pub(super) async fn call(
    world: Arc<World>,
    process: Process,
    connection: usize,
    question: Question,
    patience: Option<Duration>,
) {
    process.life.goes_on().await;
    let asked = world.asks(&process, connection, question);
    let answer = async {
        let key = &world.keys[connection];
        let vault = &process.vault;
        match question {
            Question::Token => vault.token(key).await.map(Some),
            Question::Validate => vault.validate(key).await.map(Some),
            Question::Rejected => {
                let resolved = vault.resolve(key).await?;
                let token = vault.token(key).await?;
                world.rejected(&token);
                vault.rejected(&resolved, &token, vault.config().wait).await
            }
        }
    };
    let leaves = async {
        match patience {
            Some(patience) => world.time.sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => world.answered_call(&process, connection, question, &asked, answer),
        () = leaves => {
            let mut books = world.books();
            books.lives[process.number].waiting.remove(&asked.call);
            books.counts.call("left early");
        }
    }
}

/// What owners do to their connections.
pub(super) async fn administer(
    world: &Arc<World>,
    process: &Process,
    connection: usize,
    revive: bool,
) {
    let key = &world.keys[connection];
    world.books().counts.admin += 1;
    let act = if revive { 0 } else { world.rng.index(10) };
    match act {
        0..=3 => {
            authorize(world, process, connection).await;
        }
        4 | 5 => {
            let _ = process.vault.delete(key).await;
            let pause = world.rng.between(Duration::ZERO, 5 * SECOND);
            world.time.sleep(pause).await;
            authorize(world, process, connection).await;
        }
        6 => {
            let same_kind = KINDS.len() * world.rng.index(world.keys.len() / KINDS.len());
            let other = (connection % KINDS.len() + same_kind) % world.keys.len();
            if kind_of(other) == kind_of(connection) && other != connection {
                let patch = ConnectionPatch::default();
                let _ = process.vault.link(key, &world.keys[other], patch).await;
            }
        }
        7 | 8 => {
            for enabled in [false, true] {
                let patch = ConnectionPatch {
                    enabled: Some(enabled),
                    ..ConnectionPatch::default()
                };
                let _ = process.vault.update(key, patch).await;
                let pause = world.rng.between(Duration::ZERO, 20 * SECOND);
                world.time.sleep(pause).await;
            }
        }
        _ => {
            // The user ends it at the provider.
            let mut books = world.books();
            let grant = books.connections[connection]
                .states
                .last()
                .and_then(|(_, grant)| grant.clone());
            if let Some(grant) = grant {
                let (family, number) = (books.grants[&grant].family, books.number(&grant));
                books.families[family].ended = true;
                books.families[family].family.revoke();
                books.note(
                    world.now(),
                    number,
                    format_args!("the user ends family {family}"),
                );
            }
        }
    }
}

/// A user authorizes a connection (again).
pub(super) async fn authorize(world: &Arc<World>, process: &Process, connection: usize) {
    let kind = kind_of(connection);
    let terms = KINDS[kind].terms(&world.rng);
    let now = world.now();
    let family = world.books().mint(kind, connection, terms, now);
    let import = Import {
        access_token: Some(Secret::new(token_text("at", family, 0))),
        refresh_token: Some(Secret::new(token_text("rt", family, 0))),
        issued_at_ms: i64::try_from(now.as_millis())
            .ok()
            .map(|now| STORE_EPOCH + now),
        // It has been on its way.
        expires_in: Some(terms.access_ttl.saturating_sub(IMPORT_SLACK)),
        ..Import::default()
    };
    let _ = process.vault.import(&world.keys[connection], import).await;
}
