use std::time::Duration;

use crate::{Ratio, Window};

/// When a circuit trips, how long it stays open, and what closes it.
///
/// The default is `Policy::consecutive(5)`. Conditions are joined by *or*: the first that is met trips the circuit. The constructor
/// also says how long it stays open; what is joined by `or_` changes nothing about that.
///
/// ```
/// # use std::time::Duration;
/// use gusset_breaker::{Policy, Ratio, Window};
///
/// // Whichever comes first: half of the last 100 calls failed, or 10 in a row, or 80 % took longer than 2 s.
/// let policy = Policy::failure_ratio(Ratio::percent(50))
///     .window(Window::calls(100).min_calls(20))
///     .or_consecutive(10)
///     .or_slow_ratio(Ratio::percent(80), Duration::from_secs(2));
/// ```
///
/// # The presets, and others' defaults
///
/// | | trips at | window | at least | open for | closes after |
/// |---|---|---|---|---|---|
/// | [`Policy::consecutive`]`(5)` | 5 in a row | | | 30 s | 3 successes |
/// | [`Policy::failure_ratio`]`(50 %)` | 50 % | 10 s in 10 buckets | 20 calls | 5 s, doubling up to 60 s | 3 successes |
/// | [`Policy::instance`] | 5 in a row, over 20 ms | | | 1 s, doubling up to 30 s | 3 successes |
/// | Hystrix | 50 % | 10 s in 10 buckets | 20 | 5 s | 1 |
/// | Polly | 10 % | 30 s in 10 buckets | 100 | 5 s | 1 |
/// | resilience4j | 50 % | 100 calls | 100 | 60 s | 10, judged by ratio |
/// | Envoy outlier detection | 5 in a row | | | 30 s times the ejections so far, up to 300 s | (returned without a probe) |
/// | Linkerd failure accrual | 7 in a row | | | 1 s, doubling up to 60 s | 1 |
///
/// A minimum of 100 calls never trips a service that is called less than ten times a second; 20 in 10 s look past a single failure and
/// still see two calls a second. 10 s is longer than a restart's hiccup and short enough to forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// 0 if failures in a row do not matter.
    pub(crate) consecutive: u32,
    pub(crate) consecutive_for: Duration,
    pub(crate) failure_ratio: Option<Ratio>,
    pub(crate) slow_ratio: Option<Ratio>,
    pub(crate) slow_after: Duration,
    pub(crate) window: Window,
    pub(crate) open: OpenTime,
    pub(crate) probes: Probes,
    pub(crate) ramp: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenTime {
    pub(crate) base: Duration,
    pub(crate) factor: u32,
    pub(crate) at_most: Duration,
    pub(crate) jitter: Option<Ratio>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) successes_to_close: u16,
    pub(crate) at_once: u8,
    pub(crate) lease: Duration,
}

impl Policy {
    const BASE: Self = Self {
        consecutive: 0,
        consecutive_for: Duration::ZERO,
        failure_ratio: None,
        slow_ratio: None,
        slow_after: Duration::from_secs(2),
        window: Window::time(Duration::from_secs(10)),
        open: OpenTime {
            base: Duration::from_secs(30),
            factor: 1,
            at_most: Duration::from_secs(30),
            jitter: None,
        },
        probes: Probes { successes_to_close: 3, at_once: 3, lease: Duration::from_secs(30) },
        ramp: Duration::ZERO,
    };

    /// Trips after `failures` failures without a success between them; 0 means the same as 1. Ignored outcomes neither add
    /// to the row nor end it. Open for 30 s.
    ///
    /// 5 is what Envoy's outlier detection uses: enough to look past a restart of one instance behind a
    /// load balancer, few enough that little is lost.
    #[must_use]
    pub const fn consecutive(failures: u32) -> Self {
        Self::BASE.or_consecutive(failures)
    }

    /// For the circuit of one instance, as balancers and gateways keep it: five failures in a row over [20 ms](Self::consecutive_for), open for 1 s, doubling up to 30 s each time it trips
    /// again, and up to 20 % longer by chance. A call that is dropped says nothing, see [`slow_after`](Self::slow_after).
    ///
    /// An instance that restarts is back in a second or two, and the only one of its service is then missed for no longer than that; a long
    /// outage is tried twice a minute.
    #[must_use]
    pub const fn instance() -> Self {
        Self::consecutive(5)
            .consecutive_for(Duration::from_millis(20))
            .open_for(Duration::from_secs(1))
            .open_growth(2, Duration::from_secs(30))
            .open_jitter(Ratio::percent(20))
            .slow_after(Duration::MAX)
    }

    /// Trips when at least this share of the calls in the [`window`](Self::window) failed, and one of them at least. Open for 5 s, doubling up to 60 s each
    /// time it trips again, and up to 20 % longer by chance.
    #[must_use]
    pub const fn failure_ratio(ratio: Ratio) -> Self {
        Self { failure_ratio: Some(ratio), ..Self::BASE }
            .open_for(Duration::from_secs(5))
            .open_growth(2, Duration::from_secs(60))
            .open_jitter(Ratio::percent(20))
    }

    /// Trips when at least this share of the calls in the [`window`](Self::window) took `slow_after` or longer, whether they
    /// succeeded or failed; see [`or_slow_ratio`](Self::or_slow_ratio). Opens as with [`failure_ratio`](Self::failure_ratio).
    #[must_use]
    pub const fn slow_ratio(ratio: Ratio, slow_after: Duration) -> Self {
        let policy = Self::failure_ratio(ratio);
        Self { failure_ratio: None, ..policy }.or_slow_ratio(ratio, slow_after)
    }

