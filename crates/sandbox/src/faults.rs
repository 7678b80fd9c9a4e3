//! What can go wrong at the token endpoint, on command.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{books::GrantId, millis};

/// A misbehaviour of the token endpoint. "Rotation" is the effect of the request: whatever
/// tokens it replaces and issues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Takes this much longer, half of it before the rotation.
    #[serde(rename = "latency_ms")]
    Latency(#[serde(with = "millis")] Duration),
    /// Waits until released, then rotates and answers. If the client goes away before, nothing
    /// is rotated.
    HangBeforeRotation,
    /// Rotates, then answers only when released.
    HangAfterRotation,
    /// Closes the connection without an answer; nothing is rotated.
    DropBeforeRotation,
    /// Rotates, then closes the connection without an answer.
    DropAfterRotation,
    /// 429; nothing is rotated.
    TooManyRequests {
        /// Sent as `Retry-After` in whole seconds, rounded up.
        #[serde(
            default,
            rename = "retry_after_ms",
            with = "millis::option",
            skip_serializing_if = "Option::is_none"
        )]
        retry_after: Option<Duration>,
    },
    /// A failure of the server, such as 500 or 503.
    ServerError {
        /// The status.
        status: u16,
        /// Whether the rotation happened all the same.
        rotate: bool,
    },
    /// 200 with a body that is not JSON.
    MalformedBody {
        /// Whether the rotation happened all the same.
        rotate: bool,
    },
    /// 200 with a JSON body that has this `error`; nothing is rotated.
    OkWithError {
        /// The error's code.
        error: String,
    },
    /// A good answer without `expires_in`.
    MissingExpiresIn,
    /// A good answer without `refresh_token`; as RFC 6749 has it, the presented one stays good.
    OmitRefreshToken,
    /// `invalid_grant`, although the token is good; nothing is rotated.
    InvalidGrant,
}

/// A fault and the requests that it is for. The body of `POST /sandbox/faults`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultOrder {
    /// The fault.
    pub fault: Fault,
    /// How many requests it is for; `None` is all of them until the faults are cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// Only requests for this grant.
    #[serde(default)]
    pub grant: Option<GrantId>,
}

/// The orders that are not used up. Those for a number of requests go first, oldest first.
#[derive(Debug, Default)]
pub(super) struct FaultQueue {
    orders: Vec<FaultOrder>,
}

impl FaultQueue {
    pub(super) fn push(&mut self, order: FaultOrder) {
        self.orders.push(order);
    }

    /// Replaces the standing order that is for every request.
    pub(super) fn set_standing(&mut self, fault: Option<Fault>) {
        self.orders
            .retain(|order| order.times.is_some() || order.grant.is_some());
        self.orders.extend(fault.map(|fault| FaultOrder {
            fault,
            times: None,
            grant: None,
        }));
    }

    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    /// The fault for the next request, which is for this grant if that could be told.
    pub(super) fn take(&mut self, grant: Option<GrantId>) -> Option<Fault> {
        let fits = |order: &FaultOrder| order.grant.is_none() || order.grant == grant;
        self.orders.retain(|order| order.times != Some(0));
        let counted = self
            .orders
            .iter_mut()
            .find(|order| order.times.is_some() && fits(order));
        if let Some(order) = counted {
            order.times = order.times.map(|left| left - 1);
            return Some(order.fault.clone());
        }
        let standing = self
            .orders
            .iter()
            .find(|order| fits(order) && order.times.is_none());
        standing.map(|order| order.fault.clone())
    }
}
