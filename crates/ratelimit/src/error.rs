use std::{error::Error, fmt};

use gusset_call::Limited;

/// Why several tokens at once were not given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// They are not there now; the refusal says when they will be.
    Limited(Limited),
    /// They never will be.
    TooCostly(TooCostly),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(limited) => limited.fmt(f),
            Self::TooCostly(costly) => costly.fmt(f),
        }
    }
}

impl Error for Denied {
    /// The refusal, so that `gusset_call::refusal_in` finds it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Limited(limited) => Some(limited),
            Self::TooCostly(costly) => Some(costly),
        }
    }
}

/// A cost is larger than the burst: no bucket ever holds that much, and waiting is useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly {
    cost: u32,
    burst: u32,
}

impl TooCostly {
    pub(crate) const fn new(cost: u32, burst: u32) -> Self {
        Self { cost, burst }
    }

    /// The tokens asked for.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.cost
    }

    /// The tokens that a full bucket holds.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }
}

impl fmt::Display for TooCostly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a cost of {} is more than the burst of {}", self.cost, self.burst)
    }
}

impl Error for TooCostly {}
