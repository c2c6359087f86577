//! How services come into the [`Catalog`] and leave it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    catalog::{Catalog, Node, Refused},
    checks::{CHECKS_PER_INSTANCE, CHECKS_PER_SERVICE},
    record::{CheckDef, ServiceDef, ServiceRecord},
    topic::Indexes,
};

impl Catalog {
    /// Registers a service with its checks. Where nothing changes, no index does. Checks that are known keep their state,
    /// as Consul's do; others of the service are kept only if not `replace`d.
    pub(super) fn register(
        &mut self,
        indexes: &mut Indexes,
        (node_name, def): (&str, ServiceDef),
        (checks, replace): (Vec<CheckDef>, bool),
        now: Duration,
    ) -> Result<(), Refused> {
        let node = self.nodes.get(node_name).ok_or(Refused::NoSuchNode)?;
        let known = node.services.get(&def.id).cloned();
        self.check_room(node, &def.id, &checks, replace)?;
        let id = def.id.clone();
        if known.as_ref().is_none_or(|known| known.def != def) {
            if known.as_ref().is_some_and(|known| known.def.name != def.name) {
                self.leave(indexes, node_name, &id);
            }
            self.put(indexes, node_name, known.as_deref(), def);
        }
        if replace {
            let kept: BTreeSet<_> = checks.iter().map(|check| check.id.clone()).collect();
            for check in self.checks_of(node_name, &id) {
                if !kept.contains(&check) {
                    self.remove_check(indexes, node_name, &check)?;
                }
            }
        }
        for check in checks {
            self.set_check(indexes, node_name, check, now)?;
        }
        Ok(())
    }

    fn check_room(
        &self,
        node: &Node,
        id: &Arc<str>,
        checks: &[CheckDef],
        replace: bool,
    ) -> Result<(), Refused> {
        if !node.services.contains_key(id) && self.instances >= self.capacity {
            return Err(Refused::Full);
        }
        let added: BTreeSet<_> = checks.iter().map(|check| &check.id).collect();
        let stay = node.of_service.get(id).filter(|_| !replace).into_iter().flatten();
        if stay.chain(added).collect::<BTreeSet<_>>().len() > CHECKS_PER_SERVICE {
            return Err(Refused::TooManyChecks);
        }
        let new = checks.iter().filter(|check| !node.checks.contains_key(&check.id)).count();
        if self.checks + new > self.capacity * CHECKS_PER_INSTANCE {
            return Err(Refused::Full);
        }
        Ok(())
    }

    fn put(
        &mut self,
        indexes: &mut Indexes,
        node_name: &str,
        known: Option<&ServiceRecord>,
        def: ServiceDef,
    ) {
        let index = indexes.next();
        let created = known.map_or(index, |known| known.created);
        let (id, name) = (def.id.clone(), def.name.clone());
        let record = Arc::new(ServiceRecord { def, created, modified: index });
        let Some(node) = self.nodes.get_mut(node_name) else { return };
        self.instances += usize::from(node.services.insert(id.clone(), record.clone()).is_none());
        for check in node.of_service.get(&id).into_iter().flatten() {
            if let Some(check) = node.checks.get_mut(check) {
                Arc::make_mut(&mut check.record).service = Some(record.clone());
            }
        }
        let member = (node.record.def.name.clone(), id);
        self.service_mut(&name, index).members.insert(member);
        indexes.touch(&mut self.services_topic);
        self.touch(indexes, [name]);
    }

    pub(super) fn deregister(
        &mut self,
        indexes: &mut Indexes,
        node_name: &str,
        id: &str,
    ) -> Result<(), Refused> {
        self.service_on(node_name, id).ok_or(Refused::NoSuchService)?;
        for check in self.checks_of(node_name, id) {
            self.remove_check(indexes, node_name, &check)?;
        }
        self.leave(indexes, node_name, id);
        Ok(())
    }

    /// Takes an instance out of its service.
    fn leave(&mut self, indexes: &mut Indexes, node_name: &str, id: &str) {
        let Some(node) = self.nodes.get_mut(node_name) else { return };
        let Some(record) = node.services.remove(id) else { return };
        self.instances -= 1;
        let member = (node.record.def.name.clone(), record.def.id.clone());
        let index = indexes.next();
        indexes.touch(&mut self.services_topic);
        if let Some(service) = self.services.get_mut(&record.def.name) {
            service.members.remove(&member);
            indexes.touch(&mut service.topic);
            self.touched.extend(service.feed.clone());
            if service.members.is_empty() {
                self.extinct = index;
                if service.is_unused() {
                    self.services.remove(&record.def.name);
                }
            }
        }
    }
}
