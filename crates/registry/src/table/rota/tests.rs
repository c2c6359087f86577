use std::{collections::BTreeMap, num::NonZeroU32};

use gusset_call::Clock;
use proptest::prelude::*;

use super::{super::SlotId, *};

const SPAN: u64 = 31;

/// A board and a rota of ticks of one second.
struct Rounds {
    board: Board,
    rota: Rota<u32>,
    slots: BTreeMap<u32, SlotId>,
    now: u64,
}

impl Rounds {
    fn new() -> Self {
        let rota = Rota::new(Duration::from_secs(1), SPAN);
        Self { board: Board::new(Clock::new()), rota, slots: BTreeMap::new(), now: 0 }
    }

    fn add(&mut self, owner: u32) -> u32 {
        let index = self.rota.allocate(owner, self.board.tick()).unwrap();
        let slot = self.board.occupy(index);
        self.board.set_slow(slot, false);
        self.slots.insert(owner, slot);
        index
    }

    fn remove(&mut self, owner: u32) {
        if let Some(slot) = self.slots.remove(&owner) {
            self.board.renew(slot.index, u64::MAX);
            self.rota.release(slot.index);
        }
    }

    /// The next tick: who is looked at in it.
    fn tick(&mut self) -> Vec<u32> {
        self.now += 1;
        let entries = self.rota.advance(&self.board, Duration::from_secs(self.now)).unwrap();
        let tick = self.board.tick();
        for (index, _) in &entries {
            self.rota.put(*index, u64::MAX, tick);
        }
        entries.into_iter().map(|(_, owner)| owner).collect()
    }
}

#[test]
fn the_silent_are_looked_at_in_the_tick_in_which_they_are_and_not_before() {
    let mut rounds = Rounds::new();
    for owner in 0..1_000 {
        rounds.add(owner);
    }
    for _ in 1..SPAN {
        assert!(rounds.tick().is_empty());
        for owner in 0..1_000 {
            if owner % 10 != 7 {
                rounds.board.beat(rounds.slots[&owner]);
            }
        }
    }
    let silent: Vec<_> = (0..1_000).filter(|owner| owner % 10 == 7).collect();
    assert_eq!(rounds.tick(), silent);
}

#[test]
fn a_tick_that_is_late_is_the_only_one_for_all_that_time() {
    let mut rounds = Rounds::new();
    rounds.add(0);
    assert!(rounds.rota.advance(&rounds.board, Duration::from_millis(999)).is_none());
    assert!(rounds.rota.advance(&rounds.board, Duration::from_secs(3_600)).is_some());
    assert!(rounds.rota.advance(&rounds.board, Duration::from_secs(3_600)).is_none());
    assert_eq!((rounds.board.tick(), rounds.rota.due()), (1, Duration::from_secs(3_601)));
    // One that is a little late puts off none of those that follow.
    assert!(rounds.rota.advance(&rounds.board, Duration::from_millis(3_601_400)).is_some());
    assert_eq!(rounds.rota.due(), Duration::from_secs(3_602));
}

/// All registered in one tick; after a few rounds they are spread over the ticks.
#[test]
fn those_who_came_together_are_not_all_looked_at_together_for_ever() {
    const MANY: u32 = 64 * 200;
    let mut rounds = Rounds::new();
    for owner in 0..MANY {
        rounds.add(owner);
    }
    let mut most = 0;
    for tick in 0..20 * SPAN {
        let mut due = rounds.rota.blocks.iter().filter(|&&due| due <= rounds.board.tick() + 1);
        if tick > 10 * SPAN {
            most = most.max(due.by_ref().count());
        }
        rounds.tick();
        for owner in 0..MANY {
            if (u64::from(owner) + tick) % 10 == 0 {
                rounds.board.beat(rounds.slots[&owner]);
            }
        }
    }
    assert!(most < 200 / 4, "{most} of 200 blocks in one tick");
}

#[derive(Clone, Debug)]
enum Event {
    Tick(NonZeroU32),
    Add(u32),
    Remove(u32),
    Beat(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..20_u32).prop_map(|n| Event::Tick(NonZeroU32::new(n).unwrap())),
        3 => (0..200_u32).prop_map(Event::Add),
        1 => (0..200_u32).prop_map(Event::Remove),
        4 => (0..200_u32).prop_map(Event::Beat),
    ]
}

proptest! {
    /// Whoever comes, goes and beats in whatever order: each is looked at in the very tick in which it has been silent for the span.
    #[test]
    fn nobody_silent_is_passed_over(events in prop::collection::vec(event(), 1..300)) {
        let mut rounds = Rounds::new();
        let mut heard = BTreeMap::new();
        for event in events {
            match event {
                Event::Tick(ticks) => for _ in 0..ticks.get() {
                    let looked = rounds.tick();
                    for (owner, at) in &heard {
                        let silent = rounds.board.tick() == at + SPAN;
                        prop_assert!(!silent || looked.contains(owner), "{} was passed over", owner);
                    }
                },
                Event::Add(owner) => if !rounds.slots.contains_key(&owner) {
                    rounds.add(owner);
                    heard.insert(owner, rounds.board.tick());
                },
                Event::Remove(owner) => {
                    rounds.remove(owner);
                    heard.remove(&owner);
                }
                Event::Beat(owner) => if let Some(slot) = rounds.slots.get(&owner) {
                    rounds.board.beat(*slot);
                    heard.insert(owner, rounds.board.tick());
                },
            }
        }
    }
}
