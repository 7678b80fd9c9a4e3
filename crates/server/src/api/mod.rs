//! The vault API, in Apideck's wire format.

mod auth;
mod connections;
mod error;
mod router;
mod wire;

use auth::text;
pub(crate) use auth::text_of;
pub use auth::{Caller, Keys, new_key};
pub use error::ApiError;
pub use router::{ApiState, router};
