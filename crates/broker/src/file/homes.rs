//! Which segment has the bytes of what, so that it is known when one is not needed any more.

use std::collections::{BTreeMap, HashMap};

use crate::MessageId;

/// Something that is written whole in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Message { group: u64, serial: u64 },
    Letter(u64),
    Known(MessageId),
}

#[derive(Debug, Default)]
pub(super) struct Homes {
    /// What is written now is written here.
    now: u64,
    segments: BTreeMap<u64, Home>,
}

#[derive(Debug, Default)]
struct Home {
    /// What was written here, whether or not it is still needed. Each is a small part of what it takes in the file, and goes with it.
    keys: Vec<Key>,
    live: u64,
    bytes: u64,
}

impl Homes {
    pub(super) const fn at(&mut self, segment: u64) {
        self.now = segment;
    }

    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    /// `key` lives in `segment`, with so many bytes.
    pub(super) fn enter(&mut self, segment: u64, key: Key, bytes: u64) {
        let home = self.segments.entry(segment).or_default();
        home.keys.push(key);
        home.live += 1;
        home.bytes += bytes;
    }

    pub(super) fn leave(&mut self, segment: u64, bytes: u64) {
        let now = self.now;
        let Some(home) = self.segments.get_mut(&segment) else { return };
        home.live = home.live.saturating_sub(1);
        home.bytes = home.bytes.saturating_sub(bytes);
        if home.live == 0 {
            // The present one fills again.
            if segment == now { home.keys.clear() } else { drop(self.segments.remove(&segment)) }
        }
    }

    /// How much of what is in the segment is needed: how many, and their bytes.
    pub(super) fn live_in(&self, segment: u64) -> (u64, u64) {
        self.segments.get(&segment).map_or((0, 0), |home| (home.live, home.bytes))
    }

    pub(super) fn take_keys(&mut self, segment: u64) -> Vec<Key> {
        self.segments.get_mut(&segment).map(|h| std::mem::take(&mut h.keys)).unwrap_or_default()
    }

    pub(super) fn renumber(&mut self, ids: &HashMap<u64, u64>) {
        for key in self.segments.values_mut().flat_map(|home| &mut home.keys) {
            if let Key::Message { group, .. } = key {
                *group = *ids.get(group).unwrap_or(group);
            }
        }
    }
}
