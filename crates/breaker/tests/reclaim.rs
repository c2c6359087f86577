//! Which circuits are forgotten when there is no room.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_breaker::{Circuits, Policy, State};
use tokio::time::advance;

fn circuits(capacity: usize) -> Circuits<u32> {
    Circuits::new(Policy::consecutive(1), NonZeroUsize::new(capacity).unwrap())
}

fn fail(circuits: &Circuits<u32>, key: u32) {
    if let Ok(permit) = circuits.get(key).try_acquire() {
        permit.failure();
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_gone_for_long_make_room_without_loss() {
    let circuits = circuits(100);
    (0..100).for_each(|key| fail(&circuits, key));
    advance(Duration::from_secs(600)).await;
    (1_000..1_100).for_each(|key| fail(&circuits, key));
    assert_eq!(circuits.evictions(), 0);
    assert!((1_000..1_100).all(|key| circuits.get(key).state() == State::Open));
}

#[tokio::test(start_paused = true)]
async fn an_operators_order_outlasts_a_flood_of_failing_keys() {
    let circuits = circuits(100);
    circuits.get(7).force_open();
    circuits.get(8).observe(true);
    (1_000..2_000).for_each(|key| fail(&circuits, key));
    assert_eq!(circuits.get(7).state(), State::ForcedOpen);
    assert!(circuits.get(8).is_observing());
    assert!(circuits.evictions() > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_or_watched_goes_after_what_is_not() {
    let circuits = circuits(4);
    let held = circuits.get(0);
    let watched = circuits.get(1).subscribe();
    (2..4).for_each(|key| fail(&circuits, key));
    (4..6).for_each(|key| fail(&circuits, key));
    held.try_acquire().unwrap().failure();
    assert_eq!(circuits.get(0).state(), State::Open, "still the same circuit");
    fail(&circuits, 1);
    assert_eq!(*watched.borrow(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_closed_circuit_goes_before_an_open_one() {
    let circuits = Circuits::<u32>::new(Policy::consecutive(2), NonZeroUsize::new(2).unwrap());
    (0..2).for_each(|_| fail(&circuits, 0));
    fail(&circuits, 1);
    let _ = circuits.get(2);
    assert_eq!((circuits.get(0).state(), circuits.evictions()), (State::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn a_removed_circuit_is_new_when_it_is_asked_for_again() {
    let circuits = circuits(10);
    (0..3).for_each(|key| fail(&circuits, key));
    assert!(circuits.find(&7).is_none(), "asking makes none");
    assert_eq!(circuits.find(&1).unwrap().state(), State::Open);
    assert_eq!(circuits.remove(&0).unwrap().state(), State::Open);
    assert!(circuits.remove(&0).is_none());
    assert_eq!(circuits.get(0).state(), State::Closed);
    assert!((1..3).all(|key| circuits.get(key).state() == State::Open));
    assert_eq!(circuits.len(), 3);
}

/// A key that asks for the circuits while it is written down would be stuck, if that were under the lock.
#[test]
fn the_text_of_a_key_is_made_without_the_lock() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Key;
    thread_local!(static ASK: Mutex<Option<Circuits<Key>>> = const { Mutex::new(None) });
    impl fmt::Display for Key {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let circuits = ASK.with(|ask| ask.lock().unwrap().clone()).unwrap();
            write!(f, "key of {}", circuits.len())
        }
    }
    let circuits = Circuits::new(Policy::default(), NonZeroUsize::MIN);
    ASK.with(|ask| *ask.lock().unwrap() = Some(circuits.clone()));
    assert_eq!(circuits.get(Key).name(), "key of 0");
}

#[test]
fn threads_that_bring_the_same_key_at_once_share_one_circuit() {
    let circuits = circuits(1_000);
    let barrier = Arc::new(std::sync::Barrier::new(4));
    for key in 0..200 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    circuits.get(key).force_closed();
                });
            }
        });
        assert_eq!(circuits.get(key).state(), State::ForcedClosed);
    }
    assert_eq!(circuits.len(), 200);
}
