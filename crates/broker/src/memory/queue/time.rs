//! What waits for its time.

use tokio::time::Instant;

use super::{Queue, Token, Wheel};
use crate::Failure;

impl Queue {
    /// Moves what is due to the end of the line. Deliveries that were not settled in time are over, and their messages are ready, charged, with
    /// what `late` says as their failure.
    pub(crate) fn promote(&mut self, now: Instant, late: impl Fn(u32) -> Failure) {
        let tick = self.ticks.passed(now);
        while let Some(due) = self.wheel.as_mut().and_then(|wheel| wheel.take_due(tick)) {
            // They lie all over the memory: looked at first they are fetched at the same time, and then one after the other.
            self.slots.warm(due.slots());
            due.slots().for_each(|slot| self.promote_one(slot, &late));
        }
    }

    fn promote_one(&mut self, slot: u32, late: impl Fn(u32) -> Failure) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.watch(false);
        if entry.lease == 0 {
            self.delayed -= 1;
        } else {
            entry.note(late(entry.attempts()));
            let token = Token { slot, lease: entry.lease };
            self.land(token);
            self.counts.overdue += 1;
        }
        self.line_up(slot);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.wheel.as_ref()?.next().map(|tick| self.ticks.at(tick))
    }

    pub(super) fn delay(&mut self, slot: u32, due: Instant) {
        self.watch(slot, due);
        self.delayed += 1;
    }

    pub(super) fn watch(&mut self, slot: u32, until: Instant) {
        let tick = self.ticks.due(until);
        let now = self.ticks.last;
        self.forget(slot);
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.watch(true);
        self.wheel.get_or_insert_with(|| Wheel::new(now).into()).insert(slot, tick);
    }

    /// What it waited for is of no interest any more.
    pub(super) fn forget(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot).filter(|entry| entry.is_watched()) else {
            return;
        };
        entry.watch(false);
        if let Some(wheel) = &mut self.wheel {
            wheel.remove(slot);
        }
    }

    /// What is delayed and comes next. Deliveries under way that are met on the way stay watched.
    pub(super) fn pop_delayed(&mut self) -> Option<u32> {
        if self.delayed == 0 {
            return None;
        }
        let (wheel, slots) = (self.wheel.as_mut()?, &self.slots);
        let delayed = |slot: u32| slots.get(slot).is_some_and(|e| e.lease == 0);
        let slot = wheel.pop_next(delayed)?;
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.watch(false);
        }
        self.delayed -= 1;
        Some(slot)
    }
}
