//! Which run of an instance may say something: what this server adds to Consul's API, and Consul overlooks.
//!
//! A service that was registered with `gusset-incarnation` in its metadata is of that run. Who says so in a parameter of the same name, of a
//! heartbeat, a maintenance or a deregistration, is refused if it is of another.

use std::time::Duration;

use super::{
    catalog::{Catalog, Refused},
    fields::Wrong,
    record::ServiceDef,
    request::Call,
};
use crate::{InstanceKey, key::Run};

const INCARNATION: &str = "gusset-incarnation";

/// 0 is of no particular run.
fn incarnation(def: &ServiceDef) -> u64 {
    def.meta.get(INCARNATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Call {
    pub(super) fn incarnation(&self) -> Result<u64, Wrong> {
        Ok(self.query.number(INCARNATION)?.unwrap_or(0))
    }
}

impl Catalog {
    /// Whether this run of one of our own services may register: not while a younger one is there and heard of.
    pub(super) fn admit(&self, def: &ServiceDef, now: Duration) -> Result<(), Refused> {
        match self.run_of(&def.id, incarnation(def)) {
            Some(Run::Older) if !self.is_silent(&def.id, now) => Err(Refused::Superseded),
            _ => Ok(()),
        }
    }

    /// Whether this run may say something of one of our own services.
    pub(super) fn fence(&self, id: &str, incarnation: u64) -> Result<(), Refused> {
        match self.run_of(id, incarnation) {
            Some(Run::Older) => Err(Refused::Superseded),
            Some(Run::Younger) => Err(Refused::NoSuchService),
            Some(Run::Same) | None => Ok(()),
        }
    }

    /// The same of one of its checks.
    pub(super) fn fence_check(&self, check: &str, incarnation: u64) -> Result<(), Refused> {
        let check = self.check(&self.own, check).map(|check| &check.record.def.service);
        match check {
            Some(Some(service)) if incarnation > 0 => self.fence(service, incarnation),
            _ => Ok(()),
        }
    }

    /// How what is registered looks from this run.
    fn run_of(&self, id: &str, incarnation_asked: u64) -> Option<Run> {
        let known = self.service_on(&self.own, id)?;
        let key = InstanceKey::new(&known.def.name, id).with_incarnation(incarnation_asked);
        Some(key.run(incarnation(&known.def)))
    }

    /// Whether a TTL of the service has run out.
    fn is_silent(&self, id: &str, now: Duration) -> bool {
        let checks = self.checks_of(&self.own, id);
        let mut deadlines =
            checks.iter().filter_map(|check| self.check(&self.own, check)?.deadline);
        deadlines.any(|deadline| deadline <= now)
    }
}
