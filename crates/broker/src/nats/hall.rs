//! Where messages and workers of one subscription meet.
//!
//! A worker that finds nothing asks; as many messages are fetched as workers ask for, and no more: what is fetched has
//! been counted as delivered by the server, so none shall lie here while nobody has time for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::keeper::Ledger;

use crate::engine::{Lease, Source};

#[derive(Debug, Default)]
pub(crate) struct Hall {
    state: Mutex<State>,
    /// What is asked for has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<(Instant, u64, Lease)>,
    /// Workers that wait for a message, or were woken for one.
    asking: usize,
    /// Those of them that wait.
    waiting: HashMap<u64, Waker>,
    /// In the order of their coming; some may wait no longer.
    line: VecDeque<u64>,
    stopped: bool,
}

/// What is wanted and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) asking: usize,
    pub(crate) ready: usize,
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn demand(&self) -> Demand {
        let state = self.lock();
        Demand { asking: state.asking, ready: state.ready.len() }
    }

    /// Waits until what is wanted may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A message is here. Given back at once if nobody will ever take it.
    pub(crate) fn bring(&self, (token, lease): (u64, Lease)) {
        let mut state = self.lock();
        if state.stopped {
            drop(state);
            drop(lease);
            return;
        }
        state.ready.push_back((Instant::now(), token, lease));
        let waker = state.first();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What came before `before` and has found nobody.
    pub(crate) fn unwanted(&self, before: Instant) -> Vec<Lease> {
        let mut state = self.lock();
        let mut unwanted = Vec::new();
        while state.ready.front().is_some_and(|(came, ..)| *came < before) {
            unwanted.extend(state.ready.pop_front().map(|(.., lease)| lease));
        }
        unwanted
    }

    /// Hands out nothing more. What was to be handed out.
    pub(crate) fn stop(&self) -> Vec<Lease> {
        let mut state = self.lock();
        state.stopped = true;
        state.asking = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        self.changed.notify_one();
        for (_, waker) in waiting {
            waker.wake();
        }
        ready.into_iter().map(|(.., lease)| lease).collect()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}

/// One worker's door to the hall.
#[derive(Debug)]
pub(crate) struct Door {
    hall: Arc<Hall>,
    id: u64,
    asking: bool,
    /// Who is told of what is taken, and how long it may take.
    limit: Option<(Arc<Ledger>, Duration)>,
}

impl Door {
    pub(crate) fn new(hall: Arc<Hall>, limit: Option<(Arc<Ledger>, Duration)>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self { hall, id: IDS.fetch_add(1, Relaxed), asking: false, limit }
    }
}

impl Source for Door {
    fn take(&mut self) -> Option<Lease> {
        let mut state = self.hall.lock();
        let (_, token, lease) = state.ready.pop_front()?;
        let own = if self.asking { state.retire(self.id) } else { None };
        drop(state);
        drop(own);
        if !std::mem::take(&mut self.asking) {
            // It was fetched for somebody else, who goes on asking.
            self.hall.changed.notify_one();
        }
        if let Some((ledger, span)) = &self.limit {
            ledger.limit(token, *span);
        }
        Some(lease)
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let waker = cx.waker().clone();
        let mut state = self.hall.lock();
        if state.stopped {
            return Poll::Ready(false);
        }
        if !state.ready.is_empty() {
            return Poll::Ready(true);
        }
        let newly = !std::mem::replace(&mut self.asking, true);
        state.asking += usize::from(newly);
        let replaced = state.waiting.insert(self.id, waker);
        if replaced.is_none() {
            state.line_up(self.id);
        }
        drop(state);
        drop(replaced);
        if newly {
            self.hall.changed.notify_one();
        }
        Poll::Pending
    }

    fn rest(&mut self) {
        if !std::mem::take(&mut self.asking) {
            return;
        }
        let mut state = self.hall.lock();
        let own = state.retire(self.id);
        let next = if state.ready.is_empty() { None } else { state.first() };
        drop(state);
        drop(own);
        if let Some(waker) = next {
            waker.wake();
        }
        self.hall.changed.notify_one();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.rest();
    }
}

impl State {
    /// This worker asks no longer; its waker, to be dropped outside of the lock.
    fn retire(&mut self, id: u64) -> Option<Waker> {
        self.asking = self.asking.saturating_sub(1);
        self.waiting.remove(&id)
    }

    /// Who has waited longest, and waits no longer.
    fn first(&mut self) -> Option<Waker> {
        loop {
            let id = self.line.pop_front()?;
            if let Some(waker) = self.waiting.remove(&id) {
                return Some(waker);
            }
        }
    }

    fn line_up(&mut self, id: u64) {
        // Whoever gave up left a place in the line behind, and lining up again would be another.
        if self.line.len() > 2 * self.waiting.len() + 16 {
            let mut seen = HashSet::new();
            let waiting = &self.waiting;
            self.line
                .retain(|other| *other != id && waiting.contains_key(other) && seen.insert(*other));
        }
        self.line.push_back(id);
    }
}

#[cfg(test)]
mod tests;
