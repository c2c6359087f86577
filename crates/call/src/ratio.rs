use std::fmt;

/// A share between nothing and all of it, exact to a millionth.
///
/// ```
/// use gusset_call::Ratio;
///
/// assert_eq!(Ratio::percent(60).of(10), 6);
/// assert_eq!(Ratio::percent(20).of(9), 1);
/// assert_eq!(Ratio::percent(250), Ratio::ALL);
/// assert_eq!(Ratio::new(0.5)?, Ratio::percent(50));
/// # Ok::<(), gusset_call::NotARatio>(())
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

    /// From a number between 0 and 1, as a configuration file has it, rounded to a millionth.
    ///
    /// # Errors
    ///
    /// [`NotARatio`] if it is not between 0 and 1.
    pub fn new(ratio: f64) -> Result<Self, NotARatio> {
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self((ratio * f64::from(Self::MILLION)).round() as u32))
        } else {
            Err(NotARatio(ratio))
        }
    }

    /// This share of `count`, rounded down.
    #[must_use]
    pub fn of(self, count: u64) -> u64 {
        let share = u128::from(count) * u128::from(self.0) / u128::from(Self::MILLION);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Whether `some` of `all` are at least this share.
    #[must_use]
    pub fn is_reached(self, some: u64, all: u64) -> bool {
        u128::from(some) * u128::from(Self::MILLION) >= u128::from(all) * u128::from(self.0)
    }

    /// Whether a value that is spread evenly over all of `u64` falls into this share: so often as the share says, by chance or by a hash.
    #[must_use]
    pub fn covers(self, value: u64) -> bool {
        u128::from(value) * u128::from(Self::MILLION) < u128::from(self.0) << 64
    }
}

/// Between 0 and 1, as in [`Ratio::new`].
///
/// ```
/// # use gusset_call::Ratio;
/// assert_eq!(f64::from(Ratio::percent(25)), 0.25);
/// ```
impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        Self::from(ratio.0) / Self::from(Ratio::MILLION)
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}

/// A number that is no share of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotARatio(f64);

impl fmt::Display for NotARatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a ratio must be between 0 and 1, not {}", self.0)
    }
}

impl std::error::Error for NotARatio {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_covers_everything_and_none_nothing() {
        assert!(Ratio::ALL.covers(u64::MAX) && !Ratio::NONE.covers(0));
        assert_eq!(format!("{:?}", Ratio::per_million(12_345)), "1.2345 %");
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Ratio::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!((Ratio::new(0.0), Ratio::new(1.0)), (Ok(Ratio::NONE), Ok(Ratio::ALL)));
        let told = Ratio::new(50.0).unwrap_err().to_string();
        assert_eq!(told, "a ratio must be between 0 and 1, not 50");
    }

    proptest! {
        #[test]
        fn a_share_is_exact(percent in 0u32..=100, count in 0u64..1_000_000_000) {
            prop_assert_eq!(Ratio::percent(percent).of(count), count * u64::from(percent) / 100);
        }

        #[test]
        fn it_is_reached_by_no_less_than_it_is(parts in 0u32..=1_000_000, all in 1u64..1_000_000_000) {
            let ratio = Ratio::per_million(parts);
            let least = (u128::from(all) * u128::from(parts)).div_ceil(1_000_000) as u64;
            prop_assert!(ratio.is_reached(least, all));
            prop_assert!(least == 0 || !ratio.is_reached(least - 1, all));
        }
    }
}
