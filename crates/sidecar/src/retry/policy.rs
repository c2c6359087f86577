use std::time::Duration;

use crate::{Backoff, Budget};

/// How often, when and out of which budget calls are tried again.
///
/// ```
/// # use std::time::Duration;
/// use gusset_sidecar::RetryPolicy;
///
/// let policy = RetryPolicy::default().retries(2).attempt_timeout(Duration::from_millis(800));
/// ```
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub(crate) retries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) max_wait: Duration,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) body_limit: usize,
    pub(crate) whole_answers: usize,
    pub(crate) budget: Pays,
}

/// What pays for retries.
#[derive(Clone, Debug)]
pub(crate) enum Pays {
    /// A default budget that each layer makes for itself.
    Own,
    Shared(Budget),
    Nothing,
}

impl RetryPolicy {
    /// How many attempts may follow the first. Default 3: with four tries a service that fails every other call at random answers 94 %
    /// of them, and each further try adds little; 0 makes none.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The waits between attempts. Default [`Backoff::default`], from 100 ms to 2 s with full jitter.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The longest wait that a service may ask for by `Retry-After`, `grpc-retry-pushback-ms` or a refusal's `retry_after`. Whoever asks
    /// for more gets no retry at all, since one that comes earlier is known to be in vain. Default 5 s: what is away
    /// for longer should be answered, not waited for.
    #[must_use]
    pub const fn max_wait(mut self, span: Duration) -> Self {
        self.max_wait = span;
        self
    }

    /// How long an attempt may take until its response headers are there. Default none, since no number fits all calls. The last
    /// attempt, and one that could not be repeated, have no such limit: to cut them short would gain nothing. They are
    /// bounded by the deadline alone.
    #[must_use]
    pub const fn attempt_timeout(mut self, span: Duration) -> Self {
        self.attempt_timeout = Some(span);
        self
    }

    /// How much of a request body is kept for the next attempt, in bytes; a call that has sent more is not retried. Default
    /// 64 KiB, as in Linkerd: it holds nearly every API call, and 1,000 calls at once hold 64 MB at most.
    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Waits for the whole answer of a call that can be made again, if it is no longer than so many bytes, before it counts as one: an
    /// answer that breaks off in its body, or stalls until the attempt's timeout, is then made again and not passed on. The caller
    /// gets no byte before the last has come, and each such call holds up to that many bytes. Default 0: answers are streamed.
    #[must_use]
    pub const fn whole_answers(mut self, bytes: usize) -> Self {
        self.whole_answers = bytes;
        self
    }

    /// Pays for the retries; layers with clones of one budget share it. By default each layer makes a [`Budget::default`] of its own: 20 % of
    /// the calls and 10 a second.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Pays::Shared(budget);
        self
    }

    /// Retries whatever it costs. For clients that are few and alone, such as a batch job.
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = Pays::Nothing;
        self
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 3,
            backoff: Backoff::default(),
            max_wait: Duration::from_secs(5),
            attempt_timeout: None,
            body_limit: 64 * 1024,
            whole_answers: 0,
            budget: Pays::Own,
        }
    }
}
