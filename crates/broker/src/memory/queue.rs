//! The queue of one group.
//!
//! ```text
//!           ┌──────► lane ◄─┐ its key is busy
//! push ─────┼──► ready ─────┴─take──► in flight ──ack───► gone
//!           │     ▲  ▲                  │  │ │└──bury──► dead letter
//!           │     │  └────give back─────┘  │ └───expire──► gone
//!           └► delayed ◄────────retry──────┘
//! ```
//!
//! Entries stay in their slots while they move; what moves is the number of the slot. Whoever takes one gets a [`Token`], which
//! is good for one delivery: settled, it is worth nothing any more. So no message can be settled twice or be in two places.

mod counts;
mod room;
mod time;

use std::time::SystemTime;

use tokio::time::Instant;

pub(crate) use self::counts::Counts;
pub(crate) use super::entry::{Entry, History, Token};
use super::{lanes::Lanes, line::Line, slots::Slots, ticks::Ticks, wheel::Wheel};

#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    max_bytes: usize,
    slots: Slots,
    ready: Line,
    lanes: Lanes,
    ticks: Ticks,
    /// What is delayed, and deliveries that must be settled in time. Made once it is needed.
    wheel: Option<Box<Wheel>>,
    delayed: usize,
    last_lease: u32,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Of all that is held: ready, delayed, in lanes and in flight.
    bytes: usize,
    stopped: bool,
    /// What came in while those who come before it are still on their way.
    early: Option<Vec<(u32, Option<Instant>)>>,
    pub(crate) counts: Counts,
}

