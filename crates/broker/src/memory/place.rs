use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::group::Group;

/// A place in the line of a group without room. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) group: Arc<Group>,
    pub(crate) ticket: u64,
}

impl Place {
    pub(crate) fn new(group: Arc<Group>, size: usize) -> Self {
        let ticket = group.lock().turnstile.join(size);
        Self { group, ticket }
    }

    /// Ready when it is worth while to try again.
    pub(crate) fn poll_turn(&self, cx: &Context<'_>, size: usize) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.group.lock();
        let over = state.gone || state.queue.is_stopped();
        let turn = state.has_room_for(size, Some(self.ticket));
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
