//! Workers of a group that have nothing to do. Each message that becomes ready calls one of them, first come first called;
//! whoever leaves more behind, or cannot take after all, calls the next.

use std::{collections::VecDeque, task::Waker};

/// At most one for each worker, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    line: VecDeque<(u64, Waker)>,
}

impl Sleepers {
    /// Puts `worker` to sleep. A waker that it replaces comes back, to be dropped outside of the lock.
    #[must_use]
    pub(crate) fn sleep(&mut self, worker: u64, waker: Waker) -> Option<Waker> {
        match self.line.iter_mut().find(|(other, _)| *other == worker) {
            Some((_, present)) => Some(std::mem::replace(present, waker)),
            None => {
                self.line.push_back((worker, waker));
                None
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    /// It sleeps no more, called or not.
    #[must_use]
    pub(crate) fn leave(&mut self, worker: u64) -> Option<Waker> {
        let place = self.line.iter().position(|(other, _)| *other == worker)?;
        self.line.remove(place).map(|(_, waker)| waker)
    }

    /// To be woken outside of the lock.
    #[must_use]
    pub(crate) fn call(&mut self) -> Option<Waker> {
        self.line.pop_front().map(|(_, waker)| waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_called_once_in_the_order_of_lying_down() {
        let (waker, mut sleepers) = (Waker::noop(), Sleepers::default());
        for worker in [1, 2, 3, 1] {
            let replaced = sleepers.sleep(worker, waker.clone());
            assert_eq!(replaced.is_some(), worker == 1 && sleepers.line.len() == 3);
        }
        assert!(sleepers.leave(2).is_some() && sleepers.leave(2).is_none());
        assert!(sleepers.call().is_some() && sleepers.leave(1).is_none());
        assert!(sleepers.call().is_some() && sleepers.call().is_none());
    }
}
