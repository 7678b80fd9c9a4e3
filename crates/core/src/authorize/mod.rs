//! How a connection comes to be: the authorization attempt, without I/O.
//!
//! An attempt is one row. It is begun (by the API, a page, a command), a browser arrives and is bound
//! to it, comes back from the provider with a code, and exactly one process exchanges that code.
//! What the provider granted is saved together with the attempt's end, or held back until it is
//! confirmed. Each step is a function of (row, event, store time) that gives the row to write; a store
//! writes it if the row is still the one that was read.
//!
//! What is secret is not in the row: the ticket, the state, the browser's cookie and the confirm token are
//! there as digests, everything else is sealed. The public id finds the row, and is the first part of
//! each of them.

mod attempt;
mod identity;
mod secrets;
mod step;

pub use attempt::{
    AttemptRow, CONFIRM_WITHIN, Digest, Failure, Initiator, Intent, OPEN_FOR, Outcome, Phase,
    RECEIPT_KEPT, Status, Visit,
};
pub use identity::{Account, Consent, IdTokenCheck, Identity, Sameness, Sources, read_id_token};
pub use secrets::{Held, NamedSecret, Secrets};
pub use step::{Answered, CameBack, ConfirmRefused, Due, Refused, Turn};
