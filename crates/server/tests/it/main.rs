//! Whole processes: `tokenward serve` and the command line against real OAuth servers.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod apideck_sdk;
mod bodies;
mod chaos;
mod cli;
mod connections;
mod consumers;
mod crash;
mod demo;
mod docs;
mod doors;
mod egress;
mod gateway;
mod harness;
mod hostile;
mod http2;
mod lane;
mod logs;
mod migrate;
mod oidc_provider;
mod oidc_replicas;
mod ops;
mod played;
mod promises;
mod redaction;
mod replicas;
mod request_log;
mod sdks;
mod sessions;
mod signals;
mod tls;
mod torture;
mod vault_api;
mod wire;
