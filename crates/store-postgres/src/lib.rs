//! The shared vault: any number of replicas on one PostgreSQL.
//!
//! # One row, one function, one comparison
//!
//! What a verb of the protocol does to a grant's row is decided by the pure functions of
//! [`GrantRow`](tokenward::refresh::ledger::GrantRow), here as in every other store. A verb reads
//! the row together with the database's time, runs the function, and writes the row back *if
//! nobody has written it since*: each write adds one to the row's `revision`, and compares it.
//! Whoever comes second reads again. A verb is therefore
//!
//! * **the pure function itself**, and not a second wording of it in SQL that would have to be
//!   kept equal;
//! * **one statement that writes**, on its own (autocommit): a future that is dropped, a process
//!   that dies, a connection that breaks leaves no transaction open and no row locked. A commit of
//!   a refresh needs no clock, and the row is the one that the claim left behind, so that it is one
//!   statement altogether; a claim is two;
//! * **a `SELECT` by key and an `UPDATE` by key and number**: what every PostgreSQL-compatible
//!   engine can do, at any isolation level. Where an engine answers "try again" (`40001`), that
//!   is a lost comparison like any other.
//!
//! The time is the one at which the row was read. It is later than every time in the row (the
//! statement takes its snapshot before it looks at the clock), and the comparison makes the row
//! the same one when it is written; so the outcome is what the function gives for a state and a
//! time that were true together. Time that passes until the write makes a claim shorter, never
//! longer. Contention is between the replicas that want the same grant refreshed at the same
//! moment: whenever one of them loses a comparison, another one has won, and the loser finds the
//! claim held.
//!
//! What people do (authorizing, linking, deleting) touches several rows and is a transaction, in a
//! task of its own with time limits. No refresh waits for it.
//!
//! # Changes
//!
//! The statement that changes something that replicas keep copies of also adds a row to the table
//! `changes`, which is polled. `NOTIFY`, as a statement of its own after the commit, makes others
//! poll at once; it is a hint and may be lost, switched off, or missing from an engine.

mod attempts;
mod changes;
mod columns;
mod connections;
mod consumers;
mod error;
mod fault;
mod grants;
mod hints;
mod line;
mod migrate;
mod moving;
mod open;
mod options;
mod pool;
mod rows;
mod sql;
mod store;
mod tenants;
mod tls;
mod transaction;
mod unread;

/// The statements whose cost must not grow with the vault: name, SQL, and the parameters' types.
/// For the tests that look at their plans.
#[doc(hidden)]
pub fn hot_statements() -> Vec<(&'static str, String, &'static str)> {
    let ledger = "text, int8, text, int8, text, int8, int8, text, text, int8";
    let token = "text, int8, text, int8, text, int8, int8, text, text, int8, int8, int8, bytea, \
                 int8, int8, int8, int8, int8, bytea, int8";
    vec![
        ("read a grant", grants::find_sql(), "text"),
        ("write a claim", columns::LEDGER_SQL.clone(), ledger),
        ("write a token set", columns::TOKEN_SQL.clone(), token),
        (
            "write another token set",
            columns::REPLACING_TOKEN_SQL.clone(),
            concat!(
                "text, int8, text, int8, text, int8, int8, text, text, int8, int8, int8, bytea, ",
                "int8, int8, int8, int8, int8, bytea, int8, int8, bytea"
            ),
        ),
        (
            "a replaced token",
            unread::REPLACED_BY_TOKEN.to_owned(),
            "bytea, text, text",
        ),
        (
            "read a connection",
            connections::find_sql(),
            "text, text, text, text",
        ),
        (
            "a connection of a grant",
            connections::of_grant_sql(),
            "text",
        ),
        ("read an attempt", attempts::find_sql(), "text"),
        (
            "a connection's attempts",
            attempts::at_sql(),
            "text, text, text, text",
        ),
        ("read a key", tenants::key_sql(), "bytea"),
        (
            "a grant by its token",
            grants::by_fingerprint_sql(),
            "bytea, text, text",
        ),
        ("idle grants", grants::keep_alive_sql(), "int8"),
        ("changes", changes::after_sql(true), "int8, int8, int8"),
    ]
}

pub use error::OpenError;
pub use open::PostgresStore;
pub use options::PostgresOptions;
