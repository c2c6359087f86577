use std::fmt;

/// A share between nothing and all of it, exact to a millionth.
///
/// ```
/// use gusset_sidecar::Ratio;
///
/// assert_eq!(Ratio::percent(60).of(10), 6);
/// assert_eq!(Ratio::percent(20).of(9), 1);
/// assert_eq!(Ratio::percent(250), Ratio::ALL);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u32);

impl Ratio {
    const MILLION: u32 = 1_000_000;

    /// Nothing.
    pub const NONE: Self = Self(0);

    /// All of it.
    pub const ALL: Self = Self(Self::MILLION);

    /// So many of a hundred; more than 100 means [`Ratio::ALL`].
    #[must_use]
    pub const fn percent(parts: u32) -> Self {
        Self::per_million(parts.saturating_mul(10_000))
    }

    /// So many of a million; more than a million means [`Ratio::ALL`].
    #[must_use]
    pub const fn per_million(parts: u32) -> Self {
        Self(if parts > Self::MILLION { Self::MILLION } else { parts })
    }

    /// This share of `count`, rounded down.
    #[must_use]
    pub fn of(self, count: u64) -> u64 {
        let share = u128::from(count) * u128::from(self.0) / u128::from(Self::MILLION);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Whether a value spread evenly over all of `u64` falls into this share.
    pub(crate) fn covers(self, value: u64) -> bool {
        u128::from(value) * u128::from(Self::MILLION) < u128::from(self.0) << 64
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}%", self.0 / 10_000, self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_covers_everything_and_none_nothing() {
        assert!(Ratio::ALL.covers(u64::MAX) && !Ratio::NONE.covers(0));
        assert_eq!(format!("{:?}", Ratio::per_million(12_345)), "1.2345%");
    }

    proptest! {
        #[test]
        fn a_share_is_exact(percent in 0u32..=100, count in 0u64..1_000_000_000) {
            prop_assert_eq!(Ratio::percent(percent).of(count), count * u64::from(percent) / 100);
        }
    }
}
