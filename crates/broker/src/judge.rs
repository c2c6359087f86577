//! What becomes of a delivery, by the policy of its group; the same for all engines.

use std::time::Duration;

use crate::{
    Failure, FailureKind, Policy, Reason, Reply, WhenExpired,
    attempt::{Outcome, shortened},
    engine::{Lease, Verdict},
    message::wall_clock,
};

/// The verdict on the delivery number `attempt`.
pub(crate) fn judge(policy: &Policy, attempt: u32, outcome: Outcome) -> Verdict {
    let (kind, error, delay) = match outcome {
        Outcome::Replied(Reply::Ack | Reply::Answer(_)) => return Verdict::Ack,
        Outcome::Replied(Reply::Reject(why)) => {
            return unasked(policy, attempt, Reason::Rejected(shortened(&why)));
        }
        Outcome::Undecodable(why) => return unasked(policy, attempt, Reason::Undecodable(why)),
        Outcome::Replied(Reply::RetryAfter(delay)) => {
            (FailureKind::Retry, "the handler asked for another attempt".into(), delay)
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

/// What is noted of a delivery that was pulled and not answered in time.
pub(crate) fn overdue(policy: &Policy, attempt: u32) -> Failure {
    let error = format!("no answer within {:?}", policy.attempt_timeout).into();
    Failure { attempt, at: wall_clock(), kind: FailureKind::Timeout, error }
}

/// The verdict on a delivery that the handler need not see; none if it must.
pub(crate) fn beforehand(policy: &Policy, lease: &Lease) -> Option<Verdict> {
    if lease.is_expired() {
        return Some(expired(policy, lease.attempt()));
    }
    // Whoever set a deadline to what was redriven has gone, and an operator wants it all the same.
    let patience = lease.message().patience().filter(|_| !lease.is_redriven());
    if patience.is_some_and(|left| left.is_zero()) {
        return Some(match policy.when_expired {
            WhenExpired::Bury if !lease.message().is_request() => {
                unasked(policy, lease.attempt(), Reason::Expired)
            }
            _ => Verdict::Expire,
        });
    }
    // Earlier deliveries ended without a verdict, as when the process was killed by what it handled.
    let exhausted = lease.attempt() > policy.max_attempts.get();
    exhausted.then(|| unasked(policy, lease.attempt(), Reason::Exhausted))
}

/// The verdict on a message whose time to live was over.
pub(crate) fn expired(policy: &Policy, attempt: u32) -> Verdict {
    match policy.when_expired {
        WhenExpired::Bury => unasked(policy, attempt, Reason::Expired),
        WhenExpired::Drop => Verdict::Expire,
    }
}

/// To the dead letters, for a reason that is no failure of this attempt.
fn unasked(policy: &Policy, attempt: u32, reason: Reason) -> Verdict {
    Verdict::Bury { reason, failure: None, otherwise: backoff(policy, attempt) }
}

fn backoff(policy: &Policy, attempt: u32) -> Duration {
    policy.backoff.delay(attempt, &mut rand::rng())
}
