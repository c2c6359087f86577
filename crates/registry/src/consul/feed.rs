//! Services as those see them who follow them in this process.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    record::{CheckRecord, Entry, NodeRecord, ServiceRecord, Status},
    server::{ConsulServer, State},
};
use crate::{
    Health, Instance, LastSeen, Publisher, Watch,
    wire::{LAYOUT, METADATA, PREFIX, VERSION, unescaped},
};

/// One service that somebody follows, or has asked for.
#[derive(Debug)]
pub(super) struct Feed {
    name: Arc<str>,
    own: Arc<str>,
    pub(super) publisher: Publisher,
    /// Held while what is published is collected: so what was collected later is published later.
    shown: Mutex<HashMap<usize, Shown>>,
}

/// An instance, and what it was made from.
#[derive(Debug)]
struct Shown {
    _service: Arc<ServiceRecord>,
    node: Arc<NodeRecord>,
    /// Health, whether that is suspect, and whether a check warns.
    state: (Health, bool, bool),
    /// None if it is of a layout that is not known here.
    instance: Option<Arc<Instance>>,
}

impl Feed {
    fn new(name: Arc<str>, own: Arc<str>) -> Self {
        Self { publisher: Publisher::new(name.clone()), name, own, shown: Mutex::default() }
    }

    pub(super) fn is_followed(&self) -> bool {
        !self.publisher.is_alone()
    }

    /// Makes instances of the entries, or finds those that have not changed.
    fn show(&self, shown: &mut HashMap<usize, Shown>, entries: Vec<Entry>) {
        let mut before = std::mem::take(shown);
        let mut instances = Vec::with_capacity(entries.len());
        for entry in entries {
            let state = (health(&entry), entry.checks.iter().any(|c| c.suspect), warns(&entry));
            // Kept in what is shown, so no other record can stand at its place.
            let key = Arc::as_ptr(&entry.service) as usize;
            let known = before
                .remove(&key)
                .filter(|known| known.state == state && Arc::ptr_eq(&known.node, &entry.node));
            let known = known.unwrap_or_else(|| Shown {
                instance: instance(&entry, state, &self.own).map(Arc::new),
                _service: entry.service.clone(),
                node: entry.node.clone(),
                state,
            });
            instances.extend(known.instance.clone());
            shown.insert(key, known);
        }
        self.publisher.store(instances);
    }
}

impl ConsulServer {
    /// What is known of the service, followed from now on.
    pub(super) fn feed(&self, name: &str) -> Watch {
        self.read(|state, _| {
            let feed = state.feed(name);
            feed.publisher.watch()
        })
    }

    /// Tells who follows. No other lock is held, but for that of the state while entries are collected.
    pub(super) fn publish(&self, touched: Vec<Arc<Feed>>) {
        for (place, feed) in touched.iter().enumerate() {
            // One time for all that a change did to it.
            if touched[..place].iter().any(|other| Arc::ptr_eq(other, feed)) {
                continue;
            }
            let mut shown = feed.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let entries = self.read(|state, _| state.catalog.entries(&feed.name));
            feed.show(&mut shown, entries);
            drop(shown);
            feed.publisher.wake();
        }
    }
}

impl State {
    fn feed(&mut self, name: &str) -> Arc<Feed> {
        if let Some(feed) = self.catalog.feed(name) {
            return feed;
        }
        let index = self.catalog.service_index(name);
        let (entries, own) = (self.catalog.entries(name), self.catalog.own.clone());
        let name: Arc<str> = name.into();
        let service = self.catalog.service_mut(&name, index);
        let feed = Arc::new(Feed::new(name, own));
        // Nobody else has it yet, so this lock is not waited for.
        feed.show(&mut feed.shown.lock().unwrap_or_else(PoisonError::into_inner), entries);
        service.feed = Some(feed.clone());
        feed
    }
}

fn is_maintenance(check: &CheckRecord) -> bool {
    check.def.id.starts_with("_service_maintenance") || &*check.def.id == "_node_maintenance"
}

/// Maintenance is draining; what is critical and never said why is not known yet; a warning is no reason to send calls elsewhere.
pub(super) fn health(entry: &Entry) -> Health {
    let critical = entry.checks.iter().filter(|check| check.status == Status::Critical);
    let (drained, failed): (Vec<_>, Vec<_>) = critical.partition(|check| is_maintenance(check));
    if failed.iter().any(|check| !check.output.is_empty()) {
        Health::Unhealthy
    } else if !drained.is_empty() {
        Health::Draining
    } else if !failed.is_empty() {
        Health::Unknown
    } else {
        Health::Healthy
    }
}

fn warns(entry: &Entry) -> bool {
    entry.checks.iter().any(|check| check.status == Status::Warning)
}

/// None if it is of a version of the layout that is not known here, or not what it says it is.
fn instance(
    entry: &Entry,
    (health, suspect, warns): (Health, bool, bool),
    own: &str,
) -> Option<Instance> {
    let (node, def) = (&entry.node.def, &entry.service.def);
    let said = |name: &str| def.meta.get(&format!("{PREFIX}{name}"));
    if def.meta.get(LAYOUT).is_some_and(|version| version != VERSION) {
        return None;
    }
    let host = if def.address.is_empty() { &node.address } else { &def.address };
    let mut instance = Instance::new(def.name.clone(), host, def.port).with_health(health);
    instance.id = match said("id") {
        Some(id) => id.as_str().into(),
        None if *node.name == *own => def.id.clone(),
        // Ids are unique on a node, and not in a service.
        None => format!("{}@{}", def.id, node.name).into(),
    };
    instance.suspect = suspect;
    instance.tags = def.tags.iter().cloned().collect();
    let weight = if warns { def.weights.1 } else { def.weights.0 };
    let weight = said("weight").map_or(Some(weight), |text| text.parse().ok())?;
    instance.weight = NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN);
    instance.version = said("version").cloned();
    instance.zone = said("zone").cloned();
    instance.incarnation = said("incarnation").map_or(Some(0), |text| text.parse().ok())?;
    instance.checked = said("checked").is_some();
    let heartbeat = entry.checks.iter().find(|check| check.def.ttl.is_some());
    instance.last_seen = heartbeat.map_or_else(LastSeen::default, |check| check.heard.clone());
    for (name, value) in &def.meta {
        if let Some(key) = name.strip_prefix(METADATA) {
            instance.metadata.insert(unescaped(key)?, value.clone());
        } else if !name.starts_with(PREFIX) && name != LAYOUT {
            instance.metadata.insert(name.clone(), value.clone());
        }
    }
    Some(instance)
}
