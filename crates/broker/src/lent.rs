//! The guards that give back what they hold: a message to its group, a place in the line to those behind.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    Failure,
    group::Group,
    queue::{Entry, Lease},
};

/// A delivery under way. Dropped without a verdict it gives the message back, uncharged.
#[derive(Debug)]
pub(crate) struct Lent {
    group: Arc<Group>,
    /// `None` once settled.
    lease: Option<Lease>,
}

impl Lent {
    pub(crate) const fn new(group: Arc<Group>, lease: Lease) -> Self {
        Self { group, lease: Some(lease) }
    }

    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.lease.as_ref().map(Lease::entry)
    }

    pub(crate) fn note(&mut self, failure: Failure) {
        if let Some(lease) = &mut self.lease {
            lease.note(failure);
        }
    }

    pub(crate) fn ack(mut self) {
        if let Some(lease) = self.lease.take() {
            // The entry, and with it perhaps the payload's owner, is dropped here, outside of the lock.
            drop(self.group.settle(|state| state.queue.ack(lease)));
        }
    }

    pub(crate) fn bury(mut self) {
        if let Some(lease) = self.lease.take() {
            drop(self.group.settle(|state| state.queue.bury(lease)));
        }
    }

    pub(crate) fn retry_at(mut self, due: Instant) {
        let Some(lease) = self.lease.take() else { return };
        self.group.settle(|state| {
            state.queue.retry(lease, due);
            self.group.expect(due);
        });
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        self.group.settle(|state| state.queue.give_back(lease));
        self.group.call_worker();
    }
}

/// A place in the line of a group without room. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) group: Arc<Group>,
    pub(crate) ticket: u64,
}

impl Place {
    pub(crate) fn new(group: Arc<Group>) -> Self {
        let ticket = group.lock().turnstile.join();
        Self { group, ticket }
    }

    /// Ready when it is worth while to try again.
    pub(crate) fn poll_turn(&self, cx: &Context<'_>, size: usize) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.group.lock();
        let over = state.gone || state.queue.is_stopped();
        let turn = state.queue.has_room(size) && state.turnstile.admits(Some(self.ticket));
        if over || turn {
            return Poll::Ready(());
        }
        let replaced = state.turnstile.watch(self.ticket, waker);
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (own, next) = {
            let mut state = self.group.lock();
            (state.turnstile.leave(self.ticket), state.turnstile.first())
        };
        drop(own);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}
