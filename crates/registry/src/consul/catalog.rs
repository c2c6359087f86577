//! Nodes, services and checks, with an index for everything that can be waited for.
//!
//! The machine: no socket, no clock. `now` is the time that was attended: see [`super::server`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    record::{
        CheckDef, CheckRecord, Entry, NodeDef, NodeRecord, ServiceDef, ServiceRecord, Status,
    },
    timers::Timers,
    topic::{Indexes, Topic},
};

#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) own: Arc<str>,
    nodes: BTreeMap<Arc<str>, Node>,
    services: HashMap<Arc<str>, Service>,
    /// At this many services those that nobody needs are left behind.
    clean_at: usize,
    /// Index of the last time that a service lost its last instance: the index of all services that do not exist.
    extinct: u64,
    pub(super) services_topic: Topic,
    pub(super) nodes_topic: Topic,
    pub(super) checks_topic: Topic,
    pub(super) timers: Timers,
    instances: usize,
    checks: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Node {
    record: Arc<NodeRecord>,
    services: BTreeMap<Arc<str>, Arc<ServiceRecord>>,
    checks: BTreeMap<Arc<str>, Check>,
    /// Ids of the checks of each service.
    of_service: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Ids of the checks of the node itself.
    of_node: BTreeSet<Arc<str>>,
}

/// A name of which there are instances, or for which somebody waits.
#[derive(Debug)]
struct Service {
    topic: Topic,
    /// Node and id.
    members: BTreeSet<(Arc<str>, Arc<str>)>,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) record: Arc<CheckRecord>,
    /// Without word until then it is critical.
    pub(super) deadline: Option<Duration>,
    pub(super) critical_since: Option<Duration>,
    /// When the timers look at it next.
    pub(super) scheduled: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NoSuchService,
    NoSuchCheck,
    NoSuchNode,
    NoTtl,
    Full,
    TooManyChecks,
}

/// More would be a mistake.
const CHECKS_PER_SERVICE: usize = 16;
const CHECKS_PER_INSTANCE: usize = 4;
pub(super) const MAINTENANCE: &str = "_service_maintenance:";

