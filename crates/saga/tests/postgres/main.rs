//! Sagas in a PostgreSQL that the tests start, kill, freeze and fill, and nodes that share it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[expect(dead_code, reason = "outages come next")]
mod harness;
mod store;
