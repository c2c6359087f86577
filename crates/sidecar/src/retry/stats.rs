//! What the retry layer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gusset_call::BoxError;
use http::Response;

use super::{RetryLayer, classify::GRPC_STATUS};
use crate::{Samples, metrics::lines::Sums, watched::is_server_fault};

/// Only the number of calls is written by calls that succeed at once, so each thread counts them for itself.
#[derive(Debug, Default)]
pub(super) struct Counters {
    calls: Sums<1>,
    pub(super) calls_failed: AtomicU64,
    pub(super) attempts_failed: AtomicU64,
    pub(super) unattempted: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) exhausted: AtomicU64,
    pub(super) over_budget: AtomicU64,
    pub(super) too_late: AtomicU64,
    pub(super) body_gone: AtomicU64,
}

impl Counters {
    pub(super) fn call(&self) {
        self.calls.here().add(0, 1);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// What became of the calls, and of their attempts.
///
/// Callers see the calls, the service sees the attempts: if 5 % of the attempts fail and all of the calls succeed, the retries hide a
/// service in trouble. An attempt has failed if it ended with an error or was to be made again ([`Verdict`](crate::Verdict)), or with HTTP 5xx or
/// a gRPC status that is the service's fault. A call has failed if its last attempt has. One that its caller abandoned is neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryStats {
    /// Calls that came.
    pub calls: u64,
    /// Calls that failed in the end: the effective failures.
    pub calls_failed: u64,
    /// Attempts that were made for them.
    pub attempts: u64,
    /// Attempts that failed: the actual failures.
    pub attempts_failed: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Calls with a good answer from such an attempt.
    pub recovered: u64,
    /// Calls that failed as often as the policy allows.
    pub exhausted: u64,
    /// Calls given up because the budget was spent.
    pub over_budget: u64,
    /// Calls given up because the wait would have outlasted the deadline or [`RetryPolicy::max_wait`](crate::RetryPolicy::max_wait).
    pub too_late: u64,
    /// Calls given up because their body could not be sent again.
    pub body_gone: u64,
}

impl<C> RetryLayer<C> {
    /// Counts since the layer was made. They are read one after the other, so that calls under way may be in some of them only.
    #[must_use]
    pub fn stats(&self) -> RetryStats {
        let counters = &self.shared.counters;
        let calls = counters.calls.sum(0);
        let [unattempted, retries] =
            [&counters.unattempted, &counters.retries].map(|c| c.load(Relaxed));
        RetryStats {
            calls,
            calls_failed: counters.calls_failed.load(Relaxed),
            attempts: (calls + retries).saturating_sub(unattempted),
            attempts_failed: counters.attempts_failed.load(Relaxed),
            retries,
            recovered: counters.recovered.load(Relaxed),
            exhausted: counters.exhausted.load(Relaxed),
            over_budget: counters.over_budget.load(Relaxed),
            too_late: counters.too_late.load(Relaxed),
            body_gone: counters.body_gone.load(Relaxed),
        }
    }

    /// Adds the figures of these retries to `samples`, for the service `upstream`; to be called from a source of
    /// [`Metrics::on_render`](crate::Metrics::on_render), as [`Sidecar::outbound`](crate::Sidecar::outbound) does.
    ///
    /// `gusset_calls_total` and `gusset_calls_failed_total` are what callers see, `gusset_attempts_total` and
    /// `gusset_attempts_failed_total` what the service does.
    #[expect(clippy::cast_precision_loss, reason = "counts in Prometheus are floats")]
    pub fn report(&self, upstream: &str, samples: &mut Samples) {
        let stats = self.stats();
        let mut counter = |name, help, labels: &[(&'static str, &str)], count: u64| {
            samples.counter(name, help, labels, count as f64);
        };
        let of = [("upstream", upstream)];
        counter("gusset_calls_total", "Calls, however often they were tried.", &of, stats.calls);
        let help = "Calls that failed in the end.";
        counter("gusset_calls_failed_total", help, &of, stats.calls_failed);
        counter("gusset_attempts_total", "Attempts of calls.", &of, stats.attempts);
        let help = "Attempts that failed.";
        counter("gusset_attempts_failed_total", help, &of, stats.attempts_failed);
        counter("gusset_retries_total", "Attempts after the first.", &of, stats.retries);
        let help = "Calls with a good answer from a later attempt.";
        counter("gusset_retries_recovered_total", help, &of, stats.recovered);
        let help = "Calls that failed without the retry they could have had.";
        for (reason, count) in [
            ("exhausted", stats.exhausted),
            ("over_budget", stats.over_budget),
            ("too_late", stats.too_late),
            ("body_gone", stats.body_gone),
        ] {
            let labels = [("upstream", upstream), ("reason", reason)];
            counter("gusset_retries_given_up_total", help, &labels, count);
        }
    }
}

/// Whether a result that no retry is asked for is a failure all the same.
pub(crate) fn is_failure<B>(result: &Result<Response<B>, BoxError>) -> bool {
    result.as_ref().map_or(true, |response| {
        response.status().is_server_error()
            || response.headers().get(&GRPC_STATUS).is_some_and(|code| {
                code.to_str().ok().and_then(|code| code.parse().ok()).is_some_and(is_server_fault)
            })
    })
}
