//! The `tokenward` server and command line.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`gateway`] | `/proxy`, the hot path |
//! | [`api`] | the vault API in Apideck's wire format |
//! | [`connect`] | customers' sessions, and the links that begin a login |
//! | [`egress`] | the way out: addresses, proxies, TLS, the way to token endpoints |
//! | [`observe`] | metrics and logs |
//! | [`front`] | the router, who calls, request ids, error answers; HTTP/1.1 without a library |
//! | [`listen`] | the accept loop, workers, timers, TLS |
//! | [`config`] | a vault from command-line options; where its rows lie |
//! | [`page`] | the customers' page: rendering only |
//! | [`cli`] | the commands |
//! | [`demo`] | the race, before and after |

#[macro_use]
mod print;

pub mod api;
pub mod cli;
pub mod config;
pub mod connect;
pub mod demo;
pub mod egress;
pub mod front;
pub mod gateway;
pub mod import;
pub mod listen;
pub mod observe;
pub mod page;

#[doc(hidden)]
pub use gateway::fuzz;
use tokenward::time::StoreTime;

/// The calendar, for what is shown to people and for remaining times in errors. No decision
/// about tokens hangs on it.
#[expect(clippy::disallowed_methods, reason = "shown to people only")]
pub(crate) fn wall_clock() -> StoreTime {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    StoreTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