impl Catalog {
    pub(super) fn new(own: NodeDef, capacity: usize, indexes: &Indexes) -> Self {
        let index = indexes.last();
        let name = own.name.clone();
        let record = Arc::new(NodeRecord { def: own, created: index, modified: index });
        Self {
            own: name.clone(),
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

    pub(super) fn all_checks(&self) -> Vec<Arc<CheckRecord>> {
        let checks = self.nodes.values().flat_map(|node| node.checks.values());
        checks.map(|check| check.record.clone()).collect()
    }

    /// All names that have instances, with the records behind them.
    pub(super) fn names(&self) -> BTreeMap<Arc<str>, Vec<Arc<ServiceRecord>>> {
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in self.nodes.values().flat_map(|node| node.services.values()) {
            names.entry(record.def.name.clone()).or_default().push(record.clone());
        }
        names
    }

    /// The instances of a service, in the order of node and id.
    pub(super) fn entries(&self, service: &str) -> Vec<Entry> {
        let Some(service) = self.services.get(service) else { return Vec::new() };
        service.members.iter().filter_map(|(node, id)| self.nodes.get(node)?.entry(id)).collect()
    }

    pub(super) fn all_entries(&self) -> Vec<Entry> {
        let entries =
            self.nodes.values().flat_map(|node| node.services.keys().map(|id| node.entry(id)));
        entries.flatten().collect()
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

    fn service_mut(&mut self, name: &Arc<str>, index: u64) -> &mut Service {
        if self.services.len() >= self.clean_at && !self.services.contains_key(name) {
            self.services.retain(|_, service| !service.is_unused());
            self.clean_at = 2 * self.services.len() + 64;
        }
        self.services
            .entry(name.clone())
            .or_insert_with(|| Service { topic: Topic::new(index), members: BTreeSet::new() })
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

    // Services.

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
            if service.members.is_empty() {
                self.extinct = index;
                if service.is_unused() {
                    self.services.remove(&record.def.name);
                }
            }
        }
    }

    // Checks.

    fn checks_of(&self, node: &str, service: &str) -> Vec<Arc<str>> {
        let ids = self.nodes.get(node).and_then(|node| node.of_service.get(service));
        ids.into_iter().flatten().cloned().collect()
    }

    /// Adds a check, or replaces one, which keeps its state if it is of the same service.
    pub(super) fn set_check(
        &mut self,
        indexes: &mut Indexes,
        node_name: &str,
        def: CheckDef,
        now: Duration,
    ) -> Result<(), Refused> {
        let full = self.checks >= self.capacity * CHECKS_PER_INSTANCE;
        let node = self.nodes.get_mut(node_name).ok_or(Refused::NoSuchNode)?;
        let service = match &def.service {
            Some(id) => Some(node.services.get(id).ok_or(Refused::NoSuchService)?.clone()),
            None => None,
        };
        let known = node.checks.get(&def.id);
        if known.is_some_and(|known| known.record.def.service != def.service) {
            self.remove_check(indexes, node_name, &def.id)?;
            return self.set_check(indexes, node_name, def, now);
        }
        if known.is_none() && full {
            return Err(Refused::Full);
        }
        let id = def.id.clone();
        let same = known.is_some_and(|known| known.record.def == def);
        if !same {
            let index = indexes.next();
            let record = match known.map(|known| &known.record) {
                Some(known) => CheckRecord { def, service, modified: index, ..(**known).clone() },
                None => CheckRecord {
                    node: node.record.def.name.clone(),
                    status: def.status,
                    output: def.output.clone(),
                    service,
                    created: index,
                    modified: index,
                    heard: None,
                    def,
                },
            };
            self.put_check(node_name, record, now);
            self.touch_check(indexes, node_name, &id);
        }
        self.begin_ttl(node_name, &id, now);
        Ok(())
    }

    /// The same, within the number of checks that a service may have.
    pub(super) fn add_check(
        &mut self,
        indexes: &mut Indexes,
        node_name: &str,
        def: CheckDef,
        now: Duration,
    ) -> Result<(), Refused> {
        let node = self.nodes.get(node_name).ok_or(Refused::NoSuchNode)?;
        let beside = def.service.as_ref().map(|service| node.of_service.get(service));
        let beside = beside.unwrap_or(Some(&node.of_node)).map_or(0, BTreeSet::len);
        if beside >= CHECKS_PER_SERVICE && !node.checks.contains_key(&def.id) {
            return Err(Refused::TooManyChecks);
        }
        self.set_check(indexes, node_name, def, now)
    }

    /// What somebody else, who makes the check, says of it.
    pub(super) fn report(
        &mut self,
        indexes: &mut Indexes,
        key: (&str, &str),
        (status, output): (Status, String),
        now: Duration,
    ) {
        let Some(check) = self.check_mut(key.0, key.1) else { return };
        let changed = check.record.status != status;
        Arc::make_mut(&mut check.record).output = output;
        if changed {
            self.move_to(indexes, key, status, now);
        }
    }

    fn put_check(&mut self, node_name: &str, record: CheckRecord, now: Duration) {
        let Some(node) = self.nodes.get_mut(node_name) else { return };
        let id = record.def.id.clone();
        let ids = match &record.def.service {
            Some(service) => node.of_service.entry(service.clone()).or_default(),
            None => &mut node.of_node,
        };
        ids.insert(id.clone());
        let record = Arc::new(record);
        match node.checks.get_mut(&id) {
            Some(check) => check.record = record,
            None => {
                let critical = record.status == Status::Critical;
                let critical_since = critical.then_some(now);
                let check = Check { record, deadline: None, critical_since, scheduled: None };
                node.checks.insert(id, check);
                self.checks += 1;
            }
        }
    }

    fn begin_ttl(&mut self, node_name: &str, id: &Arc<str>, now: Duration) {
        let Some(check) = self.check_mut(node_name, id) else { return };
        check.deadline = check.record.def.ttl.map(|ttl| now.saturating_add(ttl));
        self.schedule(node_name, id);
    }

    /// What a check says of itself. The output alone changes no index, or each heartbeat would wake all watchers.
    pub(super) fn set_status(
        &mut self,
        indexes: &mut Indexes,
        (node_name, id): (&str, &str),
        (status, output): (Status, Option<&str>),
        now: Duration,
    ) -> Result<(), Refused> {
        let check = self.check_mut(node_name, id).ok_or(Refused::NoSuchCheck)?;
        let ttl = check.record.def.ttl.ok_or(Refused::NoTtl)?;
        check.deadline = Some(now.saturating_add(ttl));
        let record = Arc::make_mut(&mut check.record);
        record.heard = Some(now);
        let changed = record.status != status;
        if let Some(output) = output.filter(|output| record.output != **output) {
            record.output = output.into();
        }
        if changed {
            self.move_to(indexes, (node_name, id), status, now);
        }
        Ok(())
    }

    pub(super) fn move_to(
        &mut self,
        indexes: &mut Indexes,
        (node_name, id): (&str, &str),
        status: Status,
        now: Duration,
    ) {
        let Some(check) = self.check_mut(node_name, id) else { return };
        let record = Arc::make_mut(&mut check.record);
        record.status = status;
        record.modified = indexes.next();
        check.critical_since = (status == Status::Critical).then_some(now);
        let id = record.def.id.clone();
        self.schedule(node_name, &id);
        self.touch_check(indexes, node_name, &id);
    }

    pub(super) fn remove_check(
        &mut self,
        indexes: &mut Indexes,
        node_name: &str,
        id: &str,
    ) -> Result<(), Refused> {
        let node = self.nodes.get_mut(node_name).ok_or(Refused::NoSuchNode)?;
        if !node.checks.contains_key(id) {
            return Err(Refused::NoSuchCheck);
        }
        indexes.next();
        self.touch_check(indexes, node_name, id);
        let node = self.nodes.get_mut(node_name).ok_or(Refused::NoSuchNode)?;
        if let Some(check) = node.checks.remove(id) {
            self.checks -= 1;
            node.of_node.remove(id);
            if let Some(service) = &check.record.def.service {
                let ids = node.of_service.get_mut(service);
                if ids.is_some_and(|ids| ids.remove(id) && ids.is_empty()) {
                    node.of_service.remove(service);
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_mut(&mut self, node: &str, id: &str) -> Option<&mut Check> {
        self.nodes.get_mut(node)?.checks.get_mut(id)
    }

    /// Sets or ends the maintenance of one of our own services.
    pub(super) fn maintain(
        &mut self,
        indexes: &mut Indexes,
        id: &str,
        reason: Option<String>,
    ) -> Result<(), Refused> {
        let own = self.own.clone();
        let service = self.service_on(&own, id).ok_or(Refused::NoSuchService)?.def.id.clone();
        let check: Arc<str> = format!("{MAINTENANCE}{id}").into();
        let Some(reason) = reason else {
            let removed = self.remove_check(indexes, &own, &check);
            return removed.or_else(|refused| match refused {
                Refused::NoSuchCheck => Ok(()),
                other => Err(other),
            });
        };
        let def = CheckDef {
            id: check,
            name: "Service Maintenance Mode".into(),
            notes: reason,
            ttl: None,
            status: Status::Critical,
            output: String::new(),
            service: Some(service),
            deregister_after: None,
        };
        self.set_check(indexes, &own, def, Duration::ZERO)
    }

    // Telling.

    fn touch_check(&mut self, indexes: &mut Indexes, node_name: &str, id: &str) {
        indexes.touch(&mut self.checks_topic);
        let Some(node) = self.nodes.get(node_name) else { return };
        let Some(check) = node.checks.get(id) else { return };
        let names = match &check.record.service {
            Some(service) => vec![service.def.name.clone()],
            None => node.names(),
        };
        self.touch(indexes, names);
    }

    fn touch(&mut self, indexes: &mut Indexes, names: impl IntoIterator<Item = Arc<str>>) {
        for name in names {
            if let Some(service) = self.services.get_mut(&name) {
                indexes.touch(&mut service.topic);
            }
        }
    }
}

impl Node {
    fn new(record: Arc<NodeRecord>) -> Self {
        Self {
            record,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            of_service: HashMap::new(),
            of_node: BTreeSet::new(),
        }
    }

    /// Names of the services on this node.
    fn names(&self) -> Vec<Arc<str>> {
        let names: BTreeSet<_> = self.services.values().map(|s| s.def.name.clone()).collect();
        names.into_iter().collect()
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        let service = self.services.get(id)?.clone();
        let ids = self.of_node.iter().chain(self.of_service.get(id).into_iter().flatten());
        let checks = ids.filter_map(|id| Some(self.checks.get(id)?.record.clone())).collect();
        Some(Entry { node: self.record.clone(), service, checks })
    }
}

impl Service {
    fn is_unused(&self) -> bool {
        self.members.is_empty() && self.topic.is_alone()
    }
}
