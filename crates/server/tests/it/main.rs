//! Whole processes: `tokenward serve` and the command line against real OAuth servers.

mod chaos;
mod cli;
mod crash;
mod demo;
mod gateway;
mod harness;
mod oidc_provider;
mod redaction;
mod vault_api;
