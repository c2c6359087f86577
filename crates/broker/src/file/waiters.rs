//! Those who wait until something is written.

use std::task::{Context, Poll, Waker};

use crate::sync::{
    AtomicU64, Mutex, MutexGuard,
    Ordering::{Acquire, Relaxed, Release},
    PoisonError,
};

#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// How many events the system has got. Grows under the lock.
    written: AtomicU64,
    /// Who waits, for how many. One for each worker that has a message at hand.
    waiting: Mutex<Vec<(u64, u64, Waker)>>,
    last: AtomicU64,
}

impl Waiters {
    /// Names one who may wait.
    pub(super) fn next_id(&self) -> u64 {
        self.last.fetch_add(1, Relaxed)
    }

    pub(super) fn is_written(&self, events: u64) -> bool {
        self.written.load(Acquire) >= events
    }

    /// Ready when so many events would survive this process.
    pub(super) fn poll_written(&self, id: u64, events: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_written(events) {
            return Poll::Ready(());
        }
        // Cloned out here, since it is foreign code.
        let waker = cx.waker().clone();
        let mut waiting = self.waiting();
        if self.is_written(events) {
            return Poll::Ready(());
        }
        let old = match waiting.iter_mut().find(|(own, ..)| *own == id) {
            Some(present) => Some(std::mem::replace(present, (id, events, waker))),
            None => {
                waiting.push((id, events, waker));
                None
            }
        };
        drop(waiting);
        drop(old);
        Poll::Pending
    }

    pub(super) fn forget(&self, id: u64) {
        let mut waiting = self.waiting();
        let own = waiting.iter().position(|(own, ..)| *own == id);
        let own = own.map(|place| waiting.swap_remove(place));
        drop(waiting);
        drop(own);
    }

    /// From the one who writes.
    pub(super) fn tell(&self, written: u64) {
        let mut waiting = self.waiting();
        self.written.store(written, Release);
        let all = std::mem::take(&mut *waiting).into_iter();
        let (done, rest): (Vec<_>, Vec<_>) = all.partition(|(_, events, _)| *events <= written);
        *waiting = rest;
        drop(waiting);
        done.into_iter().for_each(|(.., waker)| waker.wake());
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, u64, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
