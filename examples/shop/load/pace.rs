//! When requests are due.

use std::time::Duration;

use tokio::time::Instant;

/// The `n`th request since the last change of the rate is due `n / rate` seconds after it, however late the ones before were sent.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u32,
    since: Instant,
    /// How many were due since then.
    due: u64,
}

impl Pace {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self { rate, since: now, due: 0 }
    }

    /// When the next one is due; `None` while there are none.
    pub(super) fn when(&self) -> Option<Instant> {
        let nanos = (u128::from(self.due) * 1_000_000_000).checked_div(u128::from(self.rate))?;
        // Some 500 years.
        Some(self.since + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// When it was due, if one is.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let when = self.when().filter(|&when| when <= now)?;
        self.due += 1;
        Some(when)
    }

    /// Those that are not due yet follow the new rate.
    pub(super) fn change(&mut self, rate: u32, now: Instant) {
        *self = Self::new(rate, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(pace: &mut Pace, now: Instant) -> Vec<Instant> {
        std::iter::from_fn(|| pace.next(now)).collect()
    }

    #[test]
    fn a_sender_that_comes_late_finds_all_that_was_due_with_its_times() {
        let now = Instant::now();
        let mut pace = Pace::new(10, now);
        let ms = |ms| now + Duration::from_millis(ms);
        assert_eq!(due(&mut pace, now), [now]);
        assert_eq!(due(&mut pace, ms(99)), []);
        assert_eq!(due(&mut pace, ms(450)), [ms(100), ms(200), ms(300), ms(400)]);
        assert_eq!(pace.when(), Some(ms(500)));
    }

    #[test]
    fn no_rate_gathers_an_error_over_days() {
        let now = Instant::now();
        for rate in [3, 7, 1_000, 10_000] {
            let mut pace = Pace::new(rate, now);
            pace.due = u64::from(rate) * 1_000_000;
            assert_eq!(pace.when(), Some(now + Duration::from_secs(1_000_000)));
        }
    }

    #[test]
    fn a_new_rate_begins_at_once_and_none_is_a_pause() {
        let now = Instant::now();
        let mut pace = Pace::new(1, now);
        assert_eq!(due(&mut pace, now), [now]);
        let later = now + Duration::from_millis(100);
        pace.change(0, later);
        assert_eq!(pace.when(), None);
        assert_eq!(due(&mut pace, later + Duration::from_secs(60)), []);
        pace.change(100, later);
        assert_eq!(due(&mut pace, later + Duration::from_millis(15)).len(), 2);
    }
}
