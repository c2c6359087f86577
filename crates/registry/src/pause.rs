//! How long clients of a registry wait before they try again.

use std::time::Duration;

/// What no pause is longer than, whatever the TTL.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_millis(50);

/// Doubles from 50 ms to `longest`; half of it is random, so that many do not come back in step.
pub(crate) fn pause(failures: u32, longest: Duration) -> Duration {
    let doubled = FIRST * (1 << failures.saturating_sub(1).min(10));
    doubled.min(longest).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_differ() {
        for failures in 0..100 {
            let whole = (50 << failures.clamp(1, 10) >> 1).min(5_000);
            let pause = pause(failures, LONGEST).as_millis();
            assert!((whole / 2..=whole).contains(&pause), "{pause} after {failures}");
        }
        assert!(pause(u32::MAX, Duration::from_millis(333)) <= Duration::from_millis(333));
        let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| pause(9, LONGEST)).collect();
        assert!(pauses.len() > 10);
    }
}
