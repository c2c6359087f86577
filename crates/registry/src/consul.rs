//! Consul's HTTP API: see [`ConsulServer`].

mod policy;
mod request;
mod routes;
mod server;

#[cfg_attr(
    not(feature = "checks"),
    allow(dead_code, unreachable_pub, reason = "understood, and refused")
)]
mod active;
mod agent;
mod feed;
mod keys;
mod listing;
mod local;
mod metrics;
#[cfg(feature = "checks")]
mod prober;

mod answer;
mod blocking;
mod fields;
mod filter;
mod filter_parser;
mod input;
mod query;
mod render;
mod rendered;
mod span;

mod attended;
mod catalog;
mod checks;
mod fence;
mod kv;
#[cfg(feature = "file")]
mod kv_log;
#[cfg(feature = "file")]
mod kv_writer;
mod record;
#[cfg(feature = "file")]
mod restore;
#[cfg_attr(not(feature = "checks"), allow(dead_code, reason = "understood, and refused"))]
mod rounds;
#[cfg(feature = "file")]
mod saver;
mod services;
mod silence;
mod timers;
mod topic;
mod walk;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(feature = "checks")]
pub use active::ActiveChecks;
pub use policy::ConsulPolicy;
#[cfg(feature = "file")]
pub use saver::ConsulSaver;
pub use server::{ConsulServer, ConsulStats, ConsulTicker};
