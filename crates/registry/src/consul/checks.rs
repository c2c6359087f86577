//! How checks come into the [`Catalog`], what they say, and how they leave it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    catalog::{Catalog, Check, Refused},
    record::{CheckDef, CheckRecord, Status},
    rounds::Round,
    silence::Silence,
    topic::Indexes,
};
use crate::LastSeen;

/// More would be a mistake.
pub(super) const CHECKS_PER_SERVICE: usize = 16;
pub(super) const CHECKS_PER_INSTANCE: usize = 4;
const MAINTENANCE: &str = "_service_maintenance:";

impl Catalog {
    pub(super) fn checks_of(&self, node: &str, service: &str) -> Vec<Arc<str>> {
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
                    heard: LastSeen::never(self.epoch),
                    suspect: false,
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
            Some(check) => {
                let before = std::mem::replace(&mut check.record, record);
                if before.def.active != check.record.def.active {
                    check.begin_round(now);
                }
            }
            None => {
                let critical = record.status == Status::Critical;
                let critical_since = critical.then_some(now);
                let mut check = Check {
                    record,
                    deadline: None,
                    critical_since,
                    scheduled: None,
                    silence: Silence::begun(now),
                    round: Round::default(),
                };
                check.begin_round(now);
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
        let (told, rise) = (self.epoch.elapsed(), self.rules.rise);
        let check = self.check_mut(node_name, id).ok_or(Refused::NoSuchCheck)?;
        let ttl = check.record.def.ttl.ok_or(Refused::NoTtl)?;
        check.deadline = Some(now.saturating_add(ttl));
        check.record.heard.hear(told);
        let damped = status != Status::Critical && check.silence.is_damped(rise, now);
        if !damped && status != Status::Critical {
            check.silence.over(now);
        }
        // A record that somebody reads is copied, so only what changes is written.
        if check.record.suspect {
            Arc::make_mut(&mut check.record).suspect = false;
        }
        if let Some(output) = output.filter(|output| check.record.output != **output) {
            Arc::make_mut(&mut check.record).output = output.into();
        }
        let was_suspect = std::mem::take(&mut check.silence.kept);
        let (scheduled, id) = (check.scheduled.is_some(), check.record.def.id.clone());
        if !damped && check.record.status != status {
            self.move_to(indexes, (node_name, &id), status, now);
        } else if was_suspect {
            self.touch_feeds(node_name, &id);
        }
        if !scheduled {
            self.schedule(node_name, &id);
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

    pub(super) fn check(&self, node: &str, id: &str) -> Option<&Check> {
        self.nodes.get(node)?.checks.get(id)
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
            active: None,
        };
        self.set_check(indexes, &own, def, Duration::ZERO)
    }

    /// Tells those in this process who follow the service of the check, and nobody else: no index changes.
    fn touch_feeds(&mut self, node_name: &str, id: &str) {
        let Some(record) = self.check(node_name, id).map(|check| check.record.clone()) else {
            return;
        };
        let service = record.service.as_ref().and_then(|s| self.services.get(&s.def.name));
        self.touched.extend(service.and_then(|service| service.feed.clone()));
    }

    pub(super) fn touch_check(&mut self, indexes: &mut Indexes, node_name: &str, id: &str) {
        indexes.touch(&mut self.checks_topic);
        let Some(node) = self.nodes.get(node_name) else { return };
        let Some(check) = node.checks.get(id) else { return };
        let names = match &check.record.service {
            Some(service) => vec![service.def.name.clone()],
            None => node.names(),
        };
        self.touch(indexes, names);
    }
}
