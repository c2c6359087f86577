//! The queue of one group.
//!
//! ```text
//! push ──► ready ──take──► in flight ──ack───► gone
//!            ▲  ▲             │  │  └──bury──► dead letter
//!            │  └──give back──┘  │
//!            └─────delayed ◄─────┘ retry
//! ```
//!
//! What is in flight is held by its [`Lease`], of which there is one and which settling consumes; so no message can be
//! settled twice or be in two places.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{Failure, Message};

/// A message on its way through one group.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    /// Computed once: all bounds in bytes count it.
    size: usize,
    /// Deliveries so far, the one under way included.
    pub(crate) attempts: u32,
    /// How often an operator took it back from the dead letters.
    pub(crate) redrives: u32,
    /// Boxed, since most messages never fail.
    pub(crate) history: Option<Box<History>>,
}

/// How it failed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) first: Failure,
    pub(crate) last: Failure,
}

impl Entry {
    pub(crate) fn new(message: Arc<Message>, redrives: u32) -> Self {
        let size = message.size();
        Self { message, size, attempts: 0, redrives, history: None }
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    fn note(&mut self, failure: Failure) {
        match &mut self.history {
            Some(history) => history.last = failure,
            None => self.history = Some(History { first: failure.clone(), last: failure }.into()),
        }
    }
}

/// The right and the duty to settle one delivery.
#[derive(Debug)]
#[must_use = "a lease that is lost is a message that is lost"]
pub(crate) struct Lease(Entry);

impl Lease {
    pub(crate) const fn entry(&self) -> &Entry {
        &self.0
    }

    pub(crate) fn note(&mut self, failure: Failure) {
        self.0.note(failure);
    }
}

/// How often what happened. At any time `published + redriven = acked + dead + dropped + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) redriven: u64,
    pub(crate) delivered: u64,
    pub(crate) redelivered: u64,
    pub(crate) acked: u64,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
    pub(crate) returned: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    max_bytes: usize,
    ready: VecDeque<Entry>,
    /// By time, and among equals in the order of coming.
    delayed: BTreeMap<(Instant, u64), Entry>,
    delayed_so_far: u64,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Of all that is held: ready, delayed and in flight.
    bytes: usize,
    stopped: bool,
    pub(crate) counts: Counts,
}

impl Queue {
    pub(crate) fn new(capacity: usize, max_bytes: usize) -> Self {
        Self {
            capacity,
            max_bytes,
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            delayed_so_far: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            bytes: 0,
            stopped: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn held(&self) -> usize {
        self.ready.len() + self.delayed.len() + self.in_flight
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn has_room(&self, size: usize) -> bool {
        self.held() < self.capacity && self.bytes.saturating_add(size) <= self.max_bytes
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

    /// Drops until there is room: what would be delivered next, first.
    pub(crate) fn make_room(&mut self, size: usize) -> Vec<Entry> {
        let mut dropped = Vec::new();
        while !self.has_room(size) {
            let ready = self.ready.pop_front();
            let Some(entry) = ready.or_else(|| Some(self.delayed.pop_first()?.1)) else { break };
            self.bytes -= entry.size;
            self.counts.dropped += 1;
            dropped.push(entry);
        }
        dropped
    }

    /// The caller has asked for room before.
    pub(crate) fn push(&mut self, entry: Entry) {
        if entry.redrives == 0 {
            self.counts.published += 1;
        } else {
            self.counts.redriven += 1;
        }
        self.bytes += entry.size;
        self.ready.push_back(entry);
    }

    /// The next message, and one attempt is counted. None are taken once the queue was stopped.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Lease> {
        self.promote(now);
        if self.stopped {
            return None;
        }
        let mut entry = self.ready.pop_front()?;
        entry.attempts += 1;
        self.in_flight += 1;
        self.in_flight_bytes += entry.size;
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(entry.attempts > 1);
        Some(Lease(entry))
    }

    /// Done. The entry comes back so that it is dropped outside of any lock.
    pub(crate) fn ack(&mut self, lease: Lease) -> Entry {
        self.counts.acked += 1;
        self.release(lease)
    }

    /// Failed, and the record of it was written elsewhere.
    pub(crate) fn bury(&mut self, lease: Lease) -> Entry {
        self.counts.dead += 1;
        self.release(lease)
    }

    /// Failed; the next attempt is not before `due`.
    pub(crate) fn retry(&mut self, lease: Lease, due: Instant) {
        let entry = self.landed(lease);
        self.delayed_so_far += 1;
        self.delayed.insert((due, self.delayed_so_far), entry);
    }

    /// Nobody's fault: first in line again, as if it had not been delivered.
    pub(crate) fn give_back(&mut self, lease: Lease) {
        let mut entry = self.landed(lease);
        self.counts.returned += 1;
        entry.attempts -= 1;
        self.ready.push_front(entry);
    }

    /// Moves what is due to the end of the line; how many that were.
    pub(crate) fn promote(&mut self, now: Instant) -> usize {
        let mut promoted = 0;
        while let Some(first) = self.delayed.first_entry() {
            if first.key().0 > now {
                break;
            }
            self.ready.push_back(first.remove());
            promoted += 1;
        }
        promoted
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    pub(crate) const fn stop(&mut self) {
        self.stopped = true;
    }

    /// Takes out all that is not in flight.
    pub(crate) fn clear(&mut self) -> Vec<Entry> {
        let delayed = std::mem::take(&mut self.delayed).into_values();
        let dropped: Vec<_> = self.ready.drain(..).chain(delayed).collect();
        self.bytes = self.in_flight_bytes;
        self.counts.dropped += dropped.len() as u64;
        dropped
    }

    fn release(&mut self, lease: Lease) -> Entry {
        let entry = self.landed(lease);
        self.bytes -= entry.size;
        entry
    }

    fn landed(&mut self, lease: Lease) -> Entry {
        self.in_flight -= 1;
        self.in_flight_bytes -= lease.0.size;
        lease.0
    }
}

#[cfg(test)]
mod tests;
