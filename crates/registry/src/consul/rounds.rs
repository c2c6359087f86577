//! When active checks are made, and what their answers come to.

use std::{sync::Arc, time::Duration};

use super::{
    active::Active,
    catalog::{Catalog, Check},
    record::Status,
    topic::Indexes,
};
use crate::hash_key;

/// One attempt.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) node: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) active: Arc<Active>,
}

/// What is known of a check that the server makes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// None while an attempt is under way, and for checks that others make.
    pub(super) next: Option<Duration>,
    /// Answers in a row.
    good: u32,
    bad: u32,
}

impl Check {
    /// The first attempt is soon, but not that of all at once.
    pub(super) fn begin_round(&mut self, now: Duration) {
        let Some(active) = &self.record.def.active else { return };
        let soon = active.interval.min(Duration::from_secs(1));
        let first = now.saturating_add(soon.mul_f64(self.chance(now)));
        self.round = Round { next: Some(first), ..Round::default() };
    }

    /// From 0 to 1, other for each check and each time.
    fn chance(&self, now: Duration) -> f64 {
        let hash = hash_key(format!("{}/{}", self.record.def.id, now.as_nanos()));
        #[allow(clippy::cast_precision_loss, reason = "one of a thousand")]
        let chance = (hash % 1_000) as f64 / 1_000.0;
        chance
    }
}

impl Catalog {
    /// Whether it is time for an attempt; then it is under way.
    pub(super) fn begin_probe(&mut self, node: &str, id: &str, now: Duration) {
        let Some(check) = self.check_mut(node, id) else { return };
        let Some(active) = check.record.def.active.clone() else { return };
        if check.round.next.is_some_and(|next| next <= now) {
            check.round.next = None;
            let (node, id) = (check.record.node.clone(), check.record.def.id.clone());
            self.probes.push(Probe { node, id, active });
        }
    }

    /// What an attempt found. That of a check that was replaced or removed meanwhile does not count.
    pub(super) fn probed(
        &mut self,
        indexes: &mut Indexes,
        probe: &Probe,
        (status, output): (Status, String),
        now: Duration,
    ) {
        let told = self.epoch.elapsed();
        let Some(check) = self.check_mut(&probe.node, &probe.id) else { return };
        let same = |active: &Arc<Active>| Arc::ptr_eq(active, &probe.active);
        if !check.record.def.active.as_ref().is_some_and(same) {
            return;
        }
        check.record.heard.hear(told);
        let round = &mut check.round;
        let counts = if status == Status::Critical {
            (round.good, round.bad) = (0, round.bad.saturating_add(1));
            round.bad >= probe.active.fall
        } else {
            (round.good, round.bad) = (round.good.saturating_add(1), 0);
            round.good >= probe.active.rise
        };
        let pause = probe.active.interval.mul_f64(0.9 + check.chance(now) / 10.0);
        check.round.next = Some(now.saturating_add(pause));
        if check.record.output != output {
            Arc::make_mut(&mut check.record).output = output;
        }
        let (changed, id) = (check.record.status != status, check.record.def.id.clone());
        if counts && changed {
            self.move_to(indexes, (&probe.node, &id), status, now);
        }
        self.schedule(&probe.node, &id);
    }

