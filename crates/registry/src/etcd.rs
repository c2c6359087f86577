//! A registry that etcd keeps. From the outside in: the handle, its tasks, and what they share; then the two machines, of what this
//! process registers and of what it knows of others; then the wire.

mod registry;

mod policy;
mod state;
#[cfg(feature = "etcd-tls")]
mod tls;

mod engine;
mod keeper;
mod names;
mod service;
mod supervised;

mod holdings;
mod mirror;

mod calls;
mod keys;
mod rpc;

mod connector;
mod link;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use policy::EtcdPolicy;
pub use registry::EtcdRegistry;
pub use state::{EtcdState, EtcdStats};
#[cfg(feature = "etcd-tls")]
pub use tls::EtcdTls;
