//! The word of a lease under every order in which threads can take turns, and under weak memory (loom).
//!
//! The file of the word is compiled here once more, with loom's atomics in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/table/word.rs"]
mod word;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

use loom::{model, sync::Arc, thread};

use self::word::{Beat, Word};

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
