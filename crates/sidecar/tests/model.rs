//! The budget of retries under every order in which threads can take turns, and under weak memory (loom).
//!
//! The file of the machine is compiled here once more, with loom's atomics in place of std's. loom knows no order over several places in memory
//! (`SeqCst`), so retries of two different steps of a window are not looked at together here.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/retry/budget/window.rs"]
mod window;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

mod metrics {
    pub(crate) mod lines {
        /// One thread has lines of its own, the others share some.
        pub(crate) const OWNED: usize = 1;
        pub(crate) const LINES: usize = 2;

        /// loom's threads are all one thread of the system; the first is the one that a model begins with.
        pub(crate) fn line() -> usize {
            usize::from(format!("{:?}", loom::thread::current().id()) != "ThreadId(0)")
        }
    }
}

use std::time::Duration;

use gusset_call::Ratio;
use loom::{model, sync::Arc, thread};

use self::window::Window;

const SECOND: u64 = 1_000_000_000;

fn window(percent: u32) -> Arc<Window> {
    Arc::new(Window::new(Ratio::percent(percent), 0, Duration::from_secs(10)))
}

/// What two threads do to one window at once.
fn both<A: 'static, B>(
    window: &Arc<Window>,
    one: impl FnOnce(&Window) -> A + 'static,
    other: impl FnOnce(&Window) -> B,
) -> (A, B) {
    let there = window.clone();
    let thread = thread::spawn(move || one(&there));
    let other = other(window);
    (thread.join().unwrap(), other)
}

#[test]
fn of_two_who_want_the_last_retry_one_gets_it_at_most() {
    model(|| {
        let window = window(100);
        window.deposit(|| 0);
        let (one, other) = both(&window, |window| window.withdraw(0), |window| window.withdraw(0));
        assert!(!(one && other), "both were paid for");
        let later = window.withdraw(0);
        assert!([one, other, later].into_iter().filter(|paid| *paid).count() == 1, "none is lost");
    });
}

#[test]
fn a_deposit_pays_for_one_retry_whenever_it_is_seen() {
    model(|| {
        let window = window(100);
        let ((), early) = both(&window, |window| window.deposit(|| 0), |window| window.withdraw(0));
        assert_eq!(usize::from(early) + usize::from(window.withdraw(0)), 1);
        assert!(!window.withdraw(0));
    });
}

#[test]
fn deposits_of_threads_that_share_a_line_are_all_counted() {
    model(|| {
        let window = window(67);
        let deposits = |now| {
            let window = window.clone();
            thread::spawn(move || window.deposit(|| now))
        };
        // The line is made by one alone, for loom does not know std's `OnceLock`.
        deposits(0).join().unwrap();
        let others = [0, SECOND / 2].map(deposits);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!((0..4).filter(|_| window.withdraw(0)).count(), 2);
    });
}

#[test]
fn a_step_that_two_begin_at_once_counts_both() {
    model(|| {
        let window = window(100);
        window.deposit(|| 0);
        assert!(window.withdraw(0), "of an older step, which is forgotten");
        let later = 20 * SECOND;
        let window = {
            let (one, two) = both(
                &window,
                move |window| window.deposit(|| later),
                move |window| window.deposit(|| later),
            );
            assert_eq!((one, two), ((), ()));
            window
        };
        let paid = (0..4).filter(|_| window.withdraw(later)).count();
        assert_eq!(paid, 2);
    });
}
