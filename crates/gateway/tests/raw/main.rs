//! Bytes as careless programs and attackers send them, over sockets, before an instance that takes nothing but what is right to the letter.
//!
//! Two questions stand behind every case: is what reaches an instance always one request that cannot be read in two ways, and does each answer go to whom it belongs?
#![allow(clippy::unwrap_used, reason = "a test may")]

mod answers;
mod bodies;
mod client;
mod connections;
mod fields;
#[cfg(feature = "http2")]
mod frames;
mod instance;
mod lines;
mod mutated;
mod strict;
mod websocket;
