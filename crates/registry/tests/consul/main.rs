//! The caller's view of Consul's HTTP API.

#![allow(clippy::unwrap_used, reason = "a test")]

mod agent;
mod blocking;
mod clients;
mod keys;
mod listing;
mod requests;
#[cfg(feature = "file")]
mod restart;
mod server;