    /// Trips also after so many failures in a row; 0 means the same as 1.
    #[must_use]
    pub const fn or_consecutive(mut self, failures: u32) -> Self {
        self.consecutive = if failures == 0 { 1 } else { failures };
        self
    }

    /// Failures in a row trip no sooner than so long after the first of them. Resolution 1 ms. Default zero.
    ///
    /// Where thousands of calls come in a second, and many are under way at once, a hiccup of some milliseconds fails five of them, all by the same event.
    #[must_use]
    pub const fn consecutive_for(mut self, span: Duration) -> Self {
        self.consecutive_for = span;
        self
    }

    /// Trips also when at least this share of the calls in the [`window`](Self::window) failed.
    #[must_use]
    pub const fn or_failure_ratio(mut self, ratio: Ratio) -> Self {
        self.failure_ratio = Some(ratio);
        self
    }

    /// Trips also when at least this share of the calls in the [`window`](Self::window) took `slow_after` or longer, whether they
    /// succeeded or failed. Sets [`slow_after`](Self::slow_after), too. A probe that is slow then is one that failed.
    ///
    /// The clock is read twice in each call then.
    #[must_use]
    pub const fn or_slow_ratio(mut self, ratio: Ratio, slow_after: Duration) -> Self {
        self.slow_ratio = Some(ratio);
        self.slow_after(slow_after)
    }

    /// The calls by which the ratios judge. Default: those of the last 10 s, at least 20.
    #[must_use]
    pub const fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// How long a call must have been running for its being dropped to count as a failure. Default 2 s: a
    /// caller that gives up sooner than that was impatient; one that gives up later ran into a timeout. **Set it just below
    /// the timeout that stands outside of the breaker**, if that is shorter, or else hung calls are not noticed; and above what calls
    /// may take, if callers come and go as they please. [`Duration::MAX`] lets no dropped call count.
    #[must_use]
    pub const fn slow_after(mut self, span: Duration) -> Self {
        self.slow_after = span;
        self
    }

    /// How long the circuit refuses all calls before it lets probes through. Resolution 1 ms, rounded up; at most 30 years.
    /// Default 30 s with [`consecutive`](Self::consecutive), as in Envoy and recloser: long enough for a process to restart.
    /// 5 s with [`failure_ratio`](Self::failure_ratio), as in Hystrix and Polly.
    #[must_use]
    pub const fn open_for(mut self, span: Duration) -> Self {
        self.open.base = span;
        self
    }

    /// Multiplies the open time by `factor` each time a probe fails, or the circuit trips again soon after it closed, up to
    /// `at_most`. Once it has been closed for `at_most`, the next time begins with [`open_for`](Self::open_for) again.
    /// Default 1, no growth, with [`consecutive`](Self::consecutive).
    ///
    /// Growth keeps probes, each of which is a user's call, from failing every few seconds through a long outage.
    #[must_use]
    pub const fn open_growth(mut self, factor: u32, at_most: Duration) -> Self {
        self.open.factor = if factor == 0 { 1 } else { factor };
        self.open.at_most = at_most;
        self
    }

    /// Makes each open time longer by up to this share of it, by chance: processes that tripped together then do
    /// not probe together. Default none with [`consecutive`](Self::consecutive).
    #[must_use]
    pub const fn open_jitter(mut self, ratio: Ratio) -> Self {
        self.open.jitter = Some(ratio);
        self
    }

    /// How many probes must succeed before the circuit closes; 0 means the same as 1. Default 3: one
    /// success may be luck, for instance the one healthy instance of several.
    #[must_use]
    pub const fn successes_to_close(mut self, successes: u16) -> Self {
        self.probes.successes_to_close = if successes == 0 { 1 } else { successes };
        self
    }

    /// How many probes may be under way at once; 0 means the same as 1. Default 3, so that
    /// [`successes_to_close`](Self::successes_to_close) can be had in one round trip, and a service that just came back
    /// is not trampled.
    #[must_use]
    pub const fn max_probes(mut self, probes: u8) -> Self {
        self.probes.at_once = if probes == 0 { 1 } else { probes };
        self
    }

    /// After which time probes that neither ended nor were dropped lose their places, counted from the last one admitted.
    /// Their results are then ignored as late. Each time that happens in a row, the next lease is twice as long, up to a thousand
    /// times, so that calls which simply take longer close the circuit, too. At least 100 ms. Default 30 s: a hung
    /// probe must not refuse all calls for ever.
    ///
    /// The places are taken away by a call that gets to ask for one: put limits of concurrency outside of the breaker, for behind
    /// one that is used up by hung probes everybody waits.
    #[must_use]
    pub const fn probe_lease(mut self, span: Duration) -> Self {
        self.probes.lease = span;
        self
    }

    /// After the circuit has closed, lets a share of the calls through that grows evenly from a tenth to all within `span`.
    /// Default zero, all at once.
    ///
    /// For services that come back cold, with empty caches or pools, and would break down under the full load.
    #[must_use]
    pub const fn ramp(mut self, span: Duration) -> Self {
        self.ramp = span;
        self
    }

    /// Whether there is a ratio to judge.
    pub(crate) const fn has_window(&self) -> bool {
        self.failure_ratio.is_some() || self.slow_ratio.is_some()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::consecutive(5)
    }
}
