//! Publishers that wait for room in one group, first come first served: only the first of them may enter, so that a large
//! message is not overtaken for ever by small ones. Who comes when there is room for all of them and one more does not wait: else a group that was full
//! once would let each message in through this line, as long as the publishers are quick.

use std::{collections::VecDeque, task::Waker};

/// Tickets grow, so the line is sorted by them. Its memory is a few words for each publish that waits, which is small
/// beside the message that the waiting future owns.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    line: VecDeque<Waiting>,
    last: u64,
    /// Of all in the line together.
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    size: usize,
    waker: Option<Waker>,
}

impl Turnstile {
    /// For a message of so many bytes.
    pub(crate) fn join(&mut self, size: usize) -> u64 {
        self.last += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.line.push_back(Waiting { ticket: self.last, size, waker: None });
        self.last
    }

    /// Whether the holder of `ticket` is first in line.
    pub(crate) fn admits(&self, ticket: u64) -> bool {
        self.line.front().is_none_or(|first| first.ticket == ticket)
    }

    /// Whom to wake is noted here. The waker that it replaces comes back, to be dropped outside of the lock.
    #[must_use]
    pub(crate) fn watch(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        let place = self.place(ticket)?;
        self.line[place].waker.replace(waker)
    }

    #[must_use]
    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        let place = self.place(ticket)?;
        let left = self.line.remove(place)?;
        self.bytes = self.bytes.saturating_sub(left.size);
        left.waker
    }

    /// To be woken, outside of the lock, whenever there may be more room or the line has a new head.
    pub(crate) fn first(&mut self) -> Option<Waker> {
        self.line.front_mut()?.waker.take()
    }

    pub(crate) fn everyone(&mut self) -> Vec<Waker> {
        self.line.iter_mut().filter_map(|waiting| waiting.waker.take()).collect()
    }

    /// Bytes of all that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    fn place(&self, ticket: u64) -> Option<usize> {
        self.line.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_in_line_may_enter() {
        let mut turnstile = Turnstile::default();
        let (a, b) = (turnstile.join(7), turnstile.join(5));
        assert_eq!((turnstile.len(), turnstile.bytes()), (2, 12));
        assert!(turnstile.admits(a) && !turnstile.admits(b));
        let _ = turnstile.leave(a);
        assert!(turnstile.admits(b));
        let _ = turnstile.leave(b);
        let _ = turnstile.leave(b);
        assert_eq!((turnstile.len(), turnstile.bytes()), (0, 0));
    }
}
