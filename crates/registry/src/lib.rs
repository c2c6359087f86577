//! Knows which instances of a service are alive, and spreads calls over them.
//!
//! ```
//! use gusset_registry::{Balance, Instance, MemoryRegistry, Registration, Registry};
//! use tower::{ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let registry = MemoryRegistry::default();
//! let _sweeper = registry.spawn_sweeper();
//! let one = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.7", 80));
//! let two = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.8", 80));
//! one.registered().await.unwrap();
//! two.registered().await.unwrap();
//!
//! // A real maker returns a client for the instance: `ToInstance` (feature `http`), or a channel of tonic.
//! let cart = Balance::new(registry.watch("cart"), |instance: &Instance| {
//!     let host = instance.host.clone();
//!     service_fn(move |_: ()| std::future::ready(Ok::<_, std::io::Error>(host.clone())))
//! });
//! let first = cart.clone().oneshot(()).await.unwrap();
//! let second = cart.clone().oneshot(()).await.unwrap();
//! assert_ne!(first, second);
//! # });
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Instance`], [`Health`] | one running copy of a service, and whether it can take calls |
//! | [`Registry`] | who is alive where; an engine behind `Arc<dyn Registry>` |
//! | [`MemoryRegistry`], [`Policy`], [`Lease`] | the engine within this process |
//! | `EtcdRegistry`, `EtcdPolicy` (feature `etcd`) | the engine that etcd keeps |
//! | `Check`, `Checker` (feature `checks`) | finds out by asking whether an instance works |
//! | [`Registration`] | keeps an instance registered, whatever happens to the registry |
//! | [`InstanceKey`] | what one instance is found by |
//! | [`Selector`], [`Selection`] | those with a tag, version, zone, or entry of metadata |
//! | [`Watch`], [`Snapshot`] | the instances of one service, followed without asking again |
//! | [`Balance`] | a service that sends each call to a healthy instance |
//! | [`MakeEndpoint`] | how an instance is reached, and whether calls should go there now |
//! | [`Chooser`] | the same by hand, without connections: which instance a call should go to |
//! | `ToInstance` (feature `http`) | points a client of hyper-util or reqwest at an instance |
//! | [`Connector`] | keeps the endpoints of a [`Balance`] connected in the background |
//! | [`RoundRobin`], [`LeastLoaded`], … [`Pick`] | which instance is next; [see below](#choosing-an-instance) |
//! | `Discovered` (feature `tower`) | the same instances for tower's own `Balance` and tonic's `balance_channel` |
//! | `Follower` (feature `tower`) | the other way round: a [`Balance`] over what a tower `Discover` brings |
//! | [`Fleet`], [`Ejection`] | which instances take part: zones, subsets, newcomers, those that fail |
//! | [`Protocol`], [`Opaque`], `Http` (feature `http`) | what the balancer understands of requests and responses |
//! | [`Publisher`] | for engines: the other end of a [`Watch`] |
//! | `RemoteRegistry`, `RemotePolicy` (feature `remote`) | the engine that is asked over Consul's HTTP API |
//! | `RemoteKv`, `KvWatch` (feature `remote`) | reads, writes and follows the keys of a `ConsulServer` or of Consul |
//! | `ConsulServer`, `ConsulPolicy` (feature `consul`) | serves Consul's HTTP API, for programs in any language; an engine for its own process |
//! | [`NoInstance`] | the refusal |
//!
//! # Health
//!
//! | from | event | to |
//! |---|---|---|
//! | - | registered with no word on its health | Unknown |
//! | - | registered by a [`Registration`] | Healthy |
//! | Unknown | heartbeat | Healthy |
//! | Unhealthy | heartbeat, or as many as [`Policy::rise`] asks of one that flaps | Healthy |
//! | Unknown, Healthy, Draining | silent for [`Policy::ttl`], seen within a [`Policy::sweep_every`] | Unhealthy |
//! | Healthy | the same, with [most of its service](Policy::protect) | Healthy, suspect |
//! | suspect | heartbeat | Healthy |
//! | suspect | the protection is over | Unhealthy |
//! | Unknown, Healthy | [`Registry::drain`] | Draining |
//! | Unhealthy, had been drained | heartbeat | Draining |
//! | any | [reported](MemoryRegistry::report) not to work | Unhealthy, through heartbeats too |
//! | any | reported to work | Healthy, or Draining |
//! | Unhealthy, silent | [`Policy::evict_after`] more | forgotten |
//! | any | registered again | as registered |
//! | any | [`Registry::deregister`] | forgotten |
//!
//! Of two runs of one instance the younger counts: what an older one says late is refused ([`Error::Superseded`]).
//! Only healthy instances are picked. Time in which the registry's own process stood still is not counted as silence.
//!
//! # Choosing an instance
//!
//! | picker | promise | needs |
//! |---|---|---|
//! | [`RoundRobin`] | each of k gets ⌊N/k⌋ or ⌈N/k⌉ of N calls, over all handles and threads | one counter that all write |
//! | [`LocalRoundRobin`] | the same for each handle by itself; approximate together | nothing shared |
//! | [`WeightedRoundRobin`] | smooth: after any number of turns each has the floor or ceiling of its share | the counter, and a table |
//! | [`LeastLoaded::new`] | the one with fewer calls under way, of two by chance | calls under way |
//! | [`LeastLoaded::peak_ewma`] | the same, times how long calls take there | and two looks at the clock |
//! | [`Consistent`] | the same instance for the same key, nobody above 1.25 times its part | calls under way, and a table |
//! | [`Random`] | by chance, in proportion to weights | nothing |
//!
//! None looks at all instances: the choice costs the same for 3 and for 1,000. A closure is a picker as well.
//!
//! Whom they choose from is the business of a [`Fleet`] (health, tags, zone with spill-over, subsets for large fleets, slow start, panic) and of an
//! [`Ejection`] (endpoints whose calls fail). Both are off by default, but for health. They are applied when something changes, not in each call.
//!
//! Of those a call prefers the ones that are [eligible](MakeEndpoint::is_eligible), connected, and not in its
//! [`Tried`](gusset_call::Tried) list; then the ones in other zones; then those it has tried; then any. The choice is noted in that list, so
//! a retry that stands outside goes elsewhere. With no instance the call waits, by default for up to 1 s, and is then refused;
//! it never hangs.
//!
//! # Guarantees
//!
//! - A registration outlives every outage of its registry: it is made again as soon as the registry answers.
//! - What [`Registry::deregister`] or [`Registry::drain`] of a [`MemoryRegistry`] has taken out by the time it returns is
//!   picked by no later call. Who comes, or is well again, is in the snapshot at once or, where many do, within 10 ms.
//! - [`MemoryRegistry`] stores nothing: what it knows ends with the process, except for a snapshot file (feature `file`). That is no more than a
//!   memory of who was there, at most as old as its interval.
//! - `EtcdRegistry` stores what etcd stores. Who fell silent is gone, not unhealthy; while etcd is away the last known set is served, and marked
//!   as [suspect](Instance::suspect) after a third of a TTL. Its documentation has all differences.
//! - `RemoteRegistry` knows what its server knows, which is nothing after a restart of one that keeps it in memory. Then who was healthy is served
//!   for one more TTL as suspect, and every `Registration` registers again within a heartbeat and its pause.
//!
//! # Differences from
//!
//! - **tower's `Balance`**: it is `Clone`; with no endpoint it refuses instead of pending for ever; an error of readiness costs
//!   one call and not the endpoint, which is made anew with backoff; the choice and the call are one step, so a change between
//!   them cannot send the call elsewhere; no endpoint has to be driven by the traffic of others. It chooses in other ways than by two choices.
//! - **Envoy**: panic never includes draining instances; slow start and zones work with every picker; rotation begins at random and
//!   goes on over updates that change nobody; ejection never takes the last one. Zones need no knowledge of the callers' own cluster.
//! - **gRPC**: subsets are those of its proposal A68; weights are exact instead of reported by the backends.
//! - **Eureka, Nacos**: a pause of the registry's process expires nobody. When most of a service falls silent its instances are kept,
//!   each service for itself, and that ends: when they are back, when they are deregistered, or after 10 minutes; who was silent then is no longer expected.
//! - **Consul**: an instance that flaps needs more than one heartbeat to be healthy again.
//!
//! # What it does not do
//!
//! It makes no connections before the first call that needs them, unless a [`Connector`] is spawned.
//!
//! # Features
//!
//! - `checks`: `Check` and `Checker`, active checks of the instances of a [`MemoryRegistry`] by TCP, HTTP and gRPC (without TLS). Adds hyper's client.
//! - `etcd`: `EtcdRegistry`, with user and password. It adds tonic's client and prost, needs Rust 1.88 and no protoc.
//! - `etcd-tls`: `EtcdTls`, the same over TLS and with client certificates. Adds rustls with ring.
//! - `file`: [`MemoryRegistry`] can keep a snapshot file, and `ConsulServer` a folder (`spawn_saver`), so that they are not empty after a restart. Adds `serde_json`.
//! - `http`: `Http`, the [`Protocol`] of HTTP and gRPC, and `ToInstance`. Adds the `http` crate, and `http-body`, `bytes` and `serde_json` by `gusset-call`.
//! - `remote`: `RemoteRegistry` and `RemoteKv`, over HTTP/1.1. Adds hyper's client, `serde_json` and `base64`.
//! - `remote-tls`: `RemoteTls`, the same over HTTPS, with client certificates. Adds rustls with ring.
//! - `tower`: `Discovered`, and `Balance::spawn_follower`. Adds tower's `discover`, which brings nothing else.
//! - `consul`: `ConsulServer`, a tower service of HTTP requests. Adds `http`, `http-body`, `http-body-util`, `bytes`, `serde_json` and
//!   `base64`, and no server: hyper or axum is the caller's.

mod instance;
mod key;
mod last_seen;
mod registry;

mod registration;

mod balance;

#[cfg(feature = "checks")]
mod checks;

mod selector;
mod snapshot;

#[cfg(feature = "file")]
mod file;
mod memory;
mod policy;

#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "remote")]
mod remote;

mod error;

#[cfg(any(feature = "etcd", feature = "remote"))]
mod last_known;
#[cfg(any(feature = "etcd", feature = "remote"))]
mod pause;
mod sync;
mod table;
#[cfg(any(feature = "consul", feature = "remote"))]
mod wire;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(all(any(test, fuzzing), any(feature = "consul", feature = "etcd", feature = "remote")))]
#[doc(hidden)]
pub mod fuzz;

pub use balance::{
    Balance, BalanceStats, Candidates, Chooser, Chosen, Connector, Consistent, Ejection, Eligible,
    Endpoint, Fleet, LeastLoaded, LocalRoundRobin, MakeEndpoint, Needs, Opaque, Pick, Protocol,
    Random, ResponseFuture, RoundRobin, SuccessRate, WeightedRoundRobin, hash_key,
};
#[cfg(feature = "tower")]
pub use balance::{Discovered, Followed, FollowedFuture, FollowedService, Follower};
#[cfg(feature = "http")]
pub use balance::{Http, ToInstance};
#[cfg(feature = "checks")]
pub use checks::{Check, CheckError, CheckGuard, Checker};
#[cfg(all(feature = "consul", feature = "checks"))]
pub use consul::ActiveChecks;
#[cfg(all(feature = "consul", feature = "file"))]
pub use consul::ConsulSaver;
#[cfg(feature = "consul")]
pub use consul::{ConsulPolicy, ConsulServer, ConsulStats, ConsulTicker};
pub use error::Error;
#[cfg(feature = "etcd-tls")]
pub use etcd::EtcdTls;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdPolicy, EtcdRegistry, EtcdState, EtcdStats};
#[cfg(feature = "file")]
pub use file::{Saver, SnapshotError};
pub use gusset_call::{NoInstance, NotARatio, Ratio, Refusal, refusal_in};
pub use instance::{Health, Instance};
pub use key::{InstanceKey, split_name};
pub use last_seen::LastSeen;
pub use memory::{Lease, MemoryRegistry, Stats, Sweeper};
pub use policy::Policy;
pub use registration::{Registration, RegistrationState};
pub use registry::Registry;
#[cfg(feature = "remote-tls")]
pub use remote::RemoteTls;
#[cfg(feature = "remote")]
pub use remote::{
    KvEntry, KvSnapshot, KvWatch, RemoteKv, RemotePolicy, RemoteRegistry, RemoteState, RemoteStats,
};
pub use selector::{Selection, Selector};
pub use snapshot::{Publisher, Snapshot, Watch};

/// The program in the README compiles.
#[cfg(all(doctest, feature = "http"))]
#[doc = include_str!("../README.md")]
struct Readme;
