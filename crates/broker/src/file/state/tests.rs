use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::file::tests::{at, failure, group, letter, message};
use crate::{DeadLetterId, Reason};

/// All that matters of a state: no homes, and no order but that of the serials.
fn gist(state: &State) -> String {
    let groups: Vec<_> = state
        .groups
        .iter()
        .map(|(id, kept)| {
            let messages = kept.messages.iter();
            let messages: Vec<_> = messages.map(|(n, h)| (n, &h.message, &h.standing)).collect();
            format!("{id} {:?} {messages:?}", kept.record)
        })
        .collect();
    let (letters, known) = (state.letters(), state.known());
    let last = (state.last_serial, state.last_letter, state.bytes());
    format!("{groups:?} {letters:?} {known:?} {last:?}")
}

/// No id is forgotten here, since that is a matter of the order in which they come.
fn empty() -> State {
    State::new(Limits::new().dedup(Duration::MAX, usize::MAX))
}

/// A log, as the writer makes it.
struct Segments {
    state: State,
    written: BTreeMap<u64, Vec<Event>>,
    last: u64,
}

impl Segments {
    fn new() -> Self {
        let mut new = Self { state: empty(), written: BTreeMap::new(), last: 0 };
        new.begin();
        new
    }

    fn begin(&mut self) {
        self.last += 1;
        let first = self.written.keys().next().copied().unwrap_or(self.last);
        let preamble = self.state.preamble(first);
        self.written.insert(self.last, Vec::new());
        self.state.at(self.last);
        preamble.into_iter().for_each(|event| self.add(event));
    }

    fn add(&mut self, event: Event) {
        self.state.apply(&event);
        self.written.entry(self.last).or_default().push(event);
    }

    /// Moves what lives in the oldest segment to the present one, in a few steps, and forgets it.
    fn empty_oldest(&mut self, between: impl Fn(&mut Self)) {
        let Some(oldest) = self.written.keys().next().copied().filter(|n| *n < self.last) else {
            return;
        };
        while self.state.live_in(oldest).0 > 0 {
            let keys = self.state.take_keys(oldest);
            assert!(!keys.is_empty(), "what lives has a key");
            let mut next = 0;
            while next < keys.len() {
                let (event, count) = self.state.survivor(&keys[next..], oldest);
                assert!(count > 0);
                next += count;
                event.into_iter().for_each(|event| self.add(event));
                between(self);
            }
        }
        self.written.remove(&oldest);
    }

    fn read_again(&self) -> State {
        let mut again = empty();
        for (number, events) in &self.written {
            again.at(*number);
            events.iter().for_each(|event| again.apply(event));
        }
        again
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let again = self.read_again();
        prop_assert_eq!(gist(&again), gist(&self.state));
        let segments: BTreeSet<_> = self.written.keys().copied().collect();
        for (group, kept) in &self.state.groups {
            for (serial, held) in &kept.messages {
                prop_assert!(
                    segments.contains(&held.home),
                    "{}:{} in {}",
                    group,
                    serial,
                    held.home
                );
            }
        }
        let live: u64 = segments.iter().map(|number| self.state.live_in(*number).1).sum();
        prop_assert_eq!(live, self.state.bytes());
        Ok(())
    }
}

/// Serials and letters are given once each, so they follow from `n`, the place of the event.
fn event(kind: u8, id: u64, n: u64) -> Event {
    let earlier = n.saturating_sub(id);
    match kind {
        0 => Event::Group(id, group().into()),
        1 => Event::GroupGone(id),
        2..=5 => Event::Published { serial: n, message: message().into(), groups: vec![1, 2, id] },
        6 => Event::Attempts { group: id, serial: earlier, attempts: 2 },
        7 => Event::Gone { group: 1 + id % 3, serial: earlier },
        8 => {
            let letter = DeadLetter { id: DeadLetterId::new(n), ..letter(Reason::Exhausted) };
            Event::Died { group: 1, serial: earlier, letter: letter.into() }
        }
        9 => Event::Redriven { letter: earlier, group: 2, serial: n },
        10 => Event::LetterGone(earlier),
        11 => Event::Known(MessageId::new(uuid::Uuid::from_u128(n.into())), at(n)),
        _ => {
            let (at, after) = (at(1), Duration::from_secs(1));
            Event::Retried { group: 2, serial: earlier, failure: failure("x"), at, after }
        }
    }
}

proptest! {
    /// Reading the segments that are left is reading all that there ever were.
    #[test]
    fn what_is_moved_out_of_old_segments_comes_to_the_same(
        choices in proptest::collection::vec((0..17_u8, 1..6_u64), 0..300)
    ) {
        let mut log = Segments::new();
        for id in 1..4 {
            log.add(event(0, id, 0));
        }
        for (n, (kind, id)) in choices.into_iter().enumerate() {
            let n = n as u64 + 10;
            match kind {
                13 => log.begin(),
                14 => log.empty_oldest(|_| {}),
                // Others go on meanwhile.
                15 => log.empty_oldest(|log| {
                    log.add(Event::Gone { group: 1, serial: n - 3 });
                    log.add(Event::Redriven { letter: n - 5, group: 2, serial: n + 1_000_000 });
                }),
                16 => {
                    log.begin();
                    let (_, renumbered) = log.state.renumber();
                    // As the process after this would.
                    let Event::Renumbered(ids) = &renumbered else { unreachable!() };
                    let back = ids.iter().map(|(from, to)| (*to, *from)).collect();
                    log.written.get_mut(&log.last).unwrap().push(renumbered.clone());
                    log.add(Event::Renumbered(back));
                }
                _ => log.add(event(kind, id, n)),
            }
            if (13..17).contains(&kind) {
                log.check()?;
            }
        }
        log.check()?;
    }
}

#[test]
fn a_message_in_many_groups_is_moved_as_one() {
    let mut log = Segments::new();
    (1..4).for_each(|id| log.add(event(0, id, 0)));
    log.add(Event::Published { serial: 9, message: message().into(), groups: vec![1, 2, 3] });
    log.add(Event::Gone { group: 2, serial: 9 });
    log.begin();
    log.empty_oldest(|_| {});
    let moved: Vec<_> = log.written[&2]
        .iter()
        .filter_map(|event| match event {
            Event::Kept { groups, .. } => {
                Some(groups.iter().map(|(id, _)| *id).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert_eq!(moved, [[1, 3]]);
}

#[test]
fn ids_are_forgotten_after_the_window_and_told_in_the_order_of_their_age() {
    let id = |n: u128| MessageId::new(uuid::Uuid::from_u128(n));
    let mut state = State::new(Limits::new().dedup(Duration::from_nanos(100), 3));
    for n in [10, 30, 20] {
        state.apply(&Event::Known(id(n.into()), at(n)));
    }
    assert_eq!(state.known(), [10, 20, 30].map(|n| (id(n.into()), at(n))));
    state.apply(&Event::Known(id(40), at(40)));
    assert_eq!(state.known().len(), 3, "the oldest made room");
    state.apply(&Event::Known(id(130), at(130)));
    assert_eq!(state.known(), [40, 130].map(|n| (id(n.into()), at(n))));
    assert_eq!(state.live_in(0), (2, state.bytes()));
}
