use std::time::Duration;

/// Which calls a ratio is taken of, and how many there must be at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub(crate) kind: Kind,
    pub(crate) min_calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Calls(u32),
    Time { span: Duration, buckets: u32 },
}

impl Window {
    const MIN_CALLS: u32 = 20;
    pub(crate) const MOST_CALLS: u32 = 16_000;
    pub(crate) const MOST_BUCKETS: u32 = 1_000;

    /// The last `calls` calls, exactly; between 1 and 16 000, and what is beyond counts as the nearest of these. Takes 4 bytes for each.
    ///
    /// For traffic of any rate: what happened long ago counts as long as little has happened since.
    #[must_use]
    pub const fn calls(calls: u32) -> Self {
        let calls = if calls == 0 { 1 } else { calls };
        let calls = if calls > Self::MOST_CALLS { Self::MOST_CALLS } else { calls };
        Self { kind: Kind::Calls(calls), min_calls: Self::MIN_CALLS }
    }

    /// The calls of the last `span`, in 10 [`buckets`](Self::buckets): it slides by a tenth at a time, so
    /// it sees between 90 and 100 % of the span. At least 1 ms a bucket, and at most four billion calls in it. Takes
    /// 64 bytes for each bucket, their number rounded up to a power of two.
    #[must_use]
    pub const fn time(span: Duration) -> Self {
        Self { kind: Kind::Time { span, buckets: 10 }, min_calls: Self::MIN_CALLS }
    }

    /// How many buckets a window of time has; between 2 and 1000, and what is beyond counts as the nearest of these. Default 10, as
    /// in Hystrix and Polly. Changes nothing in a window of calls.
    #[must_use]
    pub const fn buckets(mut self, count: u32) -> Self {
        if let Kind::Time { span, .. } = self.kind {
            let count = if count < 2 { 2 } else { count };
            let count = if count > Self::MOST_BUCKETS { Self::MOST_BUCKETS } else { count };
            self.kind = Kind::Time { span, buckets: count };
        }
        self
    }

    /// How many calls must be in the window before it is judged. It need not be full. Default 20, as in Hystrix: one
    /// failure of two calls is no 50 %. In a window of fewer calls, all of it.
    #[must_use]
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }
}
