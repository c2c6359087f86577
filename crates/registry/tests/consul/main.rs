//! The caller's view of Consul's HTTP API.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[cfg(feature = "checks")]
mod active;
mod agent;
mod blocking;
mod clients;
#[path = "../conformance/mod.rs"]
mod conformance;
mod keys;
mod listing;
mod local;
mod nonsense;
mod requests;
#[cfg(feature = "file")]
mod restart;
mod server;
