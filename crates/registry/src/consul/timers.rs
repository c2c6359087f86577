//! Which check has to be looked at when.
//!
//! Lazy: a heartbeat moves the deadline of its check and leaves the timers alone; when the timer comes up, it
//! is put back if the deadline has moved. So a heartbeat costs one look-up, whatever the number of checks.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use super::{
    catalog::{Catalog, Check},
    topic::Indexes,
};

/// Node and id of the check.
type Timer = (Duration, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<Timer>>);

/// How many timers are looked at under one lock, so that heartbeats do not wait for long.
const AT_ONCE: usize = 1_024;

impl Check {
    /// When something happens to it if nothing is heard.
    fn due(&self) -> Option<Duration> {
        let after = self.record.def.deregister_after.filter(|_| self.record.service.is_some());
        let judged = match self.critical_since {
            // While it is heard of again, and not yet believed, it stays.
            Some(since) if self.silence.is_heard_of() => {
                after.and_then(|after| self.deadline.max(Some(since.saturating_add(after))))
            }
            Some(since) => after.map(|after| since.saturating_add(after)),
            None => self.deadline,
        };
        judged.into_iter().chain(self.round.next).min()
    }
}

impl Catalog {
    /// Sees to it that the check is looked at in time.
    pub(super) fn schedule(&mut self, node: &str, id: &Arc<str>) {
        let Some(check) = self.check_mut(node, id) else { return };
        let Some(due) = check.due() else { return };
        // What comes up too early is put back; only what would come up late needs another timer.
        if check.scheduled.is_none_or(|scheduled| due < scheduled) {
            check.scheduled = Some(due);
            let timer = (due, check.record.node.clone(), id.clone());
            self.timers.0.push(Reverse(timer));
            if self.timers.0.len() > 3 * self.checks + 64 {
                self.clean_timers();
            }
        }
    }

    /// Who registers and deregisters again and again, with a TTL of days, would leave a timer each time.
    fn clean_timers(&mut self) {
        let mut timers = std::mem::take(&mut self.timers.0);
        timers.retain(|Reverse((at, node, id))| {
            self.check(node, id).is_some_and(|check| check.scheduled == Some(*at))
        });
        self.timers.0 = timers;
    }

    /// Does what is due, but not too much at once. Says whether there is more.
    pub(super) fn tick(&mut self, indexes: &mut Indexes, now: Duration) -> bool {
        for _ in 0..AT_ONCE {
            if self.timers.0.peek().is_none_or(|Reverse((at, ..))| *at > now) {
                return false;
            }
            if let Some(Reverse((at, node, id))) = self.timers.0.pop() {
                self.look(indexes, (at, &node, &id), now);
            }
        }
        true
    }

    fn look(
        &mut self,
        indexes: &mut Indexes,
        (at, node, id): (Duration, &Arc<str>, &Arc<str>),
        now: Duration,
    ) {
        let Some(check) = self.check_mut(node, id) else { return };
        // One that was replaced by an earlier one, or is of a check of the same name that is gone.
        if check.scheduled != Some(at) {
            return;
        }
        check.scheduled = None;
        if check.due().is_none_or(|due| due > now) {
            self.schedule(node, id);
            return;
        }
        let is_probe = check.round.next.is_some_and(|next| next <= now);
        if is_probe {
            self.begin_probe(node, id, now);
            // It may be due for something else as well.
            self.schedule(node, id);
            return;
        }
        if check.critical_since.is_some() {
            if let Some(service) = check.record.def.service.clone() {
                let _ = self.deregister(indexes, node, &service);
                tracing::info!(
                    service = &*service,
                    check = &**id,
                    "critical for too long, removed"
                );
            }
            return;
        }
        self.fell_silent(indexes, (node, id), now);
    }

    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.timers.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::consul::{
        record::{CheckDef, NodeDef, ServiceDef, Status},
        silence::Rules,
    };

