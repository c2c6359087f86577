use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// How often a limiter said what, since it was made; not a snapshot of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that were let through, at once or after a wait.
    pub allowed: u64,
    /// Calls that were refused, for whatever reason.
    pub refused: u64,
    /// Those of the refused that would have waited, but for the bound on the number of waiters.
    pub queue_full: u64,
}

/// Counters spread over cache lines, so that threads do not wait for each other to count.
///
/// Most threads have a line to themselves, and need no atomic addition there, which would cost as much as the decision that is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Lines that belong to one thread each, as long as it lives.
    owned: [Line; Counters::OWNED],
    /// Lines for the threads that found all of those taken.
    shared: [Line; Counters::SHARED],
    queue_full: AtomicU64,
    given_back: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    allowed: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    const OWNED: usize = 16;
    const SHARED: usize = 4;

    #[inline]
    pub(crate) fn count_allowed(&self) {
        self.add(|line| &line.allowed);
    }

    #[inline]
    pub(crate) fn count_refused(&self) {
        self.add(|line| &line.refused);
    }

    #[inline]
    pub(crate) fn count(&self, allowed: bool) {
        if allowed { self.count_allowed() } else { self.count_refused() }
    }

    #[inline]
    fn add(&self, of: fn(&Line) -> &AtomicU64) {
        let number = LINE.get();
        match self.owned.get(number) {
            Some(line) => {
                let counter = of(line);
                // Nobody else writes here. The next owner of the line has got it by a lock, so it sees the last value.
                counter.store(counter.load(Relaxed) + 1, Relaxed);
            }
            None => self.count_shared(number, of),
        }
    }

    #[inline(never)]
    fn count_shared(&self, number: usize, of: fn(&Line) -> &AtomicU64) {
        if number == UNKNOWN {
            LINE.set(OWN.try_with(|own| own.0).unwrap_or(Self::OWNED));
            return self.add(of);
        }
        of(&self.shared[(number - Self::OWNED) % Self::SHARED]).fetch_add(1, Relaxed);
    }

    /// A call that was counted as allowed was refused by another limit.
    #[cold]
    pub(crate) fn count_given_back(&self) {
        self.given_back.fetch_add(1, Relaxed);
    }

    #[cold]
    pub(crate) fn count_queue_full(&self) {
        self.queue_full.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let lines = || self.owned.iter().chain(&self.shared);
        let sum =
            |of: fn(&Line) -> &AtomicU64| lines().map(|line| of(line).load(Relaxed)).sum::<u64>();
        let given_back = self.given_back.load(Relaxed);
        Stats {
            allowed: sum(|line| &line.allowed).saturating_sub(given_back),
            refused: sum(|line| &line.refused),
            queue_full: self.queue_full.load(Relaxed),
        }
    }
}

const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// The number of the line in which this thread counts; beyond those that are owned, one that is shared. Not in `OWN`: what needs no drop is read without asking whether it has been dropped.
    static LINE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWN: Own = Own::new();
}

/// A line number, given back when the thread ends.
struct Own(usize);

/// Free line numbers, one bit each.
static FREE: Mutex<u64> = Mutex::new((1 << Counters::OWNED) - 1);

impl Own {
    fn new() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if *free == 0 {
            return Self(Counters::OWNED + thread_number() as usize % Counters::SHARED);
        }
        let number = free.trailing_zeros();
        *free &= *free - 1;
        Self(number as usize)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // What still counts on this thread, while its locals are dropped, shares.
        LINE.set(Counters::OWNED);
        if self.0 < Counters::OWNED {
            *FREE.lock().unwrap_or_else(PoisonError::into_inner) |= 1 << self.0;
        }
    }
}

/// A number that no other thread of the process has.
pub(crate) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NUMBER: u64 = NEXT.fetch_add(1, Relaxed));
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Barrier, thread};

    /// The lines are those of the process; one test at a time takes them all.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn nothing_goes_uncounted_however_many_threads_come_and_go() {
        let _alone = ALONE.lock();
        const THREADS: u64 = 3 * Counters::OWNED as u64;
        let counters = Counters::default();
        for _ in 0..4 {
            let barrier = Barrier::new(THREADS as usize);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        counters.count_allowed();
                        barrier.wait();
                        for _ in 0..1_000 {
                            counters.count_allowed();
                            counters.count_refused();
                        }
                    });
                }
            });
        }
        let Stats { allowed, refused, .. } = counters.stats();
        assert_eq!((allowed, refused), (4 * THREADS * 1_001, 4 * THREADS * 1_000));
    }

    #[test]
    fn a_thread_that_ends_gives_its_line_to_another() {
        let _alone = ALONE.lock();
        let number = || thread::spawn(|| OWN.with(|own| own.0)).join().unwrap();
        assert!((0..100).all(|_| number() < Counters::OWNED));
    }

    #[test]
    fn what_is_counted_while_a_thread_ends_is_not_lost() {
        static COUNTERS: std::sync::LazyLock<Counters> =
            std::sync::LazyLock::new(Counters::default);
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                COUNTERS.count_allowed();
            }
        }
        thread_local!(static LATE: Late = const { Late });
        for _ in 0..10 {
            thread::spawn(|| {
                LATE.with(|_| ());
                COUNTERS.count_allowed();
            })
            .join()
            .unwrap();
        }
        assert_eq!(COUNTERS.stats().allowed, 20);
    }
}
