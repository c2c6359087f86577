use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_core::future::BoxFuture;
use http::StatusCode;
use serde_json::json;
use tokio::{runtime, sync::watch, task::JoinSet};

use super::{
    address::encoded,
    client::{Ask, Client},
    failure::Failure,
    follow::{Followed as _, Seen, follow},
    kv::RemoteKv,
    policy::RemotePolicy,
    service::{Names, Service, agent_ids},
    state::{RemoteState, RemoteStats},
};
use crate::{Error, Health, Instance, InstanceKey, Registry, Snapshot, Watch, wire};

/// A registry that is asked over Consul's HTTP API: that of a [`ConsulServer`](crate::ConsulServer) (`gusset registry`), or of an agent of
/// Consul. Clones share one state.
///
/// Each instance is a service of the agent with a TTL check, which heartbeats pass. A watch asks for the instances of its service, again and again, by
/// questions that the server leaves open until something changes.
///
/// ```no_run
/// use gusset_registry::{Instance, Registration, Registry, RemotePolicy, RemoteRegistry};
///
/// # async fn example() -> Result<(), gusset_registry::Error> {
/// let registry = RemoteRegistry::new("http://127.0.0.1:8500", RemotePolicy::default())?;
/// let registration = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.7", 80));
/// registration.registered().await;
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
/// # Memory
///
/// Up to [`RemotePolicy::capacity`] instances of each service that is watched, or was asked for within the last 5 minutes; an answer of more than
/// 64 MiB is a failure. [`RemotePolicy::connections`] and [`RemotePolicy::watches`] bound the connections; HTTP/2, over which one would
/// do, Consul does not speak without TLS.
///
/// # Tasks
///
/// One for each service that is watched, spawned by [`Registry::watch`] and ended with its last watch, or with the last clone.
#[derive(Clone)]
pub struct RemoteRegistry(Arc<Handle>);

struct Handle {
    client: Arc<Client>,
    runtime: runtime::Handle,
    services: Mutex<Services>,
    /// The last answer to the question for all names.
    names: Mutex<Option<Vec<Arc<str>>>>,
    /// Dropping them ends the tasks.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Services {
    known: HashMap<Arc<str>, Arc<Service>>,
    /// At this many those that nobody needs are left behind.
    clean_at: usize,
}

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
        Ok(Self(Arc::new(Handle {
            client: Arc::new(Client::new(url, policy)?),
            runtime: runtime::Handle::current(),
            services: Mutex::default(),
            names: Mutex::default(),
            tasks: Mutex::default(),
        })))
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
        self.0.client.meters.stats()
    }

    /// For how long nothing has confirmed what is known of the service; while it is watched and the server answers no longer than
    /// [`RemotePolicy::wait`] and a little. `None` if nothing is known.
    #[must_use]
    pub fn age(&self, service: &str) -> Option<Duration> {
        self.0.services().known.get(service)?.age()
    }
}

impl Handle {
    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Option<Vec<Arc<str>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service as this process sees it. `take` runs under the lock, so that none is forgotten that is about to be watched.
    fn service<T>(&self, name: &str, take: impl FnOnce(&Arc<Service>) -> T) -> T {
        let mut services = self.services();
        if let Some(service) = services.known.get(name) {
            return take(service);
        }
        if services.known.len() >= services.clean_at {
            services.known.retain(|_, service| !service.is_idle());
            services.clean_at = 2 * services.known.len() + 64;
        }
        let name: Arc<str> = name.into();
        let service = Arc::new(Service::new(name.clone(), self.client.policy.ttl));
        let taken = take(&service);
        services.known.insert(name, service);
        taken
    }

    async fn read(&self, name: &str) -> Result<Arc<Snapshot>, Error> {
        let (service, ask) = self.service(name, |service| (service.clone(), service.ask()));
        let answered = match self.client.call(&ask).await {
            Ok(answer) => {
                let index = answer.index.unwrap_or(0);
                let seen = Seen { breaks: self.client.breaks(), index, reset: false };
                service.take(&self.client, (&ask, answer), seen)
            }
            Err(failure) => Err(failure),
        };
        let missing = || Error::NoSuchService { service: name.into() };
        match (answered, service.last_known()) {
            (_, Some(known)) if known.instances().is_empty() => Err(missing()),
            (_, Some(known)) => Ok(known),
            (Err(failure), None) => Err(failure.into()),
            (Ok(_), None) => Err(missing()),
        }
    }

    async fn service_names(&self) -> Result<Vec<Arc<str>>, Error> {
        let ask = Ask::get("/v1/catalog/services".into());
        match self.ask_names(&ask).await {
            Ok(names) => {
                *self.names() = Some(names.clone());
                Ok(names)
            }
            Err(failure) => self.names().clone().ok_or_else(|| failure.into()),
        }
    }

