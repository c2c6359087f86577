//! Those who wait for what is written, under every order in which threads can take turns, and under weak memory (loom).
//!
//! The file of the machine is compiled here once more, with loom's atomics and locks in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/file/waiters.rs"]
mod waiters;

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    };
    pub(crate) use std::sync::PoisonError;
}

use std::future::poll_fn;

use loom::{future::block_on, model, sync::Arc, thread};

use self::waiters::Waiters;

async fn written(waiters: &Waiters, events: u64) {
    let id = waiters.next_id();
    poll_fn(|cx| waiters.poll_written(id, events, cx)).await;
}

/// Whoever slept for ever would be told of by loom as a deadlock.
#[test]
fn nobody_sleeps_through_what_was_written() {
    model(|| {
        let waiters = Arc::new(Waiters::default());
        let there = waiters.clone();
        let writer = thread::spawn(move || there.tell(1));
        block_on(written(&waiters, 1));
        assert!(waiters.is_written(1));
        writer.join().unwrap();
    });
}

#[test]
fn who_waits_for_more_is_woken_by_the_last_of_it() {
    model(|| {
        let waiters = Arc::new(Waiters::default());
        let there = waiters.clone();
        let writer = thread::spawn(move || (1..=2).for_each(|written| there.tell(written)));
        block_on(written(&waiters, 2));
        writer.join().unwrap();
    });
}

#[test]
fn one_that_gives_up_takes_nobody_elses_place_along() {
    model(|| {
        let waiters = Arc::new(Waiters::default());
        let there = waiters.clone();
        let other = thread::spawn(move || block_on(written(&there, 1)));
        let id = waiters.next_id();
        block_on(poll_fn(|cx| {
            let _ = waiters.poll_written(id, 1, cx);
            waiters.forget(id);
            std::task::Poll::Ready(())
        }));
        waiters.tell(1);
        other.join().unwrap();
    });
}
