//! Consul's HTTP API: see [`ConsulServer`].

mod policy;
mod request;
mod routes;
mod server;

mod agent;
mod keys;
mod listing;

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
mod kv;
mod record;
mod services;
mod timers;
mod topic;

pub use policy::ConsulPolicy;
pub use server::{ConsulServer, ConsulStats, ConsulTicker};
