//! Indexes, and who waits for them to change.

use std::sync::Arc;

use tokio::sync::{Notify, futures::OwnedNotified};

/// Something that can be waited for. Its index rises with each change of it, is never 0 and never falls.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) index: u64,
    changed: Arc<Notify>,
}

impl Topic {
    pub(super) fn new(index: u64) -> Self {
        Self { index, changed: Arc::default() }
    }

    /// Whether nobody waits for it.
    pub(super) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.changed) == 1
    }

    /// Is ready once the topic is changed after this was called.
    pub(super) fn changed(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }
}

/// The source of all indexes of a server.
#[derive(Debug)]
pub(super) struct Indexes {
    last: u64,
    /// Topics that changed, to be woken once no lock is held.
    wakes: Vec<Arc<Notify>>,
}

impl Indexes {
    pub(super) const fn new(base: u64) -> Self {
        Self { last: base, wakes: Vec::new() }
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// The next index will be higher than this.
    #[cfg(feature = "file")]
    pub(super) fn raise(&mut self, to: u64) {
        self.last = self.last.max(to);
    }

    /// A new index, for one change.
    pub(super) const fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn touch(&mut self, topic: &mut Topic) {
        topic.index = self.last;
        self.wakes.push(topic.changed.clone());
    }

    pub(super) fn take_wakes(&mut self) -> Wakes {
        Wakes(std::mem::take(&mut self.wakes))
    }
}

/// To be used when the lock is given back.
#[must_use]
pub(super) struct Wakes(Vec<Arc<Notify>>);

impl Wakes {
    pub(super) fn wake(self) {
        for topic in self.0 {
            topic.notify_waiters();
        }
    }
}
