use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that goes up, or up and down.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// One more until the guard is dropped.
    pub(crate) fn raise(&self) -> Raised<'_> {
        self.0.fetch_add(1, Relaxed);
        Raised(self)
    }
}

pub(crate) struct Raised<'a>(&'a Counter);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) started: Counter,
    pub(crate) resumed: Counter,
    pub(crate) completed: Counter,
    pub(crate) compensated: Counter,
    pub(crate) closed: Counter,
    pub(crate) stuck: Counter,
    pub(crate) blocked: Counter,
    pub(crate) interrupted: Counter,
    pub(crate) failed_attempts: Counter,
    pub(crate) store_errors: Counter,
    pub(crate) waiting_for_store: Counter,
}

/// How often what happened in this process, since the orchestrator was made, and what is going on now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sagas under way now.
    pub running: u64,
    /// Of these, the ones that wait because the store fails.
    pub waiting_for_store: u64,
    /// Sagas begun.
    pub started: u64,
    /// Sagas taken over from the store.
    pub resumed: u64,
    /// Sagas with all steps done.
    pub completed: u64,
    /// Sagas undone.
    pub compensated: u64,
    /// Sagas that an operator closed.
    pub closed: u64,
    /// Sagas left for an operator; one that was tried again in vain counts again.
    pub stuck: u64,
    /// Sagas found by recovery that cannot be carried on here.
    pub blocked: u64,
    /// Sagas that this process stopped working on before their end.
    pub interrupted: u64,
    /// Attempts that failed, of steps and of undos.
    pub failed_attempts: u64,
    /// Answers of the store that were failures.
    pub store_errors: u64,
}

impl Counters {
    pub(crate) fn stats(&self, running: usize) -> Stats {
        Stats {
            running: running as u64,
            waiting_for_store: self.waiting_for_store.get(),
            started: self.started.get(),
            resumed: self.resumed.get(),
            completed: self.completed.get(),
            compensated: self.compensated.get(),
            closed: self.closed.get(),
            stuck: self.stuck.get(),
            blocked: self.blocked.get(),
            interrupted: self.interrupted.get(),
            failed_attempts: self.failed_attempts.get(),
            store_errors: self.store_errors.get(),
        }
    }
}
