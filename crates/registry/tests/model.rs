//! The word of a lease, and what balancers know of endpoints, under every order in which threads can take turns, and under weak memory (loom).
//!
//! The files of these machines are compiled here once more, with loom's atomics in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/balance/stale.rs"]
mod stale;
#[path = "../src/balance/state.rs"]
mod state;
#[path = "../src/table/word.rs"]
mod word;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

use loom::{
    model,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use self::{
    stale::Stale,
    state::{Ended, State},
    word::{Beat, Word},
};

/// A word whose occupant is well since tick 1, and its generation.
fn occupied() -> (Arc<Word>, u32) {
    let word = Word::new();
    let generation = word.renew(1);
    word.set_slow(false);
    (Arc::new(word), generation)
}

/// What two threads do to one word at once.
fn race<A: 'static, B>(
    word: &Arc<Word>,
    one: impl FnOnce(&Word) -> A + 'static,
    other: impl FnOnce(&Word) -> B,
) -> (A, B) {
    let there = word.clone();
    let thread = thread::spawn(move || one(&there));
    let other = other(word);
    (thread.join().unwrap(), other)
}

#[test]
fn a_heartbeat_is_either_seen_by_who_gives_the_instance_up_or_told_to_the_table() {
    model(|| {
        let (word, generation) = occupied();
        let seen = word.load().tick();
        let (beat, silenced) =
            race(&word, move |word| word.beat(generation, 9), |word| word.silence(seen));
        match beat {
            Beat::Noted => assert!(!silenced, "it was heard of, and given up"),
            Beat::Slow => assert!(silenced),
            Beat::Gone => panic!("the slot is still its own"),
        }
        assert_eq!(word.load().tick(), if silenced { 1 } else { 9 });
    });
}

#[test]
fn a_heartbeat_never_counts_for_the_next_occupant_of_the_slot() {
    model(|| {
        let (word, old) = occupied();
        let (beat, new) = race(
            &word,
            move |word| word.beat(old, 9),
            |word| {
                // Given up, forgotten, and taken by another.
                let _ = word.silence(word.load().tick());
                let generation = word.renew(5);
                word.set_slow(false);
                generation
            },
        );
        assert_ne!(old, new);
        let last = word.load();
        assert_eq!((last.generation(), last.tick()), (new, 5), "after {beat:?}");
        assert_eq!(word.beat(old, 9), Beat::Gone);
        assert_eq!(word.beat(new, 9), Beat::Noted);
    });
}

#[test]
fn of_two_heartbeats_the_younger_tick_stays() {
    model(|| {
        let (word, generation) = occupied();
        let (one, other) = race(
            &word,
            move |word| word.beat(generation, 7),
            |word| {
                word.touch(8);
                word.beat(generation, 9)
            },
        );
        assert_eq!((one, other), (Beat::Noted, Beat::Noted));
        assert_eq!(word.load().tick(), 9);
    });
}

#[test]
fn a_heartbeat_is_not_lost_while_the_table_changes_its_mind() {
    model(|| {
        let (word, generation) = occupied();
        let (beat, ()) = race(
            &word,
            move |word| word.beat(generation, 9),
            |word| {
                word.set_slow(true);
                word.set_slow(false);
            },
        );
        let last = word.load();
        assert!(!last.is_slow());
        assert_eq!(last.tick(), if beat == Beat::Noted { 9 } else { 1 });
    });
}

#[test]
fn a_set_that_counts_as_fresh_has_what_was_written_before_it_was_called_stale() {
    model(|| {
        let shared = Arc::new((Stale::new(), AtomicU64::new(0)));
        let there = shared.clone();
        let writer = thread::spawn(move || {
            there.1.store(7, Relaxed);
            there.0.invalidate();
        });
        let (stale, broken) = &*shared;
        let generation = stale.generation();
        let built_of = broken.load(Relaxed);
        writer.join().unwrap();
        assert!(built_of == 7 || !stale.is_fresh(generation));
    });
}

#[test]
fn of_two_one_looks_over_and_sees_why() {
    model(|| {
        let shared = Arc::new((Stale::new(), AtomicU64::new(0)));
        let looks = |shared: &(Stale, AtomicU64)| {
            let due = shared.0.take_due();
            assert!(!due || shared.1.load(Relaxed) == 7, "what it is due for is not seen");
            due
        };
        let (one, other) = (shared.clone(), shared.clone());
        let writer = thread::spawn(move || {
            one.1.store(7, Relaxed);
            one.0.look_over();
        });
        let looker = thread::spawn(move || looks(&other));
        let early = looks(&shared);
        writer.join().unwrap();
        let looked = [early, looker.join().unwrap(), shared.0.take_due()];
        assert_eq!(looked.into_iter().filter(|looked| *looked).count(), 1);
    });
}

#[test]
fn of_two_who_would_connect_one_does() {
    model(|| {
        let state = Arc::new(State::new());
        let there = state.clone();
        let other = thread::spawn(move || there.begin_to_connect(1));
        let mine = state.begin_to_connect(1);
        assert!(mine ^ other.join().unwrap());
        assert!(state.is_connecting(1));
    });
}

#[test]
fn a_service_that_broke_is_ready_no_more_whoever_was_told_first() {
    model(|| {
        let state = Arc::new(State::new());
        let there = state.clone();
        let other = thread::spawn(move || there.was_ready(1));
        state.broke(1);
        other.join().unwrap();
        assert!(!state.is_ready(1));
        assert!(matches!(state.ended(1), Some(Ended::AfterReady | Ended::NeverReady)));
    });
}

#[test]
fn what_is_said_of_a_service_that_was_replaced_changes_nothing_of_the_new_one() {
    model(|| {
        let state = Arc::new(State::new());
        let there = state.clone();
        let other = thread::spawn(move || there.broke(1));
        state.was_ready(2);
        other.join().unwrap();
        assert!(state.is_ready(2) && state.ended(2).is_none());
    });
}
