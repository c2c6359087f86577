//! What is asked for a registry, and the services that it knows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use serde_json::json;
use tokio::{runtime, task::JoinSet};

use super::{
    address::encoded,
    client::{Ask, Client},
    failure::Failure,
    follow::{Seen, follow},
    service::{Names, Service, agent_ids},
};
use crate::{Error, Health, Instance, InstanceKey, Snapshot, Watch, wire};

/// What the clones of one registry share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) client: Arc<Client>,
    pub(super) runtime: runtime::Handle,
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

impl Engine {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client: Arc::new(client),
            runtime: runtime::Handle::current(),
            services: Mutex::default(),
            names: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Option<Vec<Arc<str>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the service, from now on if nobody did.
    pub(super) fn watch(&self, service: &str) -> Watch {
        self.service(service, |service| {
            let (watch, is_new) = service.watch();
            if is_new {
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                while tasks.try_join_next().is_some() {}
                let followed = follow(self.client.clone(), service.clone());
                tasks.spawn_on(followed, &self.runtime);
            }
            watch
        })
    }

    /// For how long nothing has confirmed what is known of the service.
    pub(super) fn age(&self, service: &str) -> Option<Duration> {
        self.services().known.get(service)?.age()
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

    /// Who asks for names that do not exist must not fill the memory.
    fn forget_if_vain(&self, name: &str) {
        let known = &mut self.services().known;
        if known.get(name).is_some_and(|service| service.is_vain()) {
            known.remove(name);
        }
    }

    /// How many are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.services().known.len()
    }

    pub(super) async fn read(&self, name: &str) -> Result<Arc<Snapshot>, Error> {
        let (service, (ask, answers)) =
            self.service(name, |service| (service.clone(), service.ask()));
        let answered = match self.client.call(&ask).await {
            Ok(answer) => {
                let index = answer.index.unwrap_or(0);
                let seen = Seen { breaks: self.client.breaks(), index, reset: false };
                service.take_read(&self.client, (&ask, answer), seen, answers)
            }
            Err(failure) => Err(failure),
        };
        let missing = || Error::NoSuchService { service: name.into() };
        self.forget_if_vain(name);
        match (answered, service.last_known()) {
            (_, Some(known)) if known.instances().is_empty() => Err(missing()),
            (_, Some(known)) => Ok(known),
            (Err(failure), None) => Err(failure.into()),
            (Ok(_), None) => Err(missing()),
        }
    }

    pub(super) async fn service_names(&self) -> Result<Vec<Arc<str>>, Error> {
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

    pub(super) async fn register(&self, instance: Instance) -> Result<(), Error> {
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

    pub(super) async fn heartbeat(&self, key: InstanceKey<'_>) -> Result<(), Error> {
        self.tell(&pass(&wire::id(key.service, key.id)?, key), key).await
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
    pub(super) async fn act(
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

    pub(super) async fn deregister(&self, key: InstanceKey<'_>) -> Result<(), Error> {
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

pub(super) fn maintain(id: &str, key: InstanceKey<'_>) -> Ask {
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
