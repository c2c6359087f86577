use std::fmt;

/// A share of calls, between 1 and 100 in a hundred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio {
    /// In parts of 10 000.
    parts: u32,
}

impl Ratio {
    const WHOLE: u32 = 10_000;

    /// All calls.
    pub const ALL: Self = Self { parts: Self::WHOLE };

    /// So many in a hundred; 0 means the same as 1, and more than 100 the same as 100.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        let percent = if percent == 0 { 1 } else { percent };
        let percent = if percent > 100 { 100 } else { percent };
        Self { parts: percent * (Self::WHOLE / 100) }
    }

    /// From a number between 0 and 1, as a configuration file has it, rounded to 1/10 000.
    ///
    /// # Errors
    ///
    /// [`NotARatio`] if it is not above 0 and at most 1, or rounds to 0.
    pub fn new(ratio: f64) -> Result<Self, NotARatio> {
        let parts = (ratio * f64::from(Self::WHOLE)).round();
        if ratio <= 1.0 && parts >= 1.0 {
            Ok(Self { parts: parts as u32 })
        } else {
            Err(NotARatio(ratio))
        }
    }

    /// Whether `some` of `all` are at least this share.
    pub(crate) fn is_reached(self, some: u64, all: u64) -> bool {
        u128::from(some) * u128::from(Self::WHOLE) >= u128::from(all) * u128::from(self.parts)
    }

    /// This share of `whole`.
    pub(crate) fn of(self, whole: u64) -> u64 {
        (u128::from(whole) * u128::from(self.parts) / u128::from(Self::WHOLE)) as u64
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.parts) / 100.0)
    }
}

/// A number that is no share of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotARatio(f64);

impl fmt::Display for NotARatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a ratio must be above 0 and at most 1, not {}", self.0)
    }
}

impl std::error::Error for NotARatio {}
