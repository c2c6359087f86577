use std::{sync::Arc, time::Duration};

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{Direction, Failure, FailureKind, Policy, StepError};

/// The attempts at one step in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tries {
    pub(crate) direction: Direction,
    /// Attempts begun.
    pub(crate) begun: u32,
    /// Whether one of them, in this process or before, may have had an effect.
    pub(crate) maybe: bool,
    errors: Vec<Arc<str>>,
    /// How many holders fell silent over it without anything else happening.
    #[serde(skip)]
    pub(crate) crashes: u32,
    /// Between two attempts.
    #[serde(skip)]
    pub(crate) pausing: bool,
}

/// What to do after a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    RetryAfter(Duration),
    GiveUp(FailureKind),
}

impl Tries {
    const KEPT: usize = 16;

    pub(crate) const fn new(direction: Direction) -> Self {
        Self { direction, begun: 0, maybe: false, errors: Vec::new(), crashes: 0, pausing: false }
    }

    /// What is to be done after the attempt that began last failed.
    pub(crate) fn failed(
        &mut self,
        error: &StepError,
        policy: &Policy,
        rng: &mut impl Rng,
    ) -> Verdict {
        self.maybe |= error.kind() == FailureKind::Unknown;
        self.note(error.line());
        if error.kind() == FailureKind::Rejected || self.begun >= policy.attempts {
            return Verdict::GiveUp(error.kind());
        }
        Verdict::RetryAfter(self.pause(error, policy, rng))
    }

    /// How long until the next attempt.
    pub(crate) fn pause(&self, error: &StepError, policy: &Policy, rng: &mut impl Rng) -> Duration {
        let wanted = error.wanted_pause().unwrap_or_default().min(policy.cap);
        policy.pause(self.begun, rng).max(wanted)
    }

    pub(crate) fn failure(&self, step: Arc<str>, kind: FailureKind) -> Failure {
        Failure { step, kind, errors: self.errors.clone(), attempts: self.begun }
    }

    pub(crate) fn note(&mut self, line: Arc<str>) {
        if self.errors.last() == Some(&line) {
            return;
        }
        if self.errors.len() == Self::KEPT {
            self.errors.remove(1);
        }
        self.errors.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tries(attempts: u32) -> (Tries, Policy) {
        let backoff = Duration::from_millis(100);
        let policy = Policy::step().attempts(attempts).backoff(backoff, 10 * backoff);
        (Tries::new(Direction::Act), policy)
    }

    fn fail((tries, policy): &mut (Tries, Policy), error: StepError) -> Verdict {
        tries.begun += 1;
        tries.failed(&error, policy, &mut rand::rng())
    }

    #[test]
    fn a_rejection_ends_it_at_once() {
        let verdict = fail(&mut tries(5), StepError::rejected("no"));
        assert_eq!(verdict, Verdict::GiveUp(FailureKind::Rejected));
    }

    #[test]
    fn one_unknown_attempt_leaves_a_possible_effect_whatever_the_last_one_says() {
        let mut tries = tries(2);
        assert!(matches!(fail(&mut tries, StepError::unknown("lost")), Verdict::RetryAfter(_)));
        fail(&mut tries, StepError::rejected("no"));
        assert!(tries.0.maybe);
        let failure = tries.0.failure("pay".into(), FailureKind::Rejected);
        assert_eq!(failure.errors, ["lost".into(), "no".into()]);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_the_cap() {
        let mut tries = tries(9);
        for (wanted, least) in [(700, 700), (5_000, 1_000)] {
            let error = StepError::transient("later").retry_after(Duration::from_millis(wanted));
            let Verdict::RetryAfter(pause) = fail(&mut tries, error) else { panic!("gave up") };
            assert!((least..=1_000).contains(&pause.as_millis()), "{pause:?}");
        }
    }

    proptest! {
        #[test]
        fn it_makes_exactly_the_attempts_of_its_policy_and_keeps_few_errors(attempts in 1_u32..60) {
            let mut tries = tries(attempts);
            for n in 1..attempts {
                let verdict = fail(&mut tries, StepError::transient(n.to_string()));
                prop_assert!(matches!(verdict, Verdict::RetryAfter(_)));
            }
            let verdict = fail(&mut tries, StepError::transient(attempts.to_string()));
            prop_assert_eq!(verdict, Verdict::GiveUp(FailureKind::Transient));
            let failure = tries.0.failure("x".into(), FailureKind::Transient);
            prop_assert_eq!(failure.attempts, attempts);
            prop_assert_eq!(failure.errors.len(), (attempts as usize).min(Tries::KEPT));
            prop_assert_eq!(&*failure.errors[0], "1");
            prop_assert_eq!(failure.error(), &attempts.to_string());
        }
    }
}
