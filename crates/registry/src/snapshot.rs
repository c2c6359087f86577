use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::{Health, Instance};

/// The instances of one service at one moment, sorted by id.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    instances: Box<[Arc<Instance>]>,
}

impl Snapshot {
    /// Rises with every change of the service, and with nothing else. 0 is the empty beginning.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// All instances, whatever their health.
    #[must_use]
    pub const fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// Those that can take calls.
    pub fn healthy(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter().filter(|instance| instance.health == Health::Healthy)
    }

    /// Whether the health of some is only what was last known; see [`Instance::suspect`].
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.instances.iter().any(|instance| instance.suspect)
    }

    /// The instance of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Instance>> {
        let found = self.instances.binary_search_by(|instance| (*instance.id).cmp(id));
        found.ok().map(|place| &self.instances[place])
    }
}

/// The writing end of a [`Watch`]: what an engine keeps for each service. Clones share one state.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Feed>);

struct Feed {
    service: Arc<str>,
    current: ArcSwap<Snapshot>,
    /// That of `current`, stored after it: who sees a version finds a snapshot at least as young.
    version: AtomicU64,
    changed: Arc<Notify>,
}

impl Publisher {
    /// A service without instances.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Feed {
            service: service.into(),
            current: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: Arc::default(),
        }))
    }

    /// Makes `instances` the current ones and wakes the watchers. Where nothing changed, nothing happens.
    pub fn publish(&self, instances: Vec<Arc<Instance>>) {
        self.store(instances);
        self.wake();
    }

    /// Follows what is published.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { feed: self.0.clone(), seen: self.0.current.load().version }
    }

    /// The current snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// The first half of publishing: for who holds a lock, under which no waker may run.
    pub(crate) fn store(&self, mut instances: Vec<Arc<Instance>>) {
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        instances.dedup_by(|later, earlier| later.id == earlier.id);
        let mut next = Arc::new(Snapshot { version: 0, instances: instances.into_boxed_slice() });
        loop {
            let current = self.0.current.load();
            if current.instances == next.instances {
                self.0.version.fetch_max(current.version, Release);
                return;
            }
            let version = current.version + 1;
            // Nobody else has it yet, so nothing is copied.
            Arc::make_mut(&mut next).version = version;
            let found = self.0.current.compare_and_swap(&current, next.clone());
            if Arc::ptr_eq(&found, &current) {
                self.0.version.fetch_max(version, Release);
                return;
            }
        }
    }

    /// The same for the only one who publishes, of instances that are sorted, each once, and not those of before.
    pub(crate) fn replace(&self, instances: Box<[Arc<Instance>]>) {
        let version = self.0.current.load().version + 1;
        self.0.current.store(Arc::new(Snapshot { version, instances }));
        self.0.version.store(version, Release);
    }

    /// The second half of publishing.
    pub(crate) fn wake(&self) {
        self.0.changed.notify_waiters();
    }

    /// Whether nobody else has this publisher or watches it.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("service", &self.service)
            .field("current", &self.current.load())
            .finish_non_exhaustive()
    }
}

/// Follows the instances of one service.
///
/// Reading is one atomic load, whatever the registry is doing. Changes that come faster than they are looked at become one;
/// the last state is never missed. A clone has seen what the original has seen.
#[derive(Clone, Debug)]
pub struct Watch {
    feed: Arc<Feed>,
    seen: u64,
}

impl Watch {
    /// A service whose instances are these and always will be. They count as healthy; of two with
    /// the same id one stays.
    pub fn fixed(
        service: impl Into<Arc<str>>,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Self {
        let publisher = Publisher::new(service);
        let healthy = |instance: Instance| Arc::new(instance.with_health(Health::Healthy));
        publisher.publish(instances.into_iter().map(healthy).collect());
        publisher.watch()
    }

    /// Name of the service.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.feed.service
    }

    /// The current snapshot. Looking at it does not make it count as seen.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.feed.current.load_full()
    }

    /// Waits until there is a snapshot younger than the one that this watch began with or returned last, and returns
    /// the youngest. Waits for ever once the registry is gone.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        loop {
            let changed = self.notified();
            if self.version() > self.seen {
                return self.look();
            }
            changed.await;
        }
    }

    /// The current snapshot, which counts as seen from now on.
    pub(crate) fn look(&mut self) -> Arc<Snapshot> {
        let snapshot = self.snapshot();
        self.seen = snapshot.version;
        snapshot
    }

    pub(crate) fn version(&self) -> u64 {
        self.feed.version.load(Acquire)
    }

    /// Is ready once something is published after this was called.
    pub(crate) fn notified(&self) -> OwnedNotified {
        self.feed.changed.clone().notified_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::{assert_pending, assert_ready, task};

    fn instances(ids: &str) -> Vec<Arc<Instance>> {
        let instance = |id: char| Arc::new(Instance::new("s", "h", 1).with_id(id.to_string()));
        ids.chars().map(instance).collect()
    }

    fn ids(snapshot: &Snapshot) -> String {
        snapshot.instances().iter().map(|instance| &*instance.id).collect()
    }

    #[test]
    fn a_snapshot_is_sorted_and_finds_by_id() {
        let publisher = Publisher::new("s");
        publisher.publish(instances("cab"));
        let snapshot = publisher.snapshot();
        assert_eq!(ids(&snapshot), "abc");
        assert_eq!(&*snapshot.get("b").unwrap().id, "b");
        assert!(snapshot.get("d").is_none());
    }

    #[test]
    fn changes_nobody_looked_at_become_one_and_the_last_is_not_missed() {
        let publisher = Publisher::new("s");
        let mut watch = publisher.watch();
        for ids in ["a", "ab", "b"] {
            publisher.publish(instances(ids));
        }
        let snapshot = assert_ready!(task::spawn(watch.changed()).poll());
        assert_eq!((ids(&snapshot).as_str(), snapshot.version()), ("b", 3));
        assert_pending!(task::spawn(watch.changed()).poll());
    }

    #[test]
    fn a_change_wakes_who_waits() {
        let publisher = Publisher::new("s");
        let mut watch = publisher.watch();
        let mut changed = task::spawn(watch.changed());
        assert_pending!(changed.poll());
        publisher.publish(instances("a"));
        assert!(changed.is_woken());
        assert_eq!(assert_ready!(changed.poll()).version(), 1);
    }

    #[test]
    fn publishing_the_same_again_changes_nothing() {
        let publisher = Publisher::new("s");
        publisher.publish(instances("ab"));
        let mut watch = publisher.watch();
        publisher.publish(instances("ba"));
        assert_pending!(task::spawn(watch.changed()).poll());
        assert_eq!(publisher.snapshot().version(), 1);
    }

    #[test]
    fn a_change_after_a_dropped_wait_is_returned_by_the_next() {
        let publisher = Publisher::new("s");
        let mut watch = publisher.watch();
        let mut changed = task::spawn(watch.changed());
        assert_pending!(changed.poll());
        publisher.publish(instances("a"));
        drop(changed);
        assert_ready!(task::spawn(watch.changed()).poll());
    }
}
