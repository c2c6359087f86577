//! Consul's HTTP API: see [`ConsulServer`].

mod policy;
mod routes;
mod server;

mod agent;
mod keys;
mod listing;

mod answer;
mod fields;
mod filter;
mod input;
mod query;
mod render;
mod rendered;
mod span;

mod catalog;
mod kv;
mod record;
mod timers;
mod topic;

pub use policy::ConsulPolicy;
pub use server::{ConsulServer, ConsulStats, ConsulTicker};