    /// An attempt ended without a word.
    pub(super) fn probe_again(&mut self, probe: &Probe, now: Duration) {
        let Some(check) = self.check_mut(&probe.node, &probe.id) else { return };
        let same = |active: &Arc<Active>| Arc::ptr_eq(active, &probe.active);
        if check.round.next.is_none() && check.record.def.active.as_ref().is_some_and(same) {
            check.begin_round(now);
            self.schedule(&probe.node, &probe.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::consul::{
        active::Ask,
        record::{CheckDef, NodeDef, ServiceDef},
        silence::Rules,
    };

    const NODE: &str = "n";

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn check(id: &str, rise: u32, fall: u32) -> CheckDef {
        let active = Active {
            ask: Ask::Tcp,
            host: "h".into(),
            port: 1,
            interval: seconds(10),
            timeout: seconds(1),
            rise,
            fall,
        };
        CheckDef {
            id: id.into(),
            name: String::new(),
            notes: String::new(),
            ttl: None,
            status: Status::Critical,
            output: String::new(),
            service: Some("s".into()),
            deregister_after: Some(seconds(60)),
            active: Some(Arc::new(active)),
        }
    }

    fn catalog() -> (Catalog, Indexes) {
        let meta = BTreeMap::new();
        let node = NodeDef { name: NODE.into(), id: String::new(), address: String::new(), meta };
        let indexes = Indexes::new(1);
        let rules = Rules { rise: 1, protect: None, probing: true };
        (Catalog::new(node, 10, rules, &indexes), indexes)
    }

    fn register(catalog: &mut Catalog, indexes: &mut Indexes, check: CheckDef, now: Duration) {
        let service = ServiceDef {
            id: "s".into(),
            name: "s".into(),
            tags: Vec::new(),
            address: String::new(),
            port: 1,
            meta: BTreeMap::new(),
            tagged_addresses: serde_json::Value::Null,
            weights: (1, 1),
            enable_tag_override: false,
        };
        let done = catalog.register(indexes, (NODE, service), (vec![check], true), now);
        assert_eq!(done, Ok(()));
    }

    fn due(catalog: &mut Catalog, indexes: &mut Indexes, now: Duration) -> Vec<Probe> {
        while catalog.tick(indexes, now) {}
        std::mem::take(&mut catalog.probes)
    }

    #[test]
    fn attempts_come_soon_and_then_at_each_interval_and_never_two_at_once() {
        let (mut catalog, mut indexes) = catalog();
        register(&mut catalog, &mut indexes, check("c", 0, 0), seconds(100));
        let probes = due(&mut catalog, &mut indexes, seconds(101));
        assert_eq!(probes.len(), 1);
        assert!(due(&mut catalog, &mut indexes, seconds(130)).is_empty(), "one is under way");
        let found = (Status::Passing, "fine".into());
        catalog.probed(&mut indexes, &probes[0], found, seconds(130));
        assert!(due(&mut catalog, &mut indexes, seconds(138)).is_empty());
        assert_eq!(due(&mut catalog, &mut indexes, seconds(140)).len(), 1);
    }

    #[test]
    fn several_answers_in_a_row_decide_as_they_do_in_consul() {
        let (mut catalog, mut indexes) = catalog();
        register(&mut catalog, &mut indexes, check("c", 2, 3), seconds(0));
        let probe = due(&mut catalog, &mut indexes, seconds(1)).remove(0);
        let mut said = String::new();
        for good in "++-++--+---+-++".chars().map(|c| c == '+') {
            let status = if good { Status::Passing } else { Status::Critical };
            catalog.probed(&mut indexes, &probe, (status, String::new()), seconds(1));
            let passing = catalog.all_checks()[0].status == Status::Passing;
            said.push(if passing { '+' } else { '-' });
        }
        assert_eq!(said, "-+++++++++----+");
    }

    #[test]
    fn a_late_answer_of_a_check_that_was_replaced_does_not_count() {
        let (mut catalog, mut indexes) = catalog();
        register(&mut catalog, &mut indexes, check("c", 0, 0), seconds(0));
        let probe = due(&mut catalog, &mut indexes, seconds(1)).remove(0);
        register(&mut catalog, &mut indexes, check("c", 0, 1), seconds(1));
        catalog.probed(&mut indexes, &probe, (Status::Passing, String::new()), seconds(2));
        assert_eq!(catalog.all_checks()[0].status, Status::Critical);
        assert_eq!(due(&mut catalog, &mut indexes, seconds(2)).len(), 1, "the new one is made");
    }

    #[test]
    fn what_is_critical_for_too_long_is_removed_and_its_answer_does_no_harm() {
        let (mut catalog, mut indexes) = catalog();
        register(&mut catalog, &mut indexes, check("c", 0, 0), seconds(0));
        for second in 1..60 {
            for probe in due(&mut catalog, &mut indexes, seconds(second)) {
                let found = (Status::Critical, String::new());
                catalog.probed(&mut indexes, &probe, found, seconds(second));
            }
            assert_eq!(catalog.instances(), 1);
        }
        let probe =
            Probe { node: NODE.into(), id: "c".into(), active: check("c", 0, 0).active.unwrap() };
        due(&mut catalog, &mut indexes, seconds(60));
        assert_eq!((catalog.instances(), catalog.timers()), (0, 0));
        catalog.probed(&mut indexes, &probe, (Status::Passing, String::new()), seconds(61));
    }
}