    const NODE: &str = "n";

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn catalog(instances: usize) -> (Catalog, Indexes) {
        let node = NodeDef {
            name: NODE.into(),
            id: String::new(),
            address: String::new(),
            meta: BTreeMap::new(),
        };
        let mut indexes = Indexes::new(1);
        let rules = Rules { rise: 1, protect: None, probing: true };
        let mut catalog = Catalog::new(node, instances, rules, &indexes);
        for n in 0..instances {
            let id: Arc<str> = n.to_string().into();
            let service = ServiceDef {
                id: id.clone(),
                name: "s".into(),
                tags: Vec::new(),
                address: String::new(),
                port: 1,
                meta: BTreeMap::new(),
                tagged_addresses: serde_json::Value::Null,
                weights: (1, 1),
                enable_tag_override: false,
            };
            let check = CheckDef {
                id: id.clone(),
                name: String::new(),
                notes: String::new(),
                ttl: Some(seconds(30)),
                status: Status::Passing,
                output: String::new(),
                service: Some(id),
                deregister_after: Some(seconds(60)),
                active: None,
            };
            let done = catalog.register(
                &mut indexes,
                (NODE, service),
                (vec![check], true),
                Duration::ZERO,
            );
            assert_eq!(done, Ok(()));
        }
        (catalog, indexes)
    }

    fn tell(catalog: &mut Catalog, indexes: &mut Indexes, status: Status, now: Duration) {
        for n in 0..catalog.instances() {
            let told = catalog.set_status(indexes, (NODE, &n.to_string()), (status, None), now);
            assert_eq!(told, Ok(()));
            let _ = indexes.take_wakes();
        }
    }

    #[test]
    fn heartbeats_and_flapping_leave_one_or_two_timers_a_check() {
        let (mut catalog, mut indexes) = catalog(100);
        for second in 0..600 {
            let status = if second % 3 == 0 { Status::Critical } else { Status::Passing };
            tell(&mut catalog, &mut indexes, status, seconds(second));
            while catalog.tick(&mut indexes, seconds(second)) {}
            assert!(catalog.timers() <= 200, "{}", catalog.timers());
        }
        assert_eq!(catalog.instances(), 100);
    }

    #[test]
    fn checks_that_come_and_go_leave_no_timers_behind_and_no_living_one_loses_its_own() {
        let (mut catalog, mut indexes) = catalog(10);
        let def = catalog.all_checks()[0].def.clone();
        for second in 0..10_000 {
            let id: Arc<str> = format!("passing-{second}").into();
            let ttl = Some(seconds(1_000_000));
            let short = CheckDef { id: id.clone(), ttl, ..def.clone() };
            let added = catalog.add_check(&mut indexes, NODE, short, seconds(1));
            assert_eq!(added, Ok(()));
            assert_eq!(catalog.remove_check(&mut indexes, NODE, &id), Ok(()));
            let _ = indexes.take_wakes();
        }
        assert!(catalog.timers() <= 100, "{}", catalog.timers());
        while catalog.tick(&mut indexes, seconds(90)) {}
        while catalog.tick(&mut indexes, seconds(90)) {}
        assert_eq!(catalog.instances(), 10, "critical since then");
        while catalog.tick(&mut indexes, seconds(150)) {}
        assert_eq!(catalog.instances(), 0);
    }

    #[test]
    fn all_that_is_due_is_done_though_not_at_once() {
        let (mut catalog, mut indexes) = catalog(5_000);
        let mut looks = 1;
        while catalog.tick(&mut indexes, seconds(30)) {
            looks += 1;
        }
        assert_eq!(looks, 5);
        let critical = |catalog: &Catalog| {
            let checks = catalog.all_checks();
            checks.iter().filter(|check| check.status == Status::Critical).count()
        };
        assert_eq!(critical(&catalog), 5_000);
        while catalog.tick(&mut indexes, seconds(89)) {}
        assert_eq!(catalog.instances(), 5_000);
        while catalog.tick(&mut indexes, seconds(90)) {}
        assert_eq!((catalog.instances(), catalog.timers()), (0, 0));
    }
}
