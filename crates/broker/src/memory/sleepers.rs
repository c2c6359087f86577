//! Workers of a group that have nothing to do. Each message that becomes ready calls one of them, first come first called;
//! whoever leaves more behind, or cannot take after all, calls the next.

use std::{collections::BTreeMap, task::Waker};

/// At most one for each worker, by the number of its place in the line.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    line: BTreeMap<u64, Waker>,
    last: u64,
}

impl Sleepers {
    /// Puts a worker to sleep, in the place that it has if it still lies there. Its place, and a waker that was replaced, to be dropped outside of the lock.
    #[must_use]
    pub(crate) fn sleep(&mut self, place: Option<u64>, waker: Waker) -> (u64, Option<Waker>) {
        if let Some(place) = place {
            if let Some(present) = self.line.get_mut(&place) {
                return (place, Some(std::mem::replace(present, waker)));
            }
        }
        self.last += 1;
        self.line.insert(self.last, waker);
        (self.last, None)
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    /// Whoever had this place sleeps no more, called or not.
    #[must_use]
    pub(crate) fn leave(&mut self, place: u64) -> Option<Waker> {
        self.line.remove(&place)
    }

    /// To be woken outside of the lock.
    #[must_use]
    pub(crate) fn call(&mut self) -> Option<Waker> {
        self.line.pop_first().map(|(_, waker)| waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_called_once_in_the_order_of_lying_down() {
        let (waker, mut sleepers) = (Waker::noop(), Sleepers::default());
        let places = [(); 3].map(|()| sleepers.sleep(None, waker.clone()).0);
        let (again, replaced) = sleepers.sleep(Some(places[0]), waker.clone());
        assert!(again == places[0] && replaced.is_some() && sleepers.len() == 3);
        assert!(sleepers.leave(places[1]).is_some() && sleepers.leave(places[1]).is_none());
        assert!(sleepers.call().is_some() && sleepers.leave(places[0]).is_none());
        let (behind, replaced) = sleepers.sleep(Some(places[0]), waker.clone());
        assert!(behind > places[2] && replaced.is_none(), "who was called lies down anew");
        assert!(sleepers.call().is_some() && sleepers.leave(places[2]).is_none());
        assert!(sleepers.call().is_some() && sleepers.call().is_none());
    }
}
