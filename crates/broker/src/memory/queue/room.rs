//! What is held against the bounds.

use super::{Entry, Queue};

impl Queue {
    pub(crate) fn has_room(&self, size: usize) -> bool {
        self.held() < self.capacity && self.bytes.saturating_add(size) <= self.max_bytes
    }

    /// Beside so many others of so many bytes together, which are yet to come.
    pub(crate) fn has_room_beside(&self, others: usize, bytes: usize, size: usize) -> bool {
        self.held().saturating_add(others) < self.capacity
            && self.bytes.saturating_add(bytes).saturating_add(size) <= self.max_bytes
    }

    /// As if everything in flight were acknowledged already. The bound is then capacity plus what is in flight, which
    /// the concurrency of the subscriptions bounds.
    pub(crate) fn has_room_to_borrow(&self, size: usize) -> bool {
        self.held() - self.in_flight < self.capacity
            && (self.bytes - self.in_flight_bytes).saturating_add(size) <= self.max_bytes
    }

    /// Whether dropping what is not in flight would make room.
    pub(crate) fn can_make_room(&self, size: usize) -> bool {
        self.in_flight < self.capacity
            && self.in_flight_bytes.saturating_add(size) <= self.max_bytes
    }

    /// Drops until there is room: what would be delivered next, first; what is of high priority after what is not.
    pub(crate) fn make_room(&mut self, size: usize) -> Vec<Entry> {
        let mut dropped = Vec::new();
        while !self.has_room(size) {
            let Some(slot) = self
                .ready
                .pop_least()
                .or_else(|| self.pop_delayed())
                .or_else(|| self.lanes.pop_any())
            else {
                break;
            };
            if let Some(entry) = self.vacate(slot) {
                self.counts.dropped += 1;
                dropped.push(entry);
            }
        }
        dropped
    }

    /// Takes out all that is not in flight.
    pub(crate) fn clear(&mut self) -> Vec<Entry> {
        let early = self.early.take().unwrap_or_default();
        let mut dropped: Vec<_> =
            early.into_iter().filter_map(|(slot, _)| self.vacate(slot)).collect();
        while let Some(slot) =
            self.ready.pop().or_else(|| self.pop_delayed()).or_else(|| self.lanes.pop_any())
        {
            dropped.extend(self.vacate(slot));
        }
        self.counts.dropped += dropped.len() as u64;
        dropped
    }
}
