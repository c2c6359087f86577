use std::time::Duration;

/// When a circuit trips, how long it stays open, and what closes it.
///
/// The default is `Policy::consecutive(5)`.
///
/// ```
/// # use std::time::Duration;
/// use gusset_breaker::Policy;
///
/// let policy = Policy::consecutive(10).open_for(Duration::from_secs(5)).successes_to_close(1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) failures: u32,
    pub(crate) open_for: Duration,
    pub(crate) successes_to_close: u16,
    pub(crate) max_probes: u8,
    pub(crate) probe_lease: Duration,
    pub(crate) slow_after: Duration,
}

impl Policy {
    /// Trips after `failures` failures without a success between them; 0 means the same as 1. Ignored outcomes neither add
    /// to the row nor end it.
    ///
    /// 5 is what Envoy's outlier detection uses: enough to look past a restart of one instance behind a
    /// load balancer, few enough that little is lost.
    #[must_use]
    pub const fn consecutive(failures: u32) -> Self {
        Self {
            failures: if failures == 0 { 1 } else { failures },
            open_for: Duration::from_secs(30),
            successes_to_close: 3,
            max_probes: 3,
            probe_lease: Duration::from_secs(30),
            slow_after: Duration::from_secs(10),
        }
    }

    /// How long the circuit refuses all calls before it lets probes through. Resolution 1 ms, rounded up; at most 30 years.
    /// Default 30 s, as in Envoy and recloser: long enough for a process to restart.
    #[must_use]
    pub const fn open_for(mut self, span: Duration) -> Self {
        self.open_for = span;
        self
    }

    /// How many probes must succeed before the circuit closes; 0 means the same as 1. Default 3: one
    /// success may be luck, for instance the one healthy instance of several.
    #[must_use]
    pub const fn successes_to_close(mut self, successes: u16) -> Self {
        self.successes_to_close = if successes == 0 { 1 } else { successes };
        self
    }

    /// How many probes may be under way at once; 0 means the same as 1. Default 3, so that
    /// [`successes_to_close`](Self::successes_to_close) can be had in one round trip, and a service that just came back
    /// is not trampled.
    #[must_use]
    pub const fn max_probes(mut self, probes: u8) -> Self {
        self.max_probes = if probes == 0 { 1 } else { probes };
        self
    }

    /// After which time probes that neither ended nor were dropped lose their places, counted from the last one admitted.
    /// Their results are then ignored as late. Default 30 s: a hung probe must not refuse all calls for ever.
    #[must_use]
    pub const fn probe_lease(mut self, span: Duration) -> Self {
        self.probe_lease = span;
        self
    }

    /// How long a call must have been running for its being dropped to count as a failure. Default 10 s: a
    /// caller that gives up sooner than that was impatient; one that gives up later ran into a timeout. Set it just below
    /// a timeout that stands outside of the breaker.
    #[must_use]
    pub const fn slow_after(mut self, span: Duration) -> Self {
        self.slow_after = span;
        self
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::consecutive(5)
    }
}
