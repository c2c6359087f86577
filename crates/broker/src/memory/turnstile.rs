//! Publishers that wait for room in one group, first come first served: only the first may enter, so that a large
//! message is not overtaken for ever by small ones.

use std::{collections::VecDeque, task::Waker};

/// Tickets grow, so the line is sorted by them. Its memory is a few words for each publish that waits, which is small
/// beside the message that the waiting future owns.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    line: VecDeque<(u64, Option<Waker>)>,
    last: u64,
}

impl Turnstile {
    pub(crate) fn join(&mut self) -> u64 {
        self.last += 1;
        self.line.push_back((self.last, None));
        self.last
    }

    /// Whether the holder of `ticket`, or someone without one, need not let others go first.
    pub(crate) fn admits(&self, ticket: Option<u64>) -> bool {
        self.line.front().is_none_or(|(first, _)| Some(*first) == ticket)
    }

    /// Whom to wake is noted here. The waker that it replaces comes back, to be dropped outside of the lock.
    #[must_use]
    pub(crate) fn watch(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        let place = self.place(ticket)?;
        self.line[place].1.replace(waker)
    }

    #[must_use]
    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        let place = self.place(ticket)?;
        self.line.remove(place)?.1
    }

    /// To be woken, outside of the lock, whenever there may be more room or the line has a new head.
    pub(crate) fn first(&mut self) -> Option<Waker> {
        self.line.front_mut()?.1.take()
    }

    pub(crate) fn everyone(&mut self) -> Vec<Waker> {
        self.line.iter_mut().filter_map(|(_, waker)| waker.take()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    fn place(&self, ticket: u64) -> Option<usize> {
        self.line.binary_search_by_key(&ticket, |(other, _)| *other).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_in_line_may_enter() {
        let mut turnstile = Turnstile::default();
        assert!(turnstile.admits(None));
        let (a, b) = (turnstile.join(), turnstile.join());
        assert!(turnstile.admits(Some(a)) && !turnstile.admits(Some(b)) && !turnstile.admits(None));
        let _ = turnstile.leave(a);
        assert!(turnstile.admits(Some(b)));
        let _ = turnstile.leave(b);
        let _ = turnstile.leave(b);
        assert!(turnstile.admits(None) && turnstile.len() == 0);
    }
}
