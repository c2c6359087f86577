//! Numbers that all threads add to without waiting for each other.

use std::{
    cell::Cell,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Lines that belong to one thread each, as long as it lives: it needs no atomic addition there, which would cost as much as all the rest.
pub(crate) const OWNED: usize = 16;
/// Lines for the threads that found all of those taken.
const SHARED: usize = 4;
pub(crate) const LINES: usize = OWNED + SHARED;

/// Eight numbers in a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Line([AtomicU64; Line::NUMBERS]);

impl Line {
    pub(crate) const NUMBERS: usize = 8;
}

/// `8 × N` numbers, each the sum of what threads have added to lines of their own. A thread's lines are made when it first adds to them.
#[derive(Debug)]
pub(crate) struct Sums<const N: usize>([OnceLock<Box<[Line; N]>>; LINES]);

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; LINES])
    }
}

impl<const N: usize> Sums<N> {
    /// Where this thread adds.
    #[inline]
    pub(crate) fn here(&self) -> Here<'_, N> {
        let line = line();
        let made = self.0[line].get_or_init(|| {
            Box::new([const { Line([const { AtomicU64::new(0) }; Line::NUMBERS]) }; N])
        });
        Here { lines: made, owned: line < OWNED }
    }

    /// Not of one instant: what is added meanwhile may be seen or not.
    pub(crate) fn sum(&self, number: usize) -> u64 {
        self.fold(number, 0, u64::wrapping_add)
    }

    /// The sum of numbers that were added by [`Here::add_float`].
    pub(crate) fn float_sum(&self, number: usize) -> f64 {
        self.fold(number, 0.0, |sum, bits| sum + f64::from_bits(bits))
    }

    fn fold<T>(&self, number: usize, zero: T, add: impl Fn(T, u64) -> T) -> T {
        let made = self.0.iter().filter_map(OnceLock::get);
        made.fold(zero, |sum, lines| add(sum, at(lines, number).load(Relaxed)))
    }
}

#[inline]
fn at<const N: usize>(lines: &[Line; N], number: usize) -> &AtomicU64 {
    &lines[number / Line::NUMBERS].0[number % Line::NUMBERS]
}

/// The lines of the running thread, or those that it shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a, const N: usize> {
    lines: &'a [Line; N],
    owned: bool,
}

impl<const N: usize> Here<'_, N> {
    /// Adds with wrapping, so that adding `u64::MAX` takes one off.
    #[inline]
    pub(crate) fn add(self, number: usize, more: u64) {
        let sum = at(self.lines, number);
        if self.owned {
            // Nobody else writes here. The next owner of the line has got it by a lock, so it sees the last value.
            sum.store(sum.load(Relaxed).wrapping_add(more), Relaxed);
        } else {
            sum.fetch_add(more, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn add_float(self, number: usize, more: f64) {
        let sum = at(self.lines, number);
        let added = |bits| (f64::from_bits(bits) + more).to_bits();
        if self.owned {
            sum.store(added(sum.load(Relaxed)), Relaxed);
        } else {
            let _ = sum.fetch_update(Relaxed, Relaxed, |bits| Some(added(bits)));
        }
    }
}

const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// The number of this thread's line. Not in `OWN`: what needs no drop is read without asking whether it has been dropped.
    static LINE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWN: Own = Own::new();
}

/// The number of the line in which this thread counts, below [`LINES`].
#[inline]
pub(crate) fn line() -> usize {
    let number = LINE.get();
    if number < LINES { number } else { find_line() }
}

#[cold]
fn find_line() -> usize {
    let number = OWN.try_with(|own| own.0).unwrap_or(OWNED);
    LINE.set(number);
    number
}

/// A line number, given back when the thread ends.
struct Own(usize);

/// Free line numbers, one bit each, and how many threads found none.
static FREE: Mutex<(u64, usize)> = Mutex::new(((1 << OWNED) - 1, 0));

impl Own {
    fn new() -> Self {
        let (free, late) = &mut *FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if *free == 0 {
            *late = late.wrapping_add(1);
            return Self(OWNED + *late % SHARED);
        }
        let number = free.trailing_zeros();
        *free &= *free - 1;
        Self(number as usize)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // What still counts on this thread, while its locals are dropped, shares.
        LINE.set(OWNED);
        if self.0 < OWNED {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).0 |= 1 << self.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Barrier, LazyLock},
        thread,
    };

    /// The lines are those of the process; one test at a time takes them all.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn nothing_goes_uncounted_however_many_threads_come_and_go() {
        let _alone = ALONE.lock();
        const THREADS: u64 = 3 * OWNED as u64;
        let sums = Sums::<2>::default();
        for _ in 0..4 {
            let barrier = Barrier::new(THREADS as usize);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        sums.here().add(0, 1);
                        barrier.wait();
                        for _ in 0..1_000 {
                            sums.here().add(9, 1);
                            sums.here().add(9, u64::MAX);
                            sums.here().add_float(15, 0.5);
                        }
                    });
                }
            });
        }
        assert_eq!((sums.sum(0), sums.sum(9)), (4 * THREADS, 0));
        assert_eq!(sums.float_sum(15), (2_000 * THREADS) as f64);
    }

    #[test]
    fn a_thread_that_ends_gives_its_line_to_another() {
        let _alone = ALONE.lock();
        let number = || thread::spawn(line).join().unwrap();
        assert!((0..100).all(|_| number() < OWNED));
    }

    #[test]
    fn what_is_counted_while_a_thread_ends_is_not_lost() {
        static SUMS: LazyLock<Sums<1>> = LazyLock::new(Sums::default);
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                SUMS.here().add(0, 1);
            }
        }
        thread_local!(static LATE: Late = const { Late });
        for _ in 0..10 {
            thread::spawn(|| {
                LATE.with(|_| ());
                SUMS.here().add(0, 1);
            })
            .join()
            .unwrap();
        }
        assert_eq!(SUMS.sum(0), 20);
    }
}
