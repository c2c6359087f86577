//! A registry and its keys over Consul's HTTP API, from the outside in: the handles, what they follow, what is asked, and the
//! connections. See [`RemoteRegistry`] and [`RemoteKv`].

mod engine;
mod kv;
mod registry;

mod policy;
mod state;
#[cfg(feature = "remote-tls")]
mod tls;

mod kv_watch;
mod service;

mod follow;

mod cursor;
mod mirror;

mod entry;

mod client;
mod failure;
mod poll;
mod pool;

mod address;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use kv::{KvEntry, RemoteKv};
pub use kv_watch::{KvSnapshot, KvWatch};
pub use policy::RemotePolicy;
pub use registry::RemoteRegistry;
pub use state::{RemoteState, RemoteStats};
#[cfg(feature = "remote-tls")]
pub use tls::RemoteTls;
