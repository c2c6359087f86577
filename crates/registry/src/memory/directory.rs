use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use super::{
    MemoryRegistry, lock,
    service::{Change, Service},
};
#[cfg(feature = "file")]
use crate::Health;
use crate::{
    Error, Instance, InstanceKey,
    table::{Refused, SlotId, Table},
};

/// Which services there are, and how an instance is found and changed.
impl MemoryRegistry {
    pub(super) fn register_now(&self, instance: &Instance) -> Result<(), Error> {
        self.add(instance, false)
    }

    /// Takes in an instance that was known before a restart.
    #[cfg(feature = "file")]
    pub(super) fn restore_one(&self, mut instance: Instance) -> Result<(), Error> {
        instance.suspect = matches!(instance.health, Health::Healthy | Health::Draining);
        self.add(&instance, true)
    }

    pub(super) fn add(&self, instance: &Instance, restored: bool) -> Result<(), Error> {
        instance.validate()?;
        loop {
            let service = self.find_or_add(&instance.service);
            if let Some(registered) = self.register_in(&service, instance, restored) {
                return registered;
            }
        }
    }

    /// `None` if the service was removed in the meantime.
    pub(super) fn register_in(
        &self,
        service: &Arc<Service>,
        instance: &Instance,
        restored: bool,
    ) -> Option<Result<(), Error>> {
        service.change(&self.0, |state| {
            if state.removed {
                return (None, Change::Nothing);
            }
            if let Err(refused) = state.table.admits(instance.key()) {
                return (Some(Err(refused.of(instance.key()))), Change::Nothing);
            }
            if restored && state.table.contains(&instance.id) {
                // What it says now is younger than the file.
                return (Some(Ok(())), Change::Nothing);
            }
            let (mut slot, is_new) = (None, !state.table.contains(&instance.id));
            if is_new {
                slot = self.reserve(service, &instance.id);
                if slot.is_none() {
                    let error = Error::Full { capacity: self.0.policy.capacity.get() };
                    return (Some(Err(error)), Change::Nothing);
                }
            }
            state.table.register(instance.clone(), self.0.board.now(), slot);
            if restored {
                state.table.mark_restored(&instance.id);
            }
            // The place that the one before had may be nobody's now.
            (Some(Ok(())), if is_new { Change::Gain } else { Change::Any })
        })
    }

    /// Takes a place for one more instance.
    pub(super) fn reserve(&self, service: &Arc<Service>, id: &Arc<str>) -> Option<SlotId> {
        let capacity = self.0.policy.capacity.get();
        let one_more = |held| (held < capacity).then_some(held + 1);
        if self.0.instances.fetch_update(AcqRel, Relaxed, one_more).is_ok() {
            let owner = (service.clone(), id.clone());
            let index = lock(&self.0.rota).allocate(owner, self.0.board.tick());
            if let Some(index) = index {
                return Some(self.0.board.occupy(index));
            }
            self.0.instances.fetch_sub(1, AcqRel);
        }
        self.0.counters.refused.fetch_add(1, Relaxed);
        None
    }

    pub(super) fn heartbeat_now(&self, key: InstanceKey<'_>) -> Result<(), Error> {
        self.change(key, |table, now| table.heartbeat(key, now).map(Change::gain))
    }

    /// Changes one instance; `change` says whether the listing did.
    pub(super) fn change(
        &self,
        key: InstanceKey<'_>,
        change: impl FnOnce(&mut Table, Duration) -> Result<Change, Refused>,
    ) -> Result<(), Error> {
        let no_service = || Error::NoSuchService { service: key.service.into() };
        let found = self.find(key.service).ok_or_else(no_service)?;
        found.change(&self.0, |state| {
            if state.table.is_empty() {
                return (Err(no_service()), Change::Nothing);
            }
            match change(&mut state.table, self.0.board.now()) {
                Ok(changed) => (Ok(()), changed),
                Err(refused) => (Err(refused.of(key)), Change::Nothing),
            }
        })
    }

    pub(super) fn find(&self, service: &str) -> Option<Arc<Service>> {
        self.0.services.load().get(service).cloned()
    }

    pub(super) fn find_or_add(&self, name: &Arc<str>) -> Arc<Service> {
        if let Some(service) = self.find(name) {
            return service;
        }
        let _adding = lock(&self.0.adding);
        let present = self.0.services.load();
        if let Some(service) = present.get(name) {
            return service.clone();
        }
        // The map is copied anyway, so this is when those that nobody needs are left behind.
        let mut services: HashMap<_, _> = present
            .iter()
            .filter(|(_, service)| !service.remove_if_unused())
            .map(|(name, service)| (name.clone(), service.clone()))
            .collect();
        let table = Table::new(self.0.rules, self.0.board.clone());
        let service = Arc::new(Service::new(name.clone(), table));
        services.insert(name.clone(), service.clone());
        self.0.services.store(Arc::new(services));
        service
    }
}

impl Refused {
    pub(super) fn of(self, key: InstanceKey<'_>) -> Error {
        let (service, id) = (key.service.into(), key.id.into());
        match self {
            Self::Unknown => Error::NoSuchInstance { service, id },
            Self::Superseded => Error::Superseded { service, id },
        }
    }
}
