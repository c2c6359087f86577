use super::{
    machine::{Past, Row, decide, quoted, readable, signed},
    *,
};

fn call(direction: Direction, epoch: u64) -> InboxCall {
    InboxCall { operation: "s/a".into(), direction, epoch }
}

#[test]
fn keys_of_steps_are_understood_and_others_refused() {
    let of = |key: &str| InboxCall::from_key(key, 7).ok();
    assert_eq!(of("s/a/do"), Some(call(Direction::Act, 7)));
    assert_eq!(of("s/a/undo"), Some(call(Direction::Undo, 7)));
    assert_eq!(&*of("s/1/child/a/undo").unwrap().operation, "s/1/child/a");
    for bad in ["", "do", "/do", "s/do", "//do", "s/a", "s/a/redo", "s a/b/do", "s/ü/do"] {
        assert_eq!(of(bad), None, "{bad}");
    }
    assert_eq!(of(&format!("s/{}/do", "x".repeat(1_022))).map(|call| call.epoch), Some(7));
    assert_eq!(of(&format!("s/{}/do", "x".repeat(1_023))), None);
}

#[test]
fn names_of_tables_need_no_escape() {
    assert_eq!(quoted("shop.inbox_2").unwrap(), "\"shop\".\"inbox_2\"");
    for bad in ["", ".", "a.", "a.b.c", "A", "a b", "a\"", "a;", &"x".repeat(64)] {
        assert!(matches!(quoted(bad), Err(InboxError::Table(_))), "{bad}");
    }
}

#[test]
fn what_a_later_release_wrote_is_refused() {
    let newer = readable(FORMAT + 1).unwrap_err();
    assert_eq!(newer.to_string(), "inbox is of format 2, this release knows up to 1");
    let row = Row { past: "half-done".into(), epoch: 1, answer: None };
    let unknown = decide(&call(Direction::Act, 1), row).unwrap_err();
    assert!(matches!(unknown, InboxError::NoEntry(_)));
}

/// The table of one operation, and what its receiver did.
#[derive(Clone, Default)]
struct World {
    row: Option<(Past, u64, Option<String>)>,
    acted: u32,
    undone: u32,
    /// Highest epoch that was not stale.
    heard: u64,
    undo_came: bool,
}

impl World {
    fn enter(&mut self, call: &InboxCall, refuses: bool) -> Entry {
        let (past, epoch, answer) = self.row.get_or_insert((Past::Nothing, 0, None));
        *epoch = (*epoch).max(call.epoch);
        let row = Row { past: past.text().into(), epoch: signed(*epoch), answer: answer.clone() };
        let (entry, next) = decide(call, row).unwrap();
        *past = next.unwrap_or(*past);
        match entry {
            Entry::Act if refuses => (*past, *answer) = (Past::Refused, Some("\"no\"".into())),
            Entry::Act => {
                self.acted += 1;
                *answer = Some(format!("{}", call.epoch));
            }
            Entry::Undo { .. } => self.undone += 1,
            _ => {}
        }
        entry
    }

    /// One more call, and everything that holds after it.
    fn goes_on(mut self, call: &InboxCall, refuses: bool) -> Self {
        let before = self.clone();
        let entry = self.enter(call, refuses);
        let stale = call.epoch < before.heard;
        assert_eq!(matches!(entry, Entry::Stale { .. }), stale, "older epochs, and only they");
        if stale {
            assert_eq!(entry, Entry::Stale { seen: before.heard });
            assert_eq!((self.acted, self.undone), (before.acted, before.undone));
            return self;
        }
        self.heard = call.epoch;
        assert!(self.acted <= 1 && self.undone <= self.acted, "once, and what is there");
        match call.direction {
            Direction::Act if before.undo_came => assert_eq!(entry, Entry::TooLate),
            Direction::Act => {
                let again = matches!(entry, Entry::Repeated { answer: Some(_) });
                assert_eq!(again, before.acted == 1, "a repetition has the answer of then");
            }
            Direction::Undo => {
                assert_eq!(self.acted, self.undone, "after an undo nothing is there");
                self.undo_came = true;
                let wanted = matches!(entry, Entry::Undo { answer: Some(_) });
                assert_eq!(wanted, before.acted > before.undone);
                let nothing = entry == Entry::NothingToUndo;
                assert_eq!(nothing, before.acted == 0 && !before.undo_came);
            }
        }
        self
    }
}

/// All orders of up to six calls, each an action, one that is refused, or an undo, from one of three epochs.
#[test]
fn in_every_order_of_calls_an_effect_comes_once_and_goes_for_good() {
    fn all(world: &World, left: u32, seen: &mut u32) {
        *seen += 1;
        if left == 0 {
            return;
        }
        for epoch in 1..=3 {
            for (direction, refuses) in
                [(Direction::Act, false), (Direction::Act, true), (Direction::Undo, false)]
            {
                let next = world.clone().goes_on(&call(direction, epoch), refuses);
                all(&next, left - 1, seen);
            }
        }
    }
    let mut seen = 0;
    all(&World::default(), 6, &mut seen);
    assert_eq!(seen, (9_u32.pow(7) - 1) / 8);
}
