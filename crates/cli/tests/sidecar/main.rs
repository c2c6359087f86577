//! `gusset sidecar` as a process, beside programs that know nothing of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for a real process")]

mod harness;

mod admin;
mod command;
#[cfg(feature = "etcd")]
mod etcd;
mod grpc;
mod languages;
mod life;
mod mesh;
mod operate;
mod reload;
mod through;
mod w3c;
