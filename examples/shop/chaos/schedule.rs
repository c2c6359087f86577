//! When which fault is on, by a seed.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use serde::Serialize;

use super::{Fault, Faults};

/// How many faults there are in a schedule.
const FAULTS: std::ops::RangeInclusive<usize> = 2..=5;

/// A fault was, or is to be, switched on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// How long after the beginning.
    pub after: Duration,
    /// What is switched.
    pub fault: Fault,
    /// Whether it is on from then on.
    pub on: bool,
}

/// Faults with their times: each begins and ends once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    seed: u64,
    span: Duration,
    moments: Vec<Moment>,
}

impl Schedule {
    /// Two to five of these faults within `span`, each for a tenth of it to a half. The same seed makes the same of it.
    #[must_use]
    pub fn random(seed: u64, span: Duration, faults: Faults) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let count = chance.random_range(FAULTS);
        let mut moments = Vec::new();
        for fault in faults.iter().sample(&mut chance, count) {
            let length = span.mul_f64(chance.random_range(0.1..0.5));
            let begin = (span - length).mul_f64(chance.random_range(0.0..1.0));
            moments.push(Moment { after: begin, fault, on: true });
            moments.push(Moment { after: begin + length, fault, on: false });
        }
        moments.sort_by_key(|moment| moment.after);
        Self { seed, span, moments }
    }

    /// What it was made of.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// When everything is over.
    #[must_use]
    pub const fn span(&self) -> Duration {
        self.span
    }

    /// What is switched, in order of time.
    #[must_use]
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// All that come to pass.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.moments.iter().map(|moment| moment.fault).collect()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.on { "on" } else { "off" };
        write!(f, "{:6.2} s  {:<16} {state}", self.after.as_secs_f64(), self.fault)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}", self.seed, self.span)?;
        self.moments.iter().try_for_each(|moment| write!(f, "\n{moment}"))
    }
}
