//! What becomes of a delivery, by the policy of its group; the same for all engines.

use std::time::Duration;

use crate::{
    Failure, FailureKind, Policy, Reason, Reply,
    attempt::{Outcome, shortened},
    engine::Verdict,
    message::wall_clock,
};

/// The verdict on the delivery number `attempt`.
pub(crate) fn judge(policy: &Policy, attempt: u32, outcome: Outcome) -> Verdict {
    let (kind, error, delay) = match outcome {
        Outcome::Replied(Reply::Ack) => return Verdict::Ack,
        Outcome::Replied(Reply::Reject(why)) => {
            return unasked(policy, attempt, Reason::Rejected(shortened(&why)));
        }
        Outcome::Undecodable(why) => return unasked(policy, attempt, Reason::Undecodable(why)),
        Outcome::Replied(Reply::RetryAfter(delay)) => {
            (FailureKind::Retry, "the handler asked for another attempt".to_owned(), delay)
        }
        Outcome::Failed { kind, error, not_before } => {
            (kind, error, backoff(policy, attempt).max(not_before))
        }
    };
    let failure = Failure { attempt, at: wall_clock(), kind, error };
    if attempt >= policy.max_attempts.get() {
        let otherwise = backoff(policy, attempt);
        return Verdict::Bury { reason: Reason::Exhausted, failure: Some(failure), otherwise };
    }
    Verdict::Retry { after: delay, failure }
}

/// To the dead letters, for a reason that is no failure of this attempt.
pub(crate) fn unasked(policy: &Policy, attempt: u32, reason: Reason) -> Verdict {
    Verdict::Bury { reason, failure: None, otherwise: backoff(policy, attempt) }
}

fn backoff(policy: &Policy, attempt: u32) -> Duration {
    policy.backoff.delay(attempt, &mut rand::rng())
}
