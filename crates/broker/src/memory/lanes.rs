//! Messages whose key is busy, in the order of their coming. Of each key one goes on at a time; the others wait here, so that a key that
//! fails holds up only itself.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    num::NonZeroU64,
};

/// A lane is there as long as one of its messages is on its way. So there are no more lanes than messages.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    waiting: usize,
    lanes: HashMap<NonZeroU64, VecDeque<u32>>,
}

impl Lanes {
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether `slot` may go on; else it waits here.
    pub(crate) fn enter(&mut self, lane: NonZeroU64, slot: u32) -> bool {
        match self.lanes.entry(lane) {
            // An empty line takes no memory of its own.
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(slot);
                self.waiting += 1;
                false
            }
        }
    }

    /// The one that was on its way has left; who may go on instead.
    pub(crate) fn leave(&mut self, lane: NonZeroU64) -> Option<u32> {
        let Entry::Occupied(mut busy) = self.lanes.entry(lane) else { return None };
        let Some(next) = busy.get_mut().pop_front() else {
            busy.remove();
            return None;
        };
        self.waiting -= 1;
        Some(next)
    }

    /// Somebody who waits, to be dropped: the oldest of some lane.
    pub(crate) fn pop_any(&mut self) -> Option<u32> {
        if self.waiting == 0 {
            return None;
        }
        let slot = self.lanes.values_mut().find_map(VecDeque::pop_front)?;
        self.waiting -= 1;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NonZeroU64 = NonZeroU64::MIN;
    const B: NonZeroU64 = NonZeroU64::MAX;

    #[test]
    fn of_each_key_one_goes_on_at_a_time_in_the_order_of_coming() {
        let mut lanes = Lanes::default();
        assert!(lanes.enter(A, 10) && !lanes.enter(A, 11) && !lanes.enter(A, 12));
        assert!(lanes.enter(B, 20), "another key is free");
        assert_eq!((lanes.leave(A), lanes.leave(A), lanes.leave(A)), (Some(11), Some(12), None));
        assert!(lanes.enter(A, 13), "free again");
        assert_eq!((lanes.leave(B), lanes.leave(B), lanes.waiting()), (None, None, 0));
    }

    #[test]
    fn who_waits_may_be_dropped() {
        let mut lanes = Lanes::default();
        assert!(lanes.enter(A, 10) && !lanes.enter(A, 11));
        assert_eq!((lanes.pop_any(), lanes.pop_any(), lanes.waiting()), (Some(11), None, 0));
        assert_eq!(lanes.leave(A), None);
    }
}
