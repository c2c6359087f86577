//! Where a watch stands: the rules of Consul's blocking queries.

use std::time::Duration;

use crate::pause::{LONGEST, pause};

/// Decides what index is asked for next, and after what pause. No answer of a server makes it ask more than 100 times a second.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// 0: nothing is known, and the next question does not wait.
    index: u64,
    /// Questions in a row that brought nothing though they should have waited.
    barren: u32,
    /// Questions in a row that failed.
    failures: u32,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is something new, or there may be.
    News,
    /// Nothing has changed.
    Same,
    /// The index went backwards or is none: the server is another, or was restored.
    Reset,
}

/// Changes that come faster than this become one.
const GAP: Duration = Duration::from_millis(10);

impl Cursor {
    /// What is asked for next; none for a question that does not wait.
    pub(super) fn index(&self) -> Option<u64> {
        (self.index > 0).then_some(self.index)
    }

    /// Takes the index of an answer in that took so long of the `wait` that was asked for. Returns the pause before the next question.
    pub(super) fn answered(
        &mut self,
        index: Option<u64>,
        took: Duration,
        wait: Duration,
    ) -> (Turn, Duration) {
        self.failures = 0;
        let index = index.unwrap_or(0);
        let turn = if index == 0 || index < self.index {
            Turn::Reset
        } else if index == self.index {
            Turn::Same
        } else {
            Turn::News
        };
        // A server that answers at once with what is known, or knows no indexes, would make this loop a busy one.
        let fruitless = match turn {
            Turn::News => false,
            Turn::Same => took < wait / 2,
            Turn::Reset => true,
        };
        if fruitless {
            self.barren = self.barren.saturating_add(1);
        } else if self.index > 0 {
            // What a question without an index brings is always new, and says nothing of how the server waits.
            self.barren = 0;
        }
        self.index = if turn == Turn::Reset { 0 } else { index };
        // The first time it may be a server that was started again.
        let pause =
            if fruitless && self.barren > 1 { pause(self.barren, LONGEST) } else { Duration::ZERO };
        (turn, pause.max(GAP.saturating_sub(took)))
    }

    /// Returns the pause before the next question, which does not wait: it may be another server that answers then.
    pub(super) fn failed(&mut self) -> Duration {
        self.index = 0;
        self.failures = self.failures.saturating_add(1);
        pause(self.failures, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_index_that_goes_backwards_begins_anew() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.index(), None);
        assert_eq!(cursor.answered(Some(7), GAP, WAIT), (Turn::News, Duration::ZERO));
        assert_eq!(cursor.index(), Some(7));
        assert_eq!(cursor.answered(Some(7), WAIT, WAIT), (Turn::Same, Duration::ZERO));
        assert_eq!(cursor.answered(Some(6), GAP, WAIT), (Turn::Reset, Duration::ZERO));
        assert_eq!(cursor.index(), None);
        assert_eq!(cursor.answered(Some(6), GAP, WAIT).0, Turn::News);
    }

    #[test]
    fn no_index_or_zero_is_never_asked_for_and_not_in_a_busy_loop() {
        let mut cursor = Cursor::default();
        for index in [None, Some(0), None, Some(0)] {
            let (turn, _) = cursor.answered(index, Duration::ZERO, WAIT);
            assert_eq!((turn, cursor.index()), (Turn::Reset, None));
        }
        let (_, pause) = cursor.answered(None, Duration::ZERO, WAIT);
        assert!(pause >= Duration::from_millis(400), "{pause:?}");
    }

    #[test]
    fn a_server_that_does_not_wait_is_asked_ever_more_slowly() {
        let mut cursor = Cursor::default();
        cursor.answered(Some(3), Duration::ZERO, WAIT);
        let pauses: Vec<_> =
            (0..12).map(|_| cursor.answered(Some(3), Duration::ZERO, WAIT).1).collect();
        assert!(pauses[11] >= LONGEST / 2 && pauses[11] <= LONGEST, "{pauses:?}");
        assert_eq!(cursor.answered(Some(4), WAIT, WAIT), (Turn::News, Duration::ZERO));
    }

    #[test]
    fn two_servers_that_answer_in_turns_make_no_busy_loop() {
        let mut cursor = Cursor::default();
        let pauses = (0..12).map(|n| {
            let index = if n % 2 == 0 { 900 } else { 3 };
            cursor.answered(Some(index), Duration::ZERO, WAIT).1
        });
        assert!(pauses.last().unwrap() > Duration::from_millis(400));
    }

    #[test]
    fn an_outage_begins_with_short_pauses_whatever_was_before_the_last_answer() {
        let mut cursor = Cursor::default();
        for _ in 0..20 {
            cursor.failed();
        }
        cursor.answered(Some(7), Duration::ZERO, WAIT);
        assert!(cursor.failed() <= Duration::from_millis(50));
    }

    proptest! {
        #[test]
        fn whatever_the_server_says_it_is_asked_at_most_a_hundred_times_a_second(
            answers in prop::collection::vec((prop::option::of(0..4_u64), any::<bool>()), 1..200),
        ) {
            let mut cursor = Cursor::default();
            let mut spent = Duration::ZERO;
            for (index, fails) in &answers {
                let pause = match fails {
                    true => cursor.failed(),
                    false => cursor.answered(*index, Duration::ZERO, WAIT).1,
                };
                spent += pause;
                prop_assert!(cursor.index() != Some(0));
            }
            prop_assert!(spent >= GAP * u32::try_from(answers.len()).unwrap());
        }
    }
}
