//! Gives a variant more of the traffic step by step, as long as it does no worse than the others.

use std::{fmt, time::Duration};

use gusset_call::Ratio;

use super::sample::{Sample, at_least};

/// How a variant takes over: [`Split::roll_out`](super::Split::roll_out).
///
/// It gets the part of each step for [`hold`](Self::hold) and at least [`calls`](Self::calls), and then the next one. As soon as it certainly fails more often,
/// or is slower, than the others did since the beginning, it gets nothing any more.
///
/// | it is aborted | when |
/// |---|---|
/// | for errors | the share of its calls that failed is more than that of the others and [`errors`](Self::errors) on top |
/// | for latency | more than 5 % of its calls took longer than [`slower`](Self::slower) times what 95 % of the others' take at most |
///
/// Where the others had no calls since the beginning, as with a first step of 100 %, they count as without errors, and latency is not looked at.
/// Both in the calls of one step, 20 at least, and such that chance would do it once in 200 looks (the lower end of Wilson's interval). A call failed if its client was answered with 5xx or a gRPC
/// code that says the same, after all retries. A call that its client gave up says nothing. Times are those until the head of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    steps: Vec<u8>,
    hold: Duration,
    calls: u64,
    errors: Ratio,
    slower: Option<f64>,
}

impl Rollout {
    /// Calls below which nothing is said of a variant.
    const FEWEST: u64 = 20;

    /// 1, 5, 25, 50 and 100 %, each for five minutes and at least 100 calls; aborted when it fails in 1 % of the calls more, or takes more than 1.5 times as long.
    #[must_use]
    pub fn new() -> Self {
        Self {
            steps: vec![1, 5, 25, 50, 100],
            hold: Duration::from_secs(300),
            calls: 100,
            errors: Ratio::percent(1),
            slower: Some(1.5),
        }
    }

    /// Other parts, in percent, 1 to 100 and each more than the one before. Where the last is not 100, the rollout ends there, and the split stays so.
    #[must_use]
    pub fn steps(mut self, percent: impl IntoIterator<Item = u8>) -> Self {
        self.steps = percent.into_iter().collect();
        self
    }

    /// How long a step lasts at least. Default five minutes: faults that need a full cache or a timer show by then.
    #[must_use]
    pub const fn hold(mut self, span: Duration) -> Self {
        self.hold = span;
        self
    }

    /// How many calls a step takes at least. Default 100: a variant that nobody called has proved nothing.
    #[must_use]
    pub const fn calls(mut self, count: u64) -> Self {
        self.calls = count;
        self
    }

    /// By how much its share of failed calls may be above that of the others. Default 1 %.
    #[must_use]
    pub const fn errors(mut self, share: Ratio) -> Self {
        self.errors = share;
        self
    }

    /// How many times longer it may take. `None` asks for no latency. Default 1.5.
    #[must_use]
    pub const fn slower(mut self, times: Option<f64>) -> Self {
        self.slower = times;
        self
    }

    /// What is wrong with it.
    pub(super) fn mistake(&self) -> Option<String> {
        let rises = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = |percent: &u8| (1..=100).contains(percent);
        if self.steps.is_empty() || !rises || !self.steps.iter().all(in_range) {
            let steps = &self.steps;
            return Some(format!(
                "{steps:?} are no steps: from 1 to 100 percent, each more than the last"
            ));
        }
        let times = self.slower.filter(|times| !(*times >= 1.0 && times.is_finite()));
        times.map(|times| format!("{times} is no factor of latency: 1 or more"))
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// The variant that is to take over.
    pub variant: std::sync::Arc<str>,
    /// What it gets at present, in percent.
    pub percent: u8,
    /// Whether it goes on.
    pub state: RolloutState,
    /// Its calls in this step.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
}

/// Whether a rollout goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RolloutState {
    /// It goes on.
    Running,
    /// The last step has lasted its time.
    Done,
    /// The variant did worse than the others, and gets nothing.
    Aborted(RolloutAbort),
}

/// In what a variant was worse than the others.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RolloutAbort {
    /// It failed more often.
    Errors {
        /// Share of its calls that failed, from 0 to 1.
        share: f64,
        /// That of the others.
        others: f64,
    },
    /// It was slower.
    Latency {
        /// What 95 % of its calls take at most.
        p95: Duration,
        /// That of the others.
        others: Duration,
    },
}

impl fmt::Display for RolloutAbort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors { share, others } => {
                let (share, others) = (share * 100.0, others * 100.0);
                write!(f, "{share:.1} % of its calls failed, and {others:.1} % of the others'")
            }
            Self::Latency { p95, others } => {
                write!(
                    f,
                    "95 % of its calls take up to {p95:?}, and of the others' up to {others:?}"
                )
            }
        }
    }
}

/// A rollout under way, without a clock.
#[derive(Clone, Debug)]
pub(super) struct Course {
    plan: Rollout,
    step: usize,
    /// When the step began.
    since: Duration,
    state: RolloutState,
}

impl Course {
    /// Begins with the first step. The plan has no [mistake](Rollout::mistake).
    pub(super) const fn new(plan: Rollout, now: Duration) -> Self {
        Self { plan, step: 0, since: now, state: RolloutState::Running }
    }

    pub(super) const fn state(&self) -> RolloutState {
        self.state
    }

    /// What the variant gets at present.
    pub(super) fn percent(&self) -> u8 {
        match self.state {
            RolloutState::Aborted(_) => 0,
            _ => self.plan.steps.get(self.step).copied().unwrap_or(100),
        }
    }

    /// Looks at the calls of the variant in this step, and at those of the others since the beginning; whether something changed.
    pub(super) fn look(&mut self, now: Duration, calls: &Sample, others: &Sample) -> bool {
        if self.state != RolloutState::Running {
            return false;
        }
        if let Some(reason) = self.worse(calls, others) {
            self.state = RolloutState::Aborted(reason);
            return true;
        }
        let lasted = now.saturating_sub(self.since) >= self.plan.hold;
        if !lasted || calls.calls < self.plan.calls {
            return false;
        }
        self.since = now;
        if self.step + 1 < self.plan.steps.len() {
            self.step += 1;
        } else {
            self.state = RolloutState::Done;
        }
        true
    }

    fn worse(&self, calls: &Sample, others: &Sample) -> Option<RolloutAbort> {
        if calls.calls < Rollout::FEWEST {
            return None;
        }
        let rate = others.error_rate();
        if at_least(calls.failures, calls.calls) > rate + f64::from(self.plan.errors) {
            return Some(RolloutAbort::Errors { share: calls.error_rate(), others: rate });
        }
        // Without calls of others there is nothing to be slower than.
        let times = self.plan.slower.filter(|_| others.calls >= Rollout::FEWEST)?;
        let usual = others.quantile(0.95);
        let slow = calls.slower_than(usual.mul_f64(times.min(1e6)));
        let is_slow = at_least(slow, calls.calls) > 0.05;
        is_slow.then(|| RolloutAbort::Latency { p95: calls.quantile(0.95), others: usual })
    }
}

#[cfg(test)]
mod tests;