impl Queue {
    pub(crate) fn new(capacity: usize, max_bytes: usize, now: Instant) -> Self {
        Self {
            capacity: capacity.min(MOST),
            max_bytes,
            slots: Slots::default(),
            ready: Line::default(),
            lanes: Lanes::default(),
            ticks: Ticks::since(now),
            wheel: None,
            delayed: 0,
            last_lease: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            bytes: 0,
            stopped: false,
            early: None,
            counts: Counts::default(),
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// When the older of those that are next in line, one of each priority, could first have been delivered. By the wall clock.
    pub(crate) fn oldest_ready(&self) -> Option<SystemTime> {
        let fronts = self.ready.fronts();
        let messages = fronts.filter_map(|slot| Some(&self.slots.get(slot)?.message));
        messages.filter_map(|m| m.published_at().checked_add(m.delay().unwrap_or_default())).min()
    }

    /// Whether there is something to take.
    pub(crate) fn has_work(&self) -> bool {
        !self.stopped && self.ready.len() > 0
    }

    pub(crate) const fn delayed(&self) -> usize {
        self.delayed
    }

    /// Messages that wait for an earlier one with the same key.
    pub(crate) const fn in_lanes(&self) -> usize {
        self.lanes.waiting()
    }

    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn held(&self) -> usize {
        self.slots.held()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The caller has asked for room before. With `due`, it is delivered no sooner.
    pub(crate) fn push(&mut self, entry: Entry, due: Option<Instant>) {
        if entry.redrives() == 0 {
            self.counts.published += 1;
        } else {
            self.counts.redriven += 1;
        }
        let slot = self.occupy(entry);
        match &mut self.early {
            Some(early) => early.push((slot, due)),
            None => self.arrange(slot, due),
        }
    }

    /// What is pushed from now on waits for the [past](Self::push_past).
    pub(crate) fn await_past(&mut self) {
        self.early = Some(Vec::new());
    }

    /// The past is there, oldest first; what was pushed meanwhile follows it.
    pub(crate) fn push_past(&mut self, past: Vec<(Entry, Option<Instant>)>) {
        let early = self.early.take().unwrap_or_default();
        past.into_iter().for_each(|(entry, due)| self.push(entry, due));
        early.into_iter().for_each(|(slot, due)| self.arrange(slot, due));
    }

    fn arrange(&mut self, slot: u32, due: Option<Instant>) {
        match due {
            Some(due) => self.delay(slot, due),
            None => self.line_up(slot),
        }
    }

    /// The next message, and one attempt is counted. None are taken once the queue was stopped. With `until`, the delivery is over then.
    pub(crate) fn take(&mut self, until: Option<Instant>) -> Option<(Token, &Entry)> {
        if self.stopped {
            return None;
        }
        let slot = self.ready.pop()?;
        self.lend(slot, until)
    }

    /// One that is next in line and was of use only until `now`, as if it were delivered, and its attempt.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Option<(Token, u32)> {
        let over = |slot: &u32| {
            let expires = self.slots.get(*slot).and_then(Entry::expires);
            expires.is_some_and(|expires| expires <= now)
        };
        let slot = self.ready.fronts().find(over).filter(|_| !self.stopped)?;
        self.ready.pop_this(slot);
        let (token, entry) = self.lend(slot, None)?;
        Some((token, entry.attempts()))
    }

    fn lend(&mut self, slot: u32, until: Option<Instant>) -> Option<(Token, &Entry)> {
        if let Some(until) = until {
            self.watch(slot, until);
        }
        let lease = self.next_lease();
        let entry = self.slots.get_mut(slot)?;
        entry.charge();
        entry.lease = lease;
        self.in_flight += 1;
        self.in_flight_bytes += entry.size();
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(entry.attempts() > 1);
        Some((Token { slot, lease }, entry))
    }

    /// So many will be taken now.
    pub(crate) fn warm(&self, most: usize) {
        self.slots.warm_through(self.ready.next(most));
    }

    /// The message of a delivery that is under way.
    pub(crate) fn lent(&mut self, token: Token) -> Option<&mut Entry> {
        let entry = self.slots.get_mut(token.slot)?;
        (entry.lease == token.lease && token.lease != 0).then_some(entry)
    }

    /// The delivery is over at `until` instead of earlier. False if it is not under way.
    pub(crate) fn extend(&mut self, token: Token, until: Instant) -> bool {
        let known = self.lent(token).is_some();
        if known {
            self.watch(token.slot, until);
        }
        known
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

    /// Its time to live was over.
    pub(crate) fn expire(&mut self, token: Token) -> Option<Entry> {
        let slot = self.land(token)?;
        self.counts.expired += 1;
        self.vacate(slot)
    }

    /// It was taken and no handler was asked, which is no delivery.
    pub(crate) fn undeliver(&mut self, token: Token) {
        let Some(entry) = self.lent(token) else { return };
        let again = entry.attempts() > 1;
        entry.uncharge();
        self.counts.delivered -= 1;
        self.counts.redelivered -= u64::from(again);
    }

    /// Failed; the next attempt is not before `due`. False if the delivery is not under way.
    pub(crate) fn retry(&mut self, token: Token, due: Instant) -> bool {
        let Some(slot) = self.land(token) else { return false };
        self.delay(slot, due);
        true
    }

    /// Nobody's fault: first in line again, as if it had not been delivered.
    pub(crate) fn give_back(&mut self, token: Token) -> bool {
        let Some(slot) = self.land(token) else { return false };
        let Some(entry) = self.slots.get_mut(slot) else { return false };
        entry.uncharge();
        let priority = entry.priority();
        self.counts.returned += 1;
        self.ready.put_back(slot, priority);
        true
    }

    /// It was taken and nobody has seen it: as if it had not been.
    pub(crate) fn put_back(&mut self, token: Token) {
        self.undeliver(token);
        let Some(slot) = self.land(token) else { return };
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let priority = entry.priority();
        self.ready.put_back(slot, priority);
    }

    pub(crate) const fn stop(&mut self) {
        self.stopped = true;
    }

    /// To the end of the line, or of its lane if that is busy.
    fn line_up(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if let (Some(lane), false) = (entry.lane(), entry.leads()) {
            if !self.lanes.enter(lane, slot) {
                return;
            }
            entry.lead();
        }
        self.ready.push(slot, entry.priority());
    }

    fn occupy(&mut self, entry: Entry) -> u32 {
        self.bytes += entry.size();
        self.slots.put(entry)
    }

    const fn next_lease(&mut self) -> u32 {
        self.last_lease = match self.last_lease.wrapping_add(1) {
            0 => 1,
            lease => lease,
        };
        self.last_lease
    }

    /// The slot is free, and the next of its lane may go on.
    fn vacate(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.take(slot)?;
        self.bytes -= entry.size();
        if let (Some(lane), true) = (entry.lane(), entry.leads()) {
            if let Some(next) = self.lanes.leave(lane) {
                if let Some(entry) = self.slots.get_mut(next) {
                    entry.lead();
                }
                self.line_up(next);
            }
        }
        Some(entry)
    }

    /// The delivery has no time limit any more. False if it is not under way.
    pub(crate) fn hold(&mut self, token: Token) -> bool {
        let known = self.lent(token).is_some();
        if known {
            self.forget(token.slot);
        }
        known
    }

    /// The delivery is over; which slot it was.
    fn land(&mut self, token: Token) -> Option<u32> {
        let entry = self.lent(token)?;
        entry.lease = 0;
        let (size, watched) = (entry.size(), entry.is_watched());
        self.in_flight -= 1;
        self.in_flight_bytes -= size;
        if watched {
            self.forget(token.slot);
        }
        Some(token.slot)
    }
}

/// So many fit, borrowed places included, before the number of a slot would overflow.
const MOST: usize = (u32::MAX / 2) as usize;

#[cfg(test)]
mod tests;
