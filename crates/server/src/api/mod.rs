//! The vault API, in Apideck's wire format.

mod body;
mod connections;
mod connectors;
mod consumers;
mod cors;
mod icons;
mod listing;
mod router;
mod sessions;
mod wire;

use crate::front::error::ApiError;
pub use router::{ApiState, router};
