//! The balancer's words under every order in which threads can take turns, and under weak memory (loom).
//!
//! The files of the machines are compiled here once more, with loom's atomics in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/balance/stale.rs"]
mod stale;
#[path = "../src/balance/state.rs"]
mod state;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use self::{
    stale::Stale,
    state::{Ended, State},
};

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // All orders with so many interruptions; without a bound it would take hours.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Runs all of `acts` at the same time on one `thing`, and returns it.
fn race<T: Send + Sync + 'static>(thing: T, acts: &[fn(&T)]) -> Arc<T> {
    let thing = Arc::new(thing);
    let threads: Vec<_> = acts
        .iter()
        .map(|act| {
            let (thing, act) = (thing.clone(), *act);
            thread::spawn(move || act(&thing))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    thing
}

// Whether a service is ready.

#[test]
fn of_all_who_want_to_connect_one_does() {
    check(|| {
        let connecting = |(state, begun): &(State, AtomicUsize)| {
            begun.fetch_add(usize::from(state.begin_to_connect(0)), Relaxed);
        };
        let both = race((State::new(), AtomicUsize::new(0)), &[connecting, connecting]);
        assert_eq!(both.1.load(Relaxed), 1);
    });
}

#[test]
fn a_service_that_broke_stays_broken_whatever_calls_say_of_it_at_the_same_time() {
    check(|| {
        let state = race(State::new(), &[|s| s.broke(0), |s| s.was_ready(0), |s| s.broke(0)]);
        assert!(state.ended(0).is_some() && !state.is_ready(0));
    });
}

#[test]
fn who_gives_up_connecting_takes_back_no_readiness_and_no_break() {
    check(|| {
        let state = State::new();
        assert!(state.begin_to_connect(0));
        let state = race(state, &[|s| s.give_up_connecting(0), |s| s.was_ready(0)]);
        assert!(state.is_ready(0));

        let state = State::new();
        assert!(state.begin_to_connect(0));
        let state = race(state, &[|s| s.give_up_connecting(0), |s| s.broke(0)]);
        assert_eq!(state.ended(0), Some(Ended::NeverReady));
    });
}

#[test]
fn what_is_told_of_an_old_service_never_counts_for_the_one_after_it() {
    check(|| {
        let state = State::new();
        state.was_ready(0);
        let state = race(state, &[|s| s.broke(0), |s| s.was_ready(1), |s| s.broke(0)]);
        assert!(state.is_ready(1) && state.ended(1).is_none());
    });
}

// When a set has to be built anew.

/// What a broken service is to a set: it must not be missed.
type Written = (Stale, AtomicUsize);

/// Builds a set as `Core` does: the generation first, and then what it stands for.
fn build((stale, written): &Written) -> (u64, usize) {
    let generation = stale.generation();
    (generation, written.load(Relaxed))
}

#[test]
fn a_set_that_counts_as_fresh_has_all_that_was_invalidated_before() {
    check(|| {
        let world = Arc::new((Stale::new(), AtomicUsize::new(0)));
        let breaking = {
            let world = world.clone();
            thread::spawn(move || {
                world.1.store(1, Relaxed);
                world.0.invalidate();
            })
        };
        let (generation, seen) = build(&world);
        breaking.join().unwrap();
        if world.0.is_fresh(generation) {
            assert_eq!(seen, 1, "the break is missed by a set that stays");
        } else {
            let (generation, seen) = build(&world);
            assert!(world.0.is_fresh(generation) && seen == 1);
        }
    });
}

#[test]
fn two_that_break_at_once_make_one_set_that_has_both() {
    check(|| {
        let breaks = |(stale, written): &Written| {
            written.fetch_add(1, Relaxed);
            stale.invalidate();
        };
        let world = race((Stale::new(), AtomicUsize::new(0)), &[breaks, breaks]);
        let (generation, seen) = build(&world);
        assert!(world.0.is_fresh(generation) && !world.0.is_fresh(generation - 1));
        assert_eq!(seen, 2);
    });
}

#[test]
fn a_failure_that_asks_for_a_decision_is_in_the_next_one_or_asks_for_another() {
    check(|| {
        let world = Arc::new((Stale::new(), AtomicUsize::new(0)));
        let failing = {
            let world = world.clone();
            thread::spawn(move || {
                world.1.fetch_add(1, Relaxed);
                world.0.look_over();
            })
        };
        let decided = world.0.take_due().then(|| world.1.load(Relaxed));
        failing.join().unwrap();
        match decided {
            Some(seen) => assert_eq!(seen, 1, "it was decided without what asked for it"),
            None => assert!(world.0.is_due()),
        }
    });
}

#[test]
fn one_request_for_a_decision_is_taken_by_one() {
    check(|| {
        let world = (Stale::new(), AtomicUsize::new(0));
        world.0.look_over();
        let takes = |(stale, taken): &Written| {
            taken.fetch_add(usize::from(stale.take_due()), Relaxed);
        };
        let world = race(world, &[takes, takes]);
        assert_eq!(world.1.load(Relaxed), 1);
        assert!(!world.0.is_due());
    });
}
