//! A quota in spans of time, as the script counts it: what a token costs, and what a bucket holds.

use std::time::Duration;

use gusset_call::Limited;

use crate::{Level, Quota, TooCostly};

/// Femtoseconds. A token's time rounded down to one is wrong by a millionth at the fastest rate of all.
pub(crate) type Femtos = u128;

const PER_NANO: Femtos = 1_000_000;
const PER_MICRO: Femtos = 1_000_000_000;

/// 50 years. The script adds up to two of it to Unix time in microseconds, and must stay below 2⁵³: so it does
/// until the year 2155.
const LONGEST: Femtos = 50 * 31_557_600 * 1_000_000 * PER_MICRO;

/// What the script said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    /// How long until the bucket is full.
    pub(crate) debt: Femtos,
}

impl Answer {
    /// From the three numbers of the script; `None` if no script of this format answers so.
    pub(crate) fn new((allowed, micros, rest): (i64, i64, i64)) -> Option<Self> {
        let (micros, rest) = (u64::try_from(micros).ok()?, u64::try_from(rest).ok()?);
        Some(Self {
            allowed: allowed == 1,
            debt: Femtos::from(micros) * PER_MICRO + Femtos::from(rest),
        })
    }
}

/// The arguments of the script: cost and hold, each in microseconds and the rest in femtoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Take(pub(crate) [u64; 4]);

impl Take {
    fn new(cost: Femtos, hold: Femtos) -> Self {
        let whole = |span: Femtos| (span / PER_MICRO) as u64;
        let rest = |span: Femtos| (span % PER_MICRO) as u64;
        Self([whole(cost), rest(cost), whole(hold), rest(hold)])
    }

    /// Takes a microsecond of a second, to see whether the server does what it is asked.
    pub(crate) const TRIAL: Self = Self([1, 0, 1_000_000, 0]);
}

/// A quota in spans of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    tokens: u128,
    per: Femtos,
    burst: u32,
    /// What a full bucket holds.
    hold: Femtos,
    /// What a refusal by a quota that allows nothing names as the time to come back.
    period: Duration,
}

impl Meter {
    pub(crate) fn new(quota: Quota) -> Self {
        let nanos = quota.per.as_nanos().clamp(1, LONGEST / PER_NANO);
        // Not more than one token per nanosecond, as for limiters in the process.
        let tokens = u128::from(quota.tokens.max(1)).min(nanos);
        let per = nanos * PER_NANO;
        let burst = if quota.tokens == 0 { 0 } else { quota.burst };
        let most = u32::try_from(LONGEST * tokens / per).unwrap_or(u32::MAX);
        let burst = burst.min(most);
        let hold = u128::from(burst) * per / tokens;
        Self { tokens, per, burst, hold, period: quota.per }
    }

    /// The largest cost that is ever allowed.
    #[cfg(test)]
    pub(crate) const fn burst(&self) -> u32 {
        self.burst
    }

    fn span(&self, cost: u32) -> Femtos {
        // Rounded down: a token that is due at a whole microsecond is there at that microsecond.
        u128::from(cost) * self.per / self.tokens
    }

    /// What the script is told about `cost`.
    pub(crate) fn take(&self, cost: u32) -> Result<Take, TooCostly> {
        if cost > self.burst {
            return Err(TooCostly::new(cost, self.burst));
        }
        Ok(Take::new(self.span(cost), self.hold))
    }

    /// The answer of the script, in the words of the family.
    pub(crate) fn verdict(&self, cost: u32, answer: Answer) -> Result<Level, Limited> {
        let debt = answer.debt.min(self.hold);
        if answer.allowed {
            return Ok(Level::counted_elsewhere(
                self.remaining(debt),
                rounded_up(debt, PER_NANO, 1),
            ));
        }
        // In whole microseconds, which is what the server's clock counts.
        let missing = (debt + self.span(cost)).saturating_sub(self.hold);
        Err(Limited::new(rounded_up(missing, PER_MICRO, 1_000)))
    }

    /// The refusal of any cost by a quota that allows nothing.
    pub(crate) const fn never(&self) -> Limited {
        Limited::new(self.period)
    }

    /// The largest cost that fits into what is left.
    fn remaining(&self, debt: Femtos) -> u32 {
        let room = self.hold.saturating_sub(debt);
        let fits = ((room + 1) * self.tokens - 1) / self.per;
        u32::try_from(fits).unwrap_or(u32::MAX).min(self.burst)
    }
}

/// `span` in whole steps, of which each is so many nanoseconds.
fn rounded_up(span: Femtos, step: Femtos, nanos: u64) -> Duration {
    let steps = u64::try_from(span.div_ceil(step)).unwrap_or(u64::MAX);
    Duration::from_nanos(steps.saturating_mul(nanos))
}
