//! Sagas in a PostgreSQL that the tests start, kill, freeze and fill, and nodes that share it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod harness;
mod orders;

mod inbox;
mod nodes;
mod outage;
mod outbox;
mod speed;
mod store;
mod tls;
