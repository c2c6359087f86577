//! The [`Catalog`] as it is saved, a part at a time, and how it is taken in again.

use std::{ops::Bound, sync::Arc, time::Duration};

use super::{
    catalog::{Catalog, Check, Node},
    record::{CheckRecord, NodeRecord, Status},
    rounds::Round,
    saver::{SavedNode, SavedService},
    silence::Silence,
    topic::Indexes,
};
use crate::LastSeen;

impl Catalog {
    /// The node with its own checks, and without its services.
    pub(super) fn save_node(&self, name: &str) -> Option<SavedNode> {
        let node = self.nodes.get(name)?;
        let checks = node.of_node.iter().filter_map(|id| node.checks.get(id));
        Some(SavedNode {
            own: *name == *self.own,
            node: node.record.clone(),
            checks: checks.map(|check| check.record.clone()).collect(),
            services: Vec::new(),
        })
    }

    /// The next services of the node, in the order of their ids.
    pub(super) fn save_services(
        &self,
        node: &str,
        after: Option<Arc<str>>,
        most: usize,
    ) -> Vec<SavedService> {
        let Some(node) = self.nodes.get(node) else { return Vec::new() };
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let services = node.services.range((begin, Bound::Unbounded)).take(most);
        services
            .map(|(id, service)| {
                let ids = node.of_service.get(id).into_iter().flatten();
                let checks = ids.filter_map(|id| Some(node.checks.get(id)?.record.clone()));
                SavedService { service: service.clone(), checks: checks.collect() }
            })
            .collect()
    }

    /// All that can be waited for has changed: whoever waits with an index from before a restart looks again.
    pub(super) fn renew_indexes(&mut self, indexes: &mut Indexes) {
        self.extinct = indexes.last();
        for topic in [&mut self.services_topic, &mut self.nodes_topic, &mut self.checks_topic] {
            indexes.touch(topic);
        }
        for service in self.services.values_mut() {
            indexes.touch(&mut service.topic);
        }
    }

    /// Takes in what was saved, but for what is there already. Says how many instances found no room.
    pub(super) fn restore(
        &mut self,
        indexes: &mut Indexes,
        saved: SavedNode,
        now: Duration,
    ) -> u64 {
        let name = if saved.own { self.own.clone() } else { saved.node.def.name.clone() };
        if !self.nodes.contains_key(&name) {
            self.nodes.insert(name.clone(), Node::new(saved.node));
        }
        let Some(record) = self.nodes.get(&name).map(|node| node.record.clone()) else { return 0 };
        for check in saved.checks {
            self.restore_check(&record, check, now);
        }
        let mut left_out = 0;
        for SavedService { service, checks } in saved.services {
            let (id, service_name) = (service.def.id.clone(), service.def.name.clone());
            let Some(node) = self.nodes.get_mut(&name) else { return left_out };
            if node.services.contains_key(&id) {
                continue;
            }
            if self.instances >= self.capacity {
                left_out += 1;
                continue;
            }
            node.services.insert(id.clone(), service);
            self.instances += 1;
            let index = indexes.last();
            self.service_mut(&service_name, index).members.insert((name.clone(), id));
            for check in checks {
                self.restore_check(&record, check, now);
            }
        }
        left_out
    }

    fn restore_check(&mut self, node: &NodeRecord, mut record: Arc<CheckRecord>, now: Duration) {
        let (node_name, id) = (node.def.name.clone(), record.def.id.clone());
        let Some(node) = self.nodes.get_mut(&node_name) else { return };
        if node.checks.contains_key(&id) {
            return;
        }
        let restored = Arc::make_mut(&mut record);
        restored.node = node_name.clone();
        restored.heard = LastSeen::never(self.epoch);
        if let Some(service) = &restored.def.service {
            restored.service = node.services.get(service).cloned();
            node.of_service.entry(service.clone()).or_default().insert(id.clone());
        } else {
            node.of_node.insert(id.clone());
        }
        if restored.def.active.is_some() && !self.rules.probing {
            // Nobody would ever say otherwise.
            restored.status = Status::Critical;
            restored.output = "active checks are not made here any more".into();
        }
        let ttl = restored.def.ttl;
        let critical = restored.status == Status::Critical;
        restored.suspect = ttl.is_some() && !critical;
        let mut check = Check {
            deadline: ttl.map(|ttl| now.saturating_add(ttl)),
            critical_since: critical.then_some(now),
            scheduled: None,
            silence: Silence::restored(record.suspect, now),
            round: Round::default(),
            record,
        };
        check.begin_round(now);
        node.checks.insert(id.clone(), check);
        self.checks += 1;
        self.schedule(&node_name, &id);
    }
}
