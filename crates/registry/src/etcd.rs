//! A registry that etcd keeps. From the outside in: the handle, its tasks, and what they share; then the two machines, of what this
//! process registers and of what it knows of others; then the wire.

mod registry;

mod policy;
mod state;

mod engine;
mod keeper;
mod service;

mod holdings;
mod mirror;

mod calls;
mod keys;
mod rpc;

mod connector;
mod link;

pub use policy::EtcdPolicy;
pub use registry::EtcdRegistry;
pub use state::{EtcdState, EtcdStats};
