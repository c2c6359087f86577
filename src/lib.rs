//! Braces the members of a microservice system where they meet: the whole family of gusset crates under one name.
//!
//! Each crate stands alone; this one re-exports those whose feature is on, and adds what it takes to run a service:
//! [`health`] and [`shutdown`].
//!
//! | feature, module | what it does |
//! |---|---|
//! | [`breaker`] | stops calling what keeps failing, tries again later |
//! | [`ratelimit`] | token buckets, per key, in bounded memory |
//! | [`registry`] | who is alive where; balances calls over them |
//! | [`broker`] | topics, groups, redelivery, dead letters |
//! | [`saga`] | all steps of a process happen, or all are undone |
//! | [`sidecar`] | retries, deadlines, traces, metrics as layers |
//! | [`gateway`] | an HTTP front door made of the above |
//! | [`console`] | one page in the browser over all of the above |
//! | [`outbox`] (with `broker` and `saga`) | what sagas emit, published by the broker |
//! | [`observe`] (with `sidecar`) | numbers of circuits, limiters, sagas and brokers, and spans of brokers and sagas, as a sidecar shows them |
//! | [`standard`] | a server, and the client of a service by its name: all layers in order |
//! | [`config`] | settings out of files, environment and keys, followed while a program runs |
//! | [`problem`] | refusals and failures of handlers as problems of RFC 9457 |
//! | [`testing`] | services that do as they are told, for tests of what calls them |
//! | [`health`] | `/livez`, `/readyz`, `/health` |
//! | [`shutdown`] | ends a process without losing a request |
//! | `telemetry`, `otlp`, `otlp-grpc`, `otlp-tls` | of [`sidecar`]: logs with trace ids; spans, metrics and logs over OTLP |
//! | `etcd`, `etcd-tls` | of [`registry`]: the registry that etcd keeps, and that over TLS |
//! | `checks`, `file`, `consul` | of [`registry`]: active checks, a snapshot file over restarts, Consul's HTTP API |
//! | `remote`, `remote-tls` | of [`registry`]: the client of that API, and that over HTTPS |
//! | `tower` | of [`registry`]: to and from tower's `Discover`, for its own balancer and tonic's |
//! | `redis` | of [`ratelimit`]: limits that processes share |
//! | `sqlite` | of [`saga`]: journals in a file, which survive the process |
//! | `postgres` | of [`saga`]: journals in a PostgreSQL database, which nodes share |
//! | `reqwest` | of [`call`]: a reqwest client as an HTTP service |
//! | `tonic` | of [`call`]: a tonic channel that layers with bodies of their own fit around |
//! | `full` | all of the modules but the console, with none of the features of theirs |
//!
//! What all layers share, the refusals and the context of a call, is in [`call`], always there.

pub use gusset_call as call;

#[cfg(feature = "breaker")]
pub use gusset_breaker as breaker;
#[cfg(feature = "broker")]
pub use gusset_broker as broker;
#[cfg(feature = "console")]
pub use gusset_console as console;
#[cfg(feature = "gateway")]
pub use gusset_gateway as gateway;
#[cfg(feature = "ratelimit")]
pub use gusset_ratelimit as ratelimit;
#[cfg(feature = "registry")]
pub use gusset_registry as registry;
#[cfg(feature = "saga")]
pub use gusset_saga as saga;
#[cfg(feature = "sidecar")]
pub use gusset_sidecar as sidecar;

#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "sidecar")]
pub mod observe;
#[cfg(all(feature = "broker", feature = "saga"))]
pub mod outbox;
#[cfg(feature = "problem")]
pub mod problem;
#[cfg(feature = "shutdown")]
pub mod shutdown;
#[cfg(feature = "standard")]
pub mod standard;
#[cfg(feature = "testing")]
pub mod testing;

/// The program in the README compiles.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;
