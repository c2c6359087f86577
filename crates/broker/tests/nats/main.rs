//! The engine on NATS JetStream, with real servers, processes that are killed, and an operator who asks the server himself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail")]

mod harness;

mod cluster;
mod conformance;
mod credentials;
mod delivery;
mod forgotten;
mod halves;
mod letters;
mod order;
mod outage;
mod proof;
mod refusals;
mod replay;
mod requests;
