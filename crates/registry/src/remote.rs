//! A client of Consul's HTTP API, from the outside in: the handle, what it follows, what is asked, and the connections. See
//! [`RemoteKv`].

mod kv;
mod kv_watch;

mod policy;
mod state;

mod cursor;

mod client;
mod failure;
mod pool;

mod address;

pub use kv::{KvEntry, RemoteKv};
pub use kv_watch::{KvSnapshot, KvWatch};
pub use policy::RemotePolicy;
pub use state::{RemoteState, RemoteStats};
