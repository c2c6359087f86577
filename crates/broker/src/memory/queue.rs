//! The queue of one group.
//!
//! ```text
//! push ──► ready ──take──► in flight ──ack───► gone
//!            ▲  ▲             │  │  └──bury──► dead letter
//!            │  └──give back──┘  │
//!            └─────delayed ◄─────┘ retry
//! ```
//!
//! Entries stay in their slots while they move; what moves is the number of the slot. Whoever takes one gets a [`Token`], which
//! is good for one delivery: settled, it is worth nothing any more. So no message can be settled twice or be in two places.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{Failure, Message};

/// Names one delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    slot: u32,
    lease: u32,
}

impl Token {
    pub(crate) const fn to_bits(self) -> u64 {
        (self.slot as u64) << 32 | self.lease as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of what was put together")]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { slot: (bits >> 32) as u32, lease: bits as u32 }
    }
}

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
    /// Which delivery is under way; 0 if none is.
    lease: u32,
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
        Self { message, size, attempts: 0, redrives, lease: 0, history: None }
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn note(&mut self, failure: Failure) {
        match &mut self.history {
            Some(history) => history.last = failure,
            None => self.history = Some(History { first: failure.clone(), last: failure }.into()),
        }
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
    /// Grows to the greatest number of messages that were held at once.
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
    /// By time, and among equals in the order of coming.
    delayed: BTreeMap<(Instant, u64), u32>,
    delayed_so_far: u64,
    last_lease: u32,
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
            capacity: capacity.min(MOST),
            max_bytes,
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            delayed_so_far: 0,
            last_lease: 0,
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

    /// Whether there is something to take.
    pub(crate) fn has_work(&self) -> bool {
        !self.stopped && !self.ready.is_empty()
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
            let Some(slot) = ready.or_else(|| Some(self.delayed.pop_first()?.1)) else { break };
            if let Some(entry) = self.vacate(slot) {
                self.counts.dropped += 1;
                dropped.push(entry);
            }
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
        let slot = self.occupy(entry);
        self.ready.push_back(slot);
    }

    /// The next message, and one attempt is counted. None are taken once the queue was stopped.
    pub(crate) fn take(&mut self) -> Option<(Token, &Entry)> {
        if self.stopped {
            return None;
        }
        let slot = self.ready.pop_front()?;
        let lease = self.next_lease();
        let entry = self.slots.get_mut(slot as usize)?.as_mut()?;
        entry.attempts += 1;
        entry.lease = lease;
        self.in_flight += 1;
        self.in_flight_bytes += entry.size;
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(entry.attempts > 1);
        Some((Token { slot, lease }, entry))
    }

    /// The message of a delivery that is under way.
    pub(crate) fn lent(&mut self, token: Token) -> Option<&mut Entry> {
        let entry = self.slots.get_mut(token.slot as usize)?.as_mut()?;
        (entry.lease == token.lease && token.lease != 0).then_some(entry)
    }

    /// Done. The entry comes back so that it is dropped outside of any lock.
    pub(crate) fn ack(&mut self, token: Token) -> Option<Entry> {
        let slot = self.land(token)?;
        self.counts.acked += 1;
        self.vacate(slot)
    }

    /// Failed, and the record of it was written elsewhere.
    pub(crate) fn bury(&mut self, token: Token) -> Option<Entry> {
        let slot = self.land(token)?;
        self.counts.dead += 1;
        self.vacate(slot)
    }

    /// Failed; the next attempt is not before `due`. False if the delivery is not under way.
    pub(crate) fn retry(&mut self, token: Token, due: Instant) -> bool {
        let Some(slot) = self.land(token) else { return false };
        self.delayed_so_far += 1;
        self.delayed.insert((due, self.delayed_so_far), slot);
        true
    }

    /// Nobody's fault: first in line again, as if it had not been delivered.
    pub(crate) fn give_back(&mut self, token: Token) -> bool {
        let Some(slot) = self.land(token) else { return false };
        if let Some(Some(entry)) = self.slots.get_mut(slot as usize) {
            entry.attempts -= 1;
        }
        self.counts.returned += 1;
        self.ready.push_front(slot);
        true
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
        let slots: Vec<_> = self.ready.drain(..).chain(delayed).collect();
        let dropped: Vec<_> = slots.into_iter().filter_map(|slot| self.vacate(slot)).collect();
        self.counts.dropped += dropped.len() as u64;
        dropped
    }

    const fn next_lease(&mut self) -> u32 {
        self.last_lease = match self.last_lease.wrapping_add(1) {
            0 => 1,
            lease => lease,
        };
        self.last_lease
    }

    #[expect(clippy::cast_possible_truncation, reason = "the capacity is bounded")]
    fn occupy(&mut self, entry: Entry) -> u32 {
        self.bytes += entry.size;
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(entry);
            return slot;
        }
        self.slots.push(Some(entry));
        (self.slots.len() - 1) as u32
    }

    fn vacate(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(slot as usize)?.take()?;
        self.bytes -= entry.size;
        self.free.push(slot);
        Some(entry)
    }

    /// The delivery is over; which slot it was.
    fn land(&mut self, token: Token) -> Option<u32> {
        let entry = self.lent(token)?;
        entry.lease = 0;
        let size = entry.size;
        self.in_flight -= 1;
        self.in_flight_bytes -= size;
        Some(token.slot)
    }
}

/// So many fit, borrowed places included, before the number of a slot would overflow.
const MOST: usize = (u32::MAX / 2) as usize;

#[cfg(test)]
mod tests;
