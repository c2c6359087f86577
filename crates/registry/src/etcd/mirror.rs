//! What is known of one service in etcd, put together from listings and from the events of watches.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Instance, last_known};

/// The machine. Listings and events may come in any order; the result is that of the youngest.
#[derive(Debug)]
pub(super) struct Mirror {
    capacity: usize,
    /// The connection over which the last listing came. A younger one is believed even where its revision is less: etcd
    /// has lost its data then, or was restored from a backup.
    generation: u64,
    /// Everything up to this revision is contained.
    listed: i64,
    /// The greatest revision of which something is contained.
    seen: i64,
    instances: BTreeMap<Arc<str>, Arc<Instance>>,
    /// There are instances for which there is no room.
    cut: bool,
}

/// What an event says of one instance.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) id: Arc<str>,
    pub(super) revision: i64,
    /// `None` if it is gone, or what stands there is no instance.
    pub(super) instance: Option<Instance>,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Yes,
    /// It was known already.
    Known,
    /// There was no room for it.
    Cut,
    /// There is room again for what was cut off, which takes a listing.
    Room,
}

impl Mirror {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, generation: 0, listed: 0, seen: 0, instances: BTreeMap::new(), cut: false }
    }

    /// Replaces everything, unless something younger is known. `cut` says that there are more instances than these.
    pub(super) fn list(
        &mut self,
        generation: u64,
        revision: i64,
        instances: impl IntoIterator<Item = Instance>,
        cut: bool,
    ) -> bool {
        if (generation, revision) < (self.generation, self.seen) {
            return false;
        }
        (self.generation, self.listed, self.seen) = (generation, revision, revision);
        let entry = |instance: Instance| (instance.id.clone(), Arc::new(instance));
        self.instances = instances.into_iter().map(entry).collect();
        self.cut = cut;
        true
    }

    pub(super) fn apply(&mut self, generation: u64, change: Change) -> Applied {
        if generation != self.generation || change.revision <= self.listed {
            return Applied::Known;
        }
        self.seen = self.seen.max(change.revision);
        match change.instance {
            Some(instance) => {
                let full = self.instances.len() >= self.capacity;
                if full && !self.instances.contains_key(&change.id) {
                    self.cut = true;
                    return Applied::Cut;
                }
                self.instances.insert(change.id, Arc::new(instance));
                Applied::Yes
            }
            None if self.instances.remove(&change.id).is_some() && self.cut => Applied::Room,
            None => Applied::Yes,
        }
    }
}

impl last_known::Mirror for Mirror {
    /// Whether there ever was a listing.
    fn is_known(&self) -> bool {
        self.generation > 0
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
