//! The engine on NATS JetStream, with real servers, processes that are killed, and an operator who asks the server himself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail")]

mod harness;

mod conformance;
mod delivery;
mod letters;
mod outage;
mod refusals;
