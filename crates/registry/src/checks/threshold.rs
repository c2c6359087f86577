/// Several attempts in a row decide, so that one that got lost does not.
#[derive(Debug)]
pub(super) struct Threshold {
    rise: u32,
    fall: u32,
    works: Option<bool>,
    /// Attempts in a row that speak against `works`.
    against: u32,
}

impl Threshold {
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), works: None, against: 0 }
    }

    /// Notes an attempt, and says what is thought now.
    pub(super) fn note(&mut self, good: bool) -> bool {
        let needed = match self.works {
            None => 1,
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        if self.works == Some(good) {
            self.against = 0;
            return good;
        }
        self.against += 1;
        if self.against < needed {
            return !good;
        }
        self.against = 0;
        self.works = Some(good);
        good
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_attempt_decides_and_then_it_takes_several() {
        let mut threshold = Threshold::new(2, 3);
        let said: Vec<_> =
            [false, true, false, true, true, false, false, true, false, false, false]
                .map(|good| threshold.note(good))
                .into();
        let t = true;
        assert_eq!(said, [false, false, false, false, t, t, t, t, t, t, false]);
    }

    proptest! {
        #[test]
        fn it_changes_only_after_as_many_in_a_row(
            rise in 0..5_u32, fall in 0..5_u32, attempts in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let mut threshold = Threshold::new(rise, fall);
            let (mut said, mut row) = (threshold.note(attempts[0]), 0);
            prop_assert_eq!(said, attempts[0]);
            for &good in &attempts[1..] {
                row = if good == said { 0 } else { row + 1 };
                let needed = if said { fall.max(1) } else { rise.max(1) };
                if row == needed {
                    (said, row) = (good, 0);
                }
                prop_assert_eq!(threshold.note(good), said);
            }
        }
    }
}
