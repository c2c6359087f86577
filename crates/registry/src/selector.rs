use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{Health, Instance, Snapshot, Watch};

/// Which instances of a service are wanted. What is not said does not matter.
///
/// ```
/// use gusset_registry::{Instance, Selector, Watch};
///
/// let one = Instance::new("cart", "10.0.0.7", 80).with_tag("blue").with_zone("eu-1");
/// let two = Instance::new("cart", "10.0.0.8", 80).with_tag("blue").with_zone("eu-2");
/// let cart = Watch::fixed("cart", [one, two]);
///
/// let near = cart.snapshot().select(&Selector::new().healthy().tag("blue").near("eu-2"));
/// assert_eq!(near[0].host, "10.0.0.8");
/// assert_eq!(near.len(), 2, "the others come after those that are near");
/// assert_eq!(cart.snapshot().select(&Selector::new().zone("eu-1")).len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    healthy: bool,
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    version: Option<String>,
    zone: Option<String>,
    near: Option<String>,
}

impl Selector {
    /// All instances.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those that can take calls (Consul's `passing`).
    #[must_use]
    pub const fn healthy(mut self) -> Self {
        self.healthy = true;
        self
    }

    /// Only those with this tag, and with those named before.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.insert(tag.into());
        self
    }

    /// Only those with this entry in their metadata, and with those named before.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Only those of this version.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Only those in this zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Those in this zone first, the others after them (Consul's `near`).
    #[must_use]
    pub fn near(mut self, zone: impl Into<String>) -> Self {
        self.near = Some(zone.into());
        self
    }

    /// Whether the instance is one of those.
    #[must_use]
    pub fn matches(&self, instance: &Instance) -> bool {
        let same =
            |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        (!self.healthy || instance.health == Health::Healthy)
            && same(&self.version, &instance.version)
            && same(&self.zone, &instance.zone)
            && self.tags.is_subset(&instance.tags)
            && self.metadata.iter().all(|(key, value)| instance.metadata.get(key) == Some(value))
    }
}

impl Snapshot {
    /// Those that `selector` wants, sorted by id, or first by nearness and then by id.
    #[must_use]
    pub fn select(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        let wanted = self.instances().iter().filter(|instance| selector.matches(instance));
        let mut selected: Vec<_> = wanted.cloned().collect();
        if selector.near.is_some() {
            selected.sort_by_key(|instance| instance.zone != selector.near);
        }
        selected
    }
}

/// Follows those instances of a service that a [`Selector`] wants. Made by [`Watch::select`].
#[derive(Clone, Debug)]
pub struct Selection {
    watch: Watch,
    selector: Selector,
    seen: Vec<Arc<Instance>>,
}

impl Watch {
    /// Follows only those instances that `selector` wants.
    #[must_use]
    pub fn select(self, selector: Selector) -> Selection {
        let mut watch = self;
        let seen = watch.look().select(&selector);
        Selection { watch, selector, seen }
    }
}

impl Selection {
    /// Those there are now. Looking at them does not make them count as seen.
    #[must_use]
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.watch.snapshot().select(&self.selector)
    }

    /// Waits until they are others than those that this began with or returned last, and returns them. Changes of instances
    /// that are not selected do not count. Waits for ever once the registry is gone.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Vec<Arc<Instance>> {
        loop {
            let selected = self.watch.changed().await.select(&self.selector);
            if selected != self.seen {
                self.seen.clone_from(&selected);
                return selected;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::Publisher;

    fn instances() -> Vec<Arc<Instance>> {
        let instance = |id: &str| Instance::new("s", "h", 1).with_id(id);
        vec![
            Arc::new(instance("a").with_tag("x").with_tag("y").with_zone("far")),
            Arc::new(instance("b").with_tag("x").with_zone("near").with_metadata("k", "v")),
            Arc::new(instance("c").with_version("2").with_health(Health::Healthy)),
        ]
    }

    fn ids(selected: &[Arc<Instance>]) -> String {
        selected.iter().map(|instance| &*instance.id).collect()
    }

    #[test]
    fn each_condition_selects_and_all_have_to_hold() {
        let publisher = Publisher::new("s");
        publisher.publish(instances());
        let snapshot = publisher.snapshot();
        for (selector, wanted) in [
            (Selector::new(), "abc"),
            (Selector::new().healthy(), "c"),
            (Selector::new().tag("x"), "ab"),
            (Selector::new().tag("x").tag("y"), "a"),
            (Selector::new().metadata("k", "v"), "b"),
            (Selector::new().metadata("k", "w"), ""),
            (Selector::new().version("2"), "c"),
            (Selector::new().zone("far"), "a"),
            (Selector::new().near("near"), "bac"),
            (Selector::new().tag("x").near("nowhere"), "ab"),
            (Selector::new().tag("x").version("2"), ""),
        ] {
            assert_eq!(ids(&snapshot.select(&selector)), wanted, "{selector:?}");
        }
    }

    #[test]
    fn a_change_of_what_is_not_selected_wakes_nobody() {
        let publisher = Publisher::new("s");
        publisher.publish(instances());
        let mut selection = publisher.watch().select(Selector::new().tag("x"));
        publisher.publish(instances()[..2].to_vec());
        assert_pending!(task::spawn(selection.changed()).poll());
        publisher.publish(instances()[1..].to_vec());
        assert_eq!(ids(&selection.instances()), "b");
        assert_eq!(ids(&assert_ready!(task::spawn(selection.changed()).poll())), "b");
        assert_pending!(task::spawn(selection.changed()).poll());
    }

    #[test]
    fn a_change_between_the_watch_and_its_selection_is_not_missed() {
        let publisher = Publisher::new("s");
        let watch = publisher.watch();
        publisher.publish(instances());
        let mut selection = watch.select(Selector::new().tag("x"));
        assert_eq!(ids(&selection.instances()), "ab");
        assert_pending!(task::spawn(selection.changed()).poll(), "it began with these");
    }
}
