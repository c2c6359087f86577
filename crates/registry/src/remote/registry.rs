use std::{fmt, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use tokio::sync::watch;

use super::{
    client::Client,
    engine::{Engine, maintain},
    kv::RemoteKv,
    policy::RemotePolicy,
    state::{RemoteState, RemoteStats},
};
use crate::{Error, Instance, InstanceKey, Registry, Snapshot, Watch};

/// A registry that is asked over Consul's HTTP API: that of a [`ConsulServer`](crate::ConsulServer) (`gusset registry`), or of an agent of
/// Consul. Clones share one state.
///
/// Each instance is a service of the agent with a TTL check, which heartbeats pass. A watch asks for the instances of its service, again and again, by
/// questions that the server leaves open until something changes.
///
/// ```no_run
/// use gusset_registry::{Instance, Registration, Registry, RemotePolicy, RemoteRegistry};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = RemoteRegistry::new("http://127.0.0.1:8500", RemotePolicy::default())?;
/// let registration = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.7", 80));
/// registration.registered().await?;
/// let watch = registry.watch("cart");
/// # Ok(()) }
/// ```
///
/// # Outages
///
/// Every call has a limit of time. Calls fail while the server is away, and a [`Registration`](crate::Registration) goes on trying; a watch asks again after
/// pauses that grow to 5 s, and begins anew with whatever server answers then. Meanwhile reads serve the last known set, marked as
/// [suspect](Instance::suspect) after a third of a TTL. A server that keeps its registry in memory comes back without it: who was healthy before and is
/// missing then is kept for a TTL, as suspect, and everybody has registered again by that time.
///
/// # How it differs from [`MemoryRegistry`](crate::MemoryRegistry)
///
/// - Only a `ConsulServer` refuses what an older run of an instance says ([`Error::Superseded`]). An agent of Consul takes no
///   notice of [incarnations](Instance::incarnation), and who registered last has the id.
/// - [`Registry::drain`] is Consul's maintenance, and [`Registry::register`] two calls: what is seen between them is at worst the health from before.
/// - An agent of Consul drains and deregisters only what was registered with it, and not what was registered with another agent.
/// - A silent instance becomes unhealthy by its check, and is forgotten after [`RemotePolicy::evict_after`]. One that never beat and never will
///   stays unknown for as long. Nobody is protected when most fall silent, and nobody who flaps is made to wait.
/// - [`Instance::checked`] is carried along, and silence counts all the same.
/// - Beside its own metadata an instance has 1 to 6 entries of ours; Consul has room for 64. Service and id have 240 bytes together.
/// - [`Instance::last_seen`] of one that is healthy is when the server last confirmed what is known of the service.
///
/// How an instance stands in Consul, for who reads it in another language: name, address, port, tags and metadata as they are, a service of
/// a namespace by its full name `namespace/name`, and `gusset-version`, `gusset-zone` and `gusset-incarnation` in its metadata. What others registered
/// there is read as well: a warning counts as healthy, with the weight of a warning.
///
/// # Cost
///
/// On two cores that it shared with a `ConsulServer` in another process: with 100,000 instances 56,000 heartbeats and 18,000 registrations a second over 16
/// connections; a change seen by a watch 0.7 ms after its call began. 2,000 clients in one process, each with a watch of the same ten
/// instances, are all told of a change within 200 ms, most of which is reading 2,000 answers
/// (to send them takes the server 34 ms); each takes 30 KB. When their server is started again, 2,000 registrations of
/// 200 clients are back after 2.6 s with a TTL of 12 s, by at most 580 requests in any 100 ms.
///
/// # Memory
///
/// Up to [`RemotePolicy::capacity`] instances of each service that is watched, or was asked for within the last 5 minutes and had instances; an answer of more than
/// 64 MiB is a failure. [`RemotePolicy::connections`] and [`RemotePolicy::watches`] bound the connections; HTTP/2, over which one would
/// do, Consul does not speak without TLS.
///
/// # Tasks
///
/// One for each service that is watched, spawned by [`Registry::watch`] and ended with its last watch, or with the last clone.
#[derive(Clone)]
pub struct RemoteRegistry(Arc<Engine>);

impl RemoteRegistry {
    /// A client of the server at `url`, which is `http://host:port` or `host:port`. Nothing is asked yet: a service must be able to start before its
    /// registry.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong with the address or the token.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(url: &str, policy: RemotePolicy) -> Result<Self, Error> {
        Ok(Self(Arc::new(Engine::new(Client::new(url, policy)?))))
    }

    /// The keys of the same server, over the same connections.
    #[must_use]
    pub fn kv(&self) -> RemoteKv {
        RemoteKv::of(self.0.client.clone(), self.0.runtime.clone())
    }

    /// Whether the server answers.
    #[must_use]
    pub fn state(&self) -> RemoteState {
        self.0.client.state().borrow().clone()
    }

    /// Follows whether the server answers.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<RemoteState> {
        self.0.client.state()
    }

    /// How often what happened.
    #[must_use]
    pub fn stats(&self) -> RemoteStats {
        RemoteStats { services: self.0.remembered(), ..self.0.client.meters.stats() }
    }

    /// For how long nothing has confirmed what is known of the service; while it is watched and the server answers no longer than
    /// [`RemotePolicy::wait`] and a little. `None` if nothing is known.
    #[must_use]
    pub fn age(&self, service: &str) -> Option<Duration> {
        self.0.age(service)
    }
}

impl Registry for RemoteRegistry {
    fn ttl(&self) -> Duration {
        self.0.client.policy.ttl
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.0.register(instance))
    }

    fn heartbeat<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.heartbeat(instance))
    }

    fn drain<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.act(instance, maintain))
    }

    fn deregister<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.deregister(instance))
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(self.0.read(service))
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.0.service_names())
    }

    fn watch(&self, service: &str) -> Watch {
        self.0.watch(service)
    }
}

impl fmt::Debug for RemoteRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRegistry")
            .field("policy", &self.0.client.policy)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
