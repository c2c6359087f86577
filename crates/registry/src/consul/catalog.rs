//! Nodes, services and checks, with an index for everything that can be waited for.
//!
//! The machine: no socket, no clock. `now` is the time that was attended: see [`super::attended`]. Here is what is in it, and how it
//! is read; what changes it is in [`super::services`] and [`super::checks`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    feed::Feed,
    record::{CheckRecord, Entry, NodeDef, NodeRecord, ServiceRecord},
    rounds::{Probe, Round},
    silence::{Rules, Silence},
    timers::Timers,
    topic::{Indexes, Topic},
};
use crate::table::Protection;

#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) own: Arc<str>,
    /// What signs of life are counted from.
    pub(super) epoch: Instant,
    pub(super) rules: Rules,
    /// Names of services whose silent instances are kept.
    pub(super) protected: Vec<Arc<str>>,
    /// When that was looked at last.
    pub(super) reviewed: Duration,
    /// Active checks that are due, to be made by who has sockets. Each is here once at most.
    pub(super) probes: Vec<Probe>,
    /// Services that somebody in this process follows and that changed since it was asked last.
    pub(super) touched: Vec<Arc<Feed>>,
    pub(super) nodes: BTreeMap<Arc<str>, Node>,
    pub(super) services: HashMap<Arc<str>, Service>,
    /// At this many services those that nobody needs are left behind.
    clean_at: usize,
    /// Index of the last time that a service lost its last instance: the index of all services that do not exist.
    pub(super) extinct: u64,
    pub(super) services_topic: Topic,
    pub(super) nodes_topic: Topic,
    pub(super) checks_topic: Topic,
    pub(super) timers: Timers,
    pub(super) instances: usize,
    pub(super) checks: usize,
    pub(super) capacity: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) record: Arc<NodeRecord>,
    pub(super) services: BTreeMap<Arc<str>, Arc<ServiceRecord>>,
    pub(super) checks: BTreeMap<Arc<str>, Check>,
    /// Ids of the checks of each service.
    pub(super) of_service: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Ids of the checks of the node itself.
    pub(super) of_node: BTreeSet<Arc<str>>,
}

/// A name of which there are instances, or for which somebody waits.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) topic: Topic,
    /// Node and id.
    pub(super) members: BTreeSet<(Arc<str>, Arc<str>)>,
    pub(super) protection: Protection,
    /// Tells who follows it in this process.
    pub(super) feed: Option<Arc<Feed>>,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) record: Arc<CheckRecord>,
    /// Without word until then it is critical.
    pub(super) deadline: Option<Duration>,
    pub(super) critical_since: Option<Duration>,
    /// When the timers look at it next.
    pub(super) scheduled: Option<Duration>,
    pub(super) silence: Silence,
    pub(super) round: Round,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NoSuchService,
    NoSuchCheck,
    NoSuchNode,
    NoTtl,
    Full,
    TooManyChecks,
    /// A younger run of the instance is registered.
    Superseded,
}

impl Catalog {
    pub(super) fn new(own: NodeDef, capacity: usize, rules: Rules, indexes: &Indexes) -> Self {
        let index = indexes.last();
        let name = own.name.clone();
        let record = Arc::new(NodeRecord { def: own, created: index, modified: index });
        Self {
            own: name.clone(),
            epoch: Instant::now(),
            rules,
            protected: Vec::new(),
            reviewed: Duration::ZERO,
            probes: Vec::new(),
            touched: Vec::new(),
            nodes: BTreeMap::from([(name, Node::new(record))]),
            services: HashMap::new(),
            clean_at: 64,
            extinct: index,
            services_topic: Topic::new(index),
            nodes_topic: Topic::new(index),
            checks_topic: Topic::new(index),
            timers: Timers::default(),
            instances: 0,
            checks: 0,
            capacity,
        }
    }

    pub(super) const fn instances(&self) -> usize {
        self.instances
    }

