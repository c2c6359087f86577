//! What is known of one service, put together from answers. `now` is the time since the engine was made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::follow::Seen;
use crate::{Health, Instance, last_known};

/// The machine. Answers may come in any order; the result is that of the youngest.
///
/// A server that keeps its registry in memory comes back without it, and everybody registers again within a heartbeat. So who is missing after
/// an outage is held for a TTL, as suspect, rather than taken for gone.
#[derive(Debug)]
pub(super) struct Mirror {
    ttl: Duration,
    /// Of the youngest answer.
    breaks: u64,
    index: u64,
    known: bool,
    /// There was a failure since the last answer.
    failed: bool,
    listed: BTreeMap<Arc<str>, Arc<Instance>>,
    /// Who was healthy before an outage and has not been heard of since, and until when that is believed.
    held: BTreeMap<Arc<str>, (Arc<Instance>, Duration)>,
}

impl Mirror {
    pub(super) const fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            breaks: 0,
            index: 0,
            known: false,
            failed: false,
            listed: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Replaces what is known, unless something younger is.
    pub(super) fn list(&mut self, seen: Seen, instances: Vec<Instance>, now: Duration) {
        if !seen.reset && (seen.breaks, seen.index) < (self.breaks, self.index) {
            return;
        }
        // Behind a proxy no connection breaks when the server is another one; then only its index tells.
        let other = seen.breaks != self.breaks || seen.index < self.index;
        let outage = self.known && (self.failed || other);
        (self.breaks, self.index) = (seen.breaks, seen.index);
        (self.known, self.failed) = (true, false);
        let entry = |instance: Instance| (instance.id.clone(), Arc::new(instance));
        let listed = instances.into_iter().map(entry).collect();
        let before = std::mem::replace(&mut self.listed, listed);
        if outage {
            let healthy = before.into_values().filter(|known| known.health == Health::Healthy);
            for mut instance in healthy {
                Arc::make_mut(&mut instance).suspect = true;
                let until = now.saturating_add(self.ttl);
                self.held.insert(instance.id.clone(), (instance, until));
            }
        }
        let listed = &self.listed;
        self.held.retain(|id, (_, until)| !listed.contains_key(id) && now < *until);
    }

    /// What is heard next may be of another server.
    pub(super) const fn fail(&mut self) {
        self.failed = true;
    }

    /// Somebody took it out.
    pub(super) fn remove(&mut self, id: &str) {
        self.held.remove(id);
    }

    /// When somebody is held no longer.
    pub(super) fn next(&self) -> Option<Duration> {
        self.held.values().map(|(_, until)| *until).min()
    }
}

impl last_known::Mirror for Mirror {
    /// Whether there ever was an answer.
    fn is_known(&self) -> bool {
        self.known
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        let held = self.held.values().map(|(instance, _)| instance);
        self.listed.values().chain(held).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::last_known::Mirror as _;

    const TTL: Duration = Duration::from_secs(30);

    fn seen(breaks: u64, index: u64) -> Seen {
        Seen { breaks, index, reset: false }
    }

    fn instances(ids: &str) -> Vec<Instance> {
        let instance = |id: char| {
            Instance::new("s", "h", 1).with_id(id.to_string()).with_health(Health::Healthy)
        };
        ids.chars().map(instance).collect()
    }

    /// Ids in order; the suspect ones in capitals.
    fn shown(mirror: &Mirror) -> String {
        let mut instances = mirror.instances();
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        let id = |instance: &Arc<Instance>| {
            if instance.suspect { instance.id.to_uppercase() } else { instance.id.to_string() }
        };
        instances.iter().map(id).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_older_answer_that_comes_late_changes_nothing() {
        let mut mirror = Mirror::new(TTL);
        mirror.list(seen(0, 7), instances("ab"), at(0));
        mirror.list(seen(0, 6), instances("a"), at(0));
        assert_eq!(shown(&mirror), "ab");
        mirror.list(seen(0, 8), instances("b"), at(0));
        assert_eq!(shown(&mirror), "b");
    }

    #[test]
    fn an_index_that_fell_is_that_of_another_server_and_who_is_missing_there_is_held() {
        let mut mirror = Mirror::new(TTL);
        mirror.list(seen(0, 8), instances("b"), at(0));
        mirror.list(Seen { reset: true, ..seen(0, 2) }, instances("c"), at(1));
        assert_eq!((shown(&mirror).as_str(), mirror.next()), ("Bc", Some(at(31))));
        mirror.list(seen(0, 3), instances("c"), at(31));
        assert_eq!(shown(&mirror), "c");
    }

    #[test]
    fn who_is_missing_after_an_outage_is_held_for_a_ttl() {
        let mut mirror = Mirror::new(TTL);
        mirror.list(seen(0, 7), instances("abc"), at(0));
        mirror.list(seen(1, 2), instances("d"), at(10));
        assert_eq!((shown(&mirror).as_str(), mirror.next()), ("ABCd", Some(at(40))));
        mirror.list(seen(1, 3), instances("ad"), at(12));
        assert_eq!(shown(&mirror), "aBCd");
        mirror.remove("b");
        assert_eq!(shown(&mirror), "aCd");
        mirror.list(seen(1, 3), instances("ad"), at(40));
        assert_eq!((shown(&mirror).as_str(), mirror.next()), ("ad", None));
    }

    #[test]
    fn one_outage_after_the_other_holds_nobody_for_longer() {
        let mut mirror = Mirror::new(TTL);
        mirror.list(seen(0, 7), instances("a"), at(0));
        for n in 1..30 {
            mirror.fail();
            mirror.list(seen(n, 7), Vec::new(), at(n));
            assert_eq!(shown(&mirror), "A");
        }
        mirror.fail();
        mirror.list(seen(40, 7), Vec::new(), at(31));
        assert_eq!(shown(&mirror), "");
    }

    #[test]
    fn without_an_outage_who_is_missing_is_gone_and_so_is_who_was_not_healthy() {
        let mut mirror = Mirror::new(TTL);
        mirror.list(seen(0, 7), instances("ab"), at(0));
        mirror.list(seen(0, 8), instances("b"), at(0));
        assert_eq!(shown(&mirror), "b");
        let draining = instances("b").pop().unwrap().with_health(Health::Draining);
        mirror.list(seen(0, 9), vec![draining], at(0));
        mirror.fail();
        mirror.list(seen(0, 10), Vec::new(), at(0));
        assert_eq!(shown(&mirror), "");
    }
}
