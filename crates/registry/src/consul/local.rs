//! The same services for who embeds the server: [`Registry`] without HTTP.

use std::{sync::Arc, time::Duration};

use futures_core::future::BoxFuture;

use super::{
    catalog::{Catalog, Refused},
    fields::Fields,
    input,
    record::{CheckDef, ServiceDef, Status},
    server::{ConsulServer, State},
    topic::Indexes,
};
use crate::{Error, Health, Instance, InstanceKey, Registry, Snapshot, Watch, wire};

/// What a registration comes to in Consul: the same as one that comes over HTTP.
fn registration(instance: &Instance, server: &ConsulServer) -> Result<Registration, Error> {
    instance.validate()?;
    let policy = &server.policy().health;
    let body = wire::registration(instance, policy.ttl_used(), policy.evict_after)?;
    let invalid = |_| Error::Invalid {
        field: "instance",
        value: instance.id.chars().take(80).collect(),
        reason: "is not what Consul takes",
    };
    let fields = Fields::top(&body).map_err(invalid)?;
    let (service, checks) = input::agent_service(&fields).map_err(invalid)?;
    Ok(Registration { service, checks, health: instance.health })
}

struct Registration {
    service: ServiceDef,
    checks: Vec<CheckDef>,
    health: Health,
}

impl Registration {
    fn register(
        self,
        catalog: &mut Catalog,
        indexes: &mut Indexes,
        now: Duration,
    ) -> Result<(), Refused> {
        let own = catalog.own.clone();
        let id = self.service.id.clone();
        catalog.admit(&self.service, now)?;
        // It begins with the health that it states, whatever its checks said before.
        for check in catalog.checks_of(&own, &id) {
            catalog.remove_check(indexes, &own, &check)?;
        }
        let check = self.checks.first().map(|check| check.id.clone());
        catalog.register(indexes, (&own, self.service), (self.checks, true), now)?;
        let Some(check) = check else { return Ok(()) };
        let key = (&*own, &*check);
        match self.health {
            Health::Healthy => catalog.set_status(indexes, key, (Status::Passing, Some("")), now),
            Health::Unhealthy => {
                let output = Some("registered as unhealthy");
                catalog.set_status(indexes, key, (Status::Critical, output), now)?;
                // The output alone tells nobody.
                catalog.touch_check(indexes, &own, &check);
                Ok(())
            }
            Health::Draining => catalog.maintain(indexes, &id, Some(DRAINING.into())),
            Health::Unknown => Ok(()),
        }
    }
}

const DRAINING: &str = "draining";

impl Catalog {
    /// The id that the instance has on our own node, if this run may speak of it.
    fn find(&self, key: InstanceKey<'_>) -> Result<Arc<str>, Refused> {
        let ours = wire::id(key.service, key.id).ok();
        // One that came over HTTP has the id that it was given.
        let found = ours.iter().map(String::as_str).chain([key.id]).find_map(|id| {
            let record = self.service_on(&self.own, id)?;
            (*record.def.name == *key.service).then(|| record.def.id.clone())
        });
        let found = found.ok_or(Refused::NoSuchService)?;
        self.fence(&found, key.incarnation)?;
        Ok(found)
    }
}

impl ConsulServer {
    fn act(
        &self,
        key: InstanceKey<'_>,
        act: impl FnOnce(&mut State, &Arc<str>, Duration) -> Result<(), Refused>,
    ) -> Result<(), Error> {
        let (done, known) = self.change(|state, now| {
            let found = state.catalog.find(key);
            let done = found.and_then(|id| act(state, &id, now));
            (done, state.catalog.has(key.service))
        });
        done.map_err(|refused| self.error(refused, key, known))
    }

    fn error(&self, refused: Refused, key: InstanceKey<'_>, known: bool) -> Error {
        let (service, id) = (key.service.into(), key.id.into());
        match refused {
            Refused::Superseded => Error::Superseded { service, id },
            Refused::Full | Refused::TooManyChecks => {
                Error::Full { capacity: self.policy().instances }
            }
            _ if known => Error::NoSuchInstance { service, id },
            _ => Error::NoSuchService { service },
        }
    }

    fn register_here(&self, instance: &Instance) -> Result<(), Error> {
        let registration = registration(instance, self)?;
        let done = self.change(|State { catalog, indexes, .. }, now| {
            registration.register(catalog, indexes, now)
        });
        done.map_err(|refused| {
            if refused == Refused::Full {
                self.count_refused();
            }
            self.error(refused, instance.key(), true)
        })
    }

    fn heartbeat_here(&self, key: InstanceKey<'_>) -> Result<(), Error> {
        self.act(key, |State { catalog, indexes, .. }, id, now| {
            let own = catalog.own.clone();
            for check in catalog.checks_of(&own, id) {
                let told = (Status::Passing, Some(""));
                match catalog.set_status(indexes, (&own, &check), told, now) {
                    // It speaks for itself only, and not for other checks of the same instance.
                    Ok(()) | Err(Refused::NoTtl) => {}
                    Err(refused) => return Err(refused),
                }
            }
            Ok(())
        })
    }
}

/// The services of this server, without HTTP: who registers here is found over HTTP, and the other way round.
///
/// | of an instance | in Consul |
/// |---|---|
/// | id | `ID` is `service:id`, for there ids are unique on a node, and not in a service; one of another node is `ID@node` here |
/// | healthy, unknown, unhealthy | a TTL check of [`ConsulPolicy::health`](crate::ConsulPolicy::health): passing; critical and never told why; critical |
/// | draining | maintenance |
/// | version, zone, incarnation | `Meta`, behind `gusset-` |
///
/// A warning counts as healthy, with the weight of a warning. A service of a namespace is one of that full name. Nobody expires without
/// [`ConsulServer::spawn_ticker`].
///
/// What [`Registry::deregister`] or [`Registry::drain`] has taken out by the time it returns is picked by no later call, and so is what was taken out over HTTP
/// by the time that it is answered. A service that was asked for or is watched in this process costs a look at all its instances with each change of
/// it, and room for them.
impl Registry for ConsulServer {
    fn ttl(&self) -> Duration {
        self.policy().health.ttl_used()
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.register_here(&instance) })
    }

    fn heartbeat<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.heartbeat_here(key) })
    }

    fn drain<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.act(key, |State { catalog, indexes, .. }, id, _| {
                catalog.maintain(indexes, id, Some(DRAINING.into()))
            })
        })
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.act(key, |State { catalog, indexes, .. }, id, _| {
                let own = catalog.own.clone();
                catalog.deregister(indexes, &own, id)
            })
        })
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move {
            let missing = || Error::NoSuchService { service: service.into() };
            if !self.read(|state, _| state.catalog.has(service)) {
                return Err(missing());
            }
            let snapshot = self.feed(service).snapshot();
            if snapshot.instances().is_empty() { Err(missing()) } else { Ok(snapshot) }
        })
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async move {
            let mut names = self.read(|state, _| state.catalog.service_names());
            names.sort();
            Ok(names)
        })
    }

    fn watch(&self, service: &str) -> Watch {
        self.feed(service)
    }
}
