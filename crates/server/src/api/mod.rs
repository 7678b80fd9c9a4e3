//! The vault API, in Apideck's wire format.

mod connections;
mod router;
mod wire;

use crate::front::error::ApiError;
pub use router::{ApiState, router};
