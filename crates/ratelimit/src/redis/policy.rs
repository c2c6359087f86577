use std::{num::NonZeroU8, time::Duration};

/// How long to wait for a server, and when to leave it alone.
///
/// ```
/// # use std::time::Duration;
/// use gusset_ratelimit::RedisPolicy;
///
/// let patient = RedisPolicy::default().call_within(Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisPolicy {
    pub(crate) call_within: Duration,
    pub(crate) connect_within: Duration,
    pub(crate) failures: NonZeroU8,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
}

impl RedisPolicy {
    /// How long a call waits for the server at most, all in all. Default 20 ms: a server in the same data center answers in less than
    /// 1 ms, and 20 ms more are what most callers do not notice.
    #[must_use]
    pub const fn call_within(mut self, span: Duration) -> Self {
        self.call_within = span;
        self
    }

    /// How long connecting may take, with names, TLS, authentication and the first script. Default 1 s. Calls do not wait that
    /// long; who arrives meanwhile waits no longer than [`call_within`](Self::call_within).
    #[must_use]
    pub const fn connect_within(mut self, span: Duration) -> Self {
        self.connect_within = span;
        self
    }

    /// After so many calls in a row without an answer the server is left alone for a while. Default 5: a lost packet or two must not
    /// do it, and it bounds what a server that hangs costs. It must also have been silent for twice [`call_within`](Self::call_within), unless one is enough or it answers with
    /// errors: a short stall fails all calls that are on their way. A refused connection does it at once.
    #[must_use]
    pub const fn failures(mut self, in_a_row: NonZeroU8) -> Self {
        self.failures = in_a_row;
        self
    }

    /// How long it is left alone: `first`, then twice as long each time it is still away, up to `longest`; of
    /// each, a random part between half and all. Default 100 ms and 5 s: a restart is noticed soon, and a thousand
    /// processes that lost the same server ask it some 270 times a second in all.
    #[must_use]
    pub const fn pause(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }
}

impl Default for RedisPolicy {
    fn default() -> Self {
        const FIVE: NonZeroU8 = NonZeroU8::new(5).expect("not zero");
        Self {
            call_within: Duration::from_millis(20),
            connect_within: Duration::from_secs(1),
            failures: FIVE,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}