    // Reading.

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.nodes.values().map(|node| &node.record)
    }

    pub(super) fn services_on(&self, node: &str) -> Vec<Arc<ServiceRecord>> {
        let node = self.nodes.get(node);
        node.map(|node| node.services.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn service_on(&self, node: &str, id: &str) -> Option<&Arc<ServiceRecord>> {
        self.nodes.get(node)?.services.get(id)
    }

    pub(super) fn checks_on(&self, node: &str) -> Vec<Arc<CheckRecord>> {
        let node = self.nodes.get(node);
        node.map(|node| node.checks.values().map(|check| check.record.clone()).collect())
            .unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn all_checks(&self) -> Vec<Arc<CheckRecord>> {
        let checks = self.nodes.values().flat_map(|node| node.checks.values());
        checks.map(|check| check.record.clone()).collect()
    }

    /// The instances of a service, in the order of node and id.
    pub(super) fn entries(&self, service: &str) -> Vec<Entry> {
        let Some(service) = self.services.get(service) else { return Vec::new() };
        service.members.iter().filter_map(|(node, id)| self.nodes.get(node)?.entry(id)).collect()
    }

    pub(super) fn feed(&self, service: &str) -> Option<Arc<Feed>> {
        self.services.get(service)?.feed.clone()
    }

    /// Whether the service has instances.
    pub(super) fn has(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|service| !service.members.is_empty())
    }

    /// The names that have instances, in no order.
    pub(super) fn service_names(&self) -> Vec<Arc<str>> {
        let present = self.services.iter().filter(|(_, service)| !service.members.is_empty());
        present.map(|(name, _)| name.clone()).collect()
    }

    /// The index of a service, whether it exists or not.
    pub(super) fn service_index(&self, service: &str) -> u64 {
        self.services.get(service).map_or(self.extinct, |service| service.topic.index)
    }

    /// What to wait for, for who waits for a service, whether it exists or not.
    pub(super) fn service_topic(&mut self, service: &str) -> Topic {
        if let Some(service) = self.services.get(service) {
            return service.topic.clone();
        }
        let index = self.extinct;
        self.service_mut(&service.into(), index).topic.clone()
    }

    pub(super) fn service_mut(&mut self, name: &Arc<str>, index: u64) -> &mut Service {
        if self.services.len() >= self.clean_at && !self.services.contains_key(name) {
            self.services.retain(|_, service| !service.is_unused());
            self.clean_at = 2 * self.services.len() + 64;
        }
        self.services.entry(name.clone()).or_insert_with(|| Service::new(index))
    }
    // Nodes.

    /// Adds the node or what changed of it.
    pub(super) fn set_node(&mut self, indexes: &mut Indexes, def: NodeDef) -> Result<(), Refused> {
        let Some(node) = self.nodes.get_mut(&def.name) else {
            if self.nodes.len() >= self.capacity {
                return Err(Refused::Full);
            }
            let index = indexes.next();
            let name = def.name.clone();
            let record = NodeRecord { def, created: index, modified: index };
            self.nodes.insert(name, Node::new(Arc::new(record)));
            indexes.touch(&mut self.nodes_topic);
            indexes.touch(&mut self.services_topic);
            return Ok(());
        };
        if node.record.def == def {
            return Ok(());
        }
        let index = indexes.next();
        let created = node.record.created;
        node.record = Arc::new(NodeRecord { def, created, modified: index });
        let touched = node.names();
        indexes.touch(&mut self.nodes_topic);
        indexes.touch(&mut self.services_topic);
        self.touch(indexes, touched);
        Ok(())
    }

    pub(super) fn remove_node(&mut self, indexes: &mut Indexes, name: &str) -> Result<(), Refused> {
        let node = self.nodes.get(name).ok_or(Refused::NoSuchNode)?;
        for id in node.services.keys().cloned().collect::<Vec<_>>() {
            self.deregister(indexes, name, &id)?;
        }
        if let Some(node) = self.nodes.remove(name) {
            self.checks -= node.checks.len();
        }
        indexes.next();
        for topic in [&mut self.nodes_topic, &mut self.services_topic, &mut self.checks_topic] {
            indexes.touch(topic);
        }
        Ok(())
    }

    // Telling.

    pub(super) fn touch(
        &mut self,
        indexes: &mut Indexes,
        names: impl IntoIterator<Item = Arc<str>>,
    ) {
        for name in names {
            if let Some(service) = self.services.get_mut(&name) {
                indexes.touch(&mut service.topic);
                self.touched.extend(service.feed.clone());
            }
        }
    }
}

impl Node {
    pub(super) fn new(record: Arc<NodeRecord>) -> Self {
        Self {
            record,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            of_service: HashMap::new(),
            of_node: BTreeSet::new(),
        }
    }

    /// Names of the services on this node.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let names: BTreeSet<_> = self.services.values().map(|s| s.def.name.clone()).collect();
        names.into_iter().collect()
    }

    pub(super) fn entry(&self, id: &str) -> Option<Entry> {
        let service = self.services.get(id)?.clone();
        let ids = self.of_node.iter().chain(self.of_service.get(id).into_iter().flatten());
        let checks = ids.filter_map(|id| Some(self.checks.get(id)?.record.clone())).collect();
        Some(Entry { node: self.record.clone(), service, checks })
    }
}

impl Service {
    fn new(index: u64) -> Self {
        Self {
            topic: Topic::new(index),
            members: BTreeSet::new(),
            protection: Protection::default(),
            feed: None,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        let followed = self.feed.as_ref().is_some_and(|feed| feed.is_followed());
        self.members.is_empty() && self.topic.is_alone() && !followed
    }
}