    async fn ask_names(&self, ask: &Ask) -> Result<Vec<Arc<str>>, Failure> {
        let client = &self.client;
        let answer = client.success(ask, client.call(ask).await?)?;
        let names: Names =
            serde_json::from_slice(&answer.body).map_err(|error| client.garbled(ask, error))?;
        Ok(names.0.into_keys().collect())
    }

    async fn register(&self, instance: Instance) -> Result<(), Error> {
        instance.validate()?;
        let policy = &self.client.policy;
        let body = wire::registration(&instance, policy.ttl, policy.evict_after)?;
        // What is left of a maintenance has to go, unless it is meant to stay.
        let path = match instance.health {
            Health::Draining => "/v1/agent/service/register",
            _ => "/v1/agent/service/register?replace-existing-checks=true",
        };
        let key = instance.key();
        self.tell(&Ask::put(path.into(), body.to_string()), key).await?;
        // A check that was known keeps its state.
        let id = wire::id(key.service, key.id)?;
        let update = |output| {
            let path =
                format!("/v1/agent/check/update/{}{}", encoded(&wire::check(&id)), run("?", key));
            Ask::put(path, json!({"Status": "critical", "Output": output}).to_string())
        };
        let ask = match instance.health {
            Health::Healthy => pass(&id, key),
            Health::Unknown => update(""),
            Health::Unhealthy => update("registered as unhealthy"),
            Health::Draining => maintain(&id, key),
        };
        self.tell(&ask, key).await
    }

    /// Says something of one instance.
    async fn tell(&self, ask: &Ask, key: InstanceKey<'_>) -> Result<(), Error> {
        let missing = || Error::NoSuchInstance { service: key.service.into(), id: key.id.into() };
        let answer = match self.client.call(ask).await {
            Err(failure) if failure.is_of_an_unknown_check() => return Err(missing()),
            answer => answer?,
        };
        match answer.status {
            StatusCode::NOT_FOUND => Err(missing()),
            StatusCode::CONFLICT => {
                Err(Error::Superseded { service: key.service.into(), id: key.id.into() })
            }
            _ => Ok(self.client.success(ask, answer).map(drop)?),
        }
    }

    /// Does something to an instance that may be of another process, or of another client.
    async fn act(
        &self,
        key: InstanceKey<'_>,
        ask: impl Fn(&str, InstanceKey<'_>) -> Ask,
    ) -> Result<(), Error> {
        let ours = wire::id(key.service, key.id)?;
        match self.tell(&ask(&ours, key), key).await {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
        let list = Ask::get(format!("/v1/health/service/{}", encoded(key.service)));
        let answer = self.client.success(&list, self.client.call(&list).await?)?;
        let ids = agent_ids(&answer.body).map_err(|error| self.client.garbled(&list, error))?;
        if ids.is_empty() {
            return Err(Error::NoSuchService { service: key.service.into() });
        }
        match ids.iter().find(|(agent_id, id)| **id == *key.id && *agent_id != ours) {
            Some((agent_id, _)) => self.tell(&ask(agent_id, key), key).await,
            None => Err(Error::NoSuchInstance { service: key.service.into(), id: key.id.into() }),
        }
    }

    async fn deregister(&self, key: InstanceKey<'_>) -> Result<(), Error> {
        self.act(key, deregister).await?;
        let service = self.services().known.get(key.service).cloned();
        if let Some(service) = service {
            service.remove(key.id);
        }
        Ok(())
    }
}

fn pass(id: &str, key: InstanceKey<'_>) -> Ask {
    let id = encoded(&wire::check(id));
    Ask::put(format!("/v1/agent/check/pass/{id}{}", run("?", key)), "")
}

fn maintain(id: &str, key: InstanceKey<'_>) -> Ask {
    let id = encoded(id);
    let path = format!("/v1/agent/service/maintenance/{id}?enable=true&reason=draining");
    Ask::put(path + &run("&", key), "")
}

fn deregister(id: &str, key: InstanceKey<'_>) -> Ask {
    Ask::put(format!("/v1/agent/service/deregister/{}{}", encoded(id), run("?", key)), "")
}

/// Which run of the instance says it. Consul overlooks it.
fn run(sign: &str, key: InstanceKey<'_>) -> String {
    match key.incarnation {
        0 => String::new(),
        incarnation => format!("{sign}gusset-incarnation={incarnation}"),
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
        Box::pin(async move {
            let id = wire::id(instance.service, instance.id)?;
            self.0.tell(&pass(&id, instance), instance).await
        })
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
        let handle = &self.0;
        handle.service(service, |service| {
            let (watch, is_new) = service.watch();
            if is_new {
                let mut tasks = handle.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                while tasks.try_join_next().is_some() {}
                let followed = follow(handle.client.clone(), service.clone());
                tasks.spawn_on(followed, &handle.runtime);
            }
            watch
        })
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
