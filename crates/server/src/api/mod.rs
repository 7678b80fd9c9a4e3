//! The vault API, in Apideck's wire format.

mod connections;
mod router;
mod wire;

use crate::front::{caller::text, error::ApiError};
pub use router::{ApiState, router};
