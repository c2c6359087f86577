use std::time::Duration;

/// How much is allowed: so many tokens per period, and how many of them at once.
///
/// ```
/// # use std::time::Duration;
/// use gusset_ratelimit::Quota;
///
/// let pages = Quota::per_minute(100);
/// let logins = Quota::per_hour(20).burst(5);
/// let reports = Quota::new(1, Duration::from_secs(24 * 3600));
/// ```
///
/// # Range
///
/// Rates of up to 10⁹ per second are exact: over 292 years, the clock that counts tokens is never wrong by more than one step, which is
/// at most two nanoseconds or 1/64 of a token's time. A faster rate counts as 10⁹ per second, which nobody can tell
/// apart; a period of more than 292 years counts as 292 years.
///
/// **0 allows nothing.** A quota of 0 per period, or with a burst of 0, refuses every call: a limit that was set to 0 was set to
/// stop something. Such a refusal names one period as the time to come back, for want of a better answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    pub(crate) tokens: u32,
    pub(crate) per: Duration,
    pub(crate) burst: u32,
}

impl Quota {
    /// `tokens` in every span of `per`, evenly: one token comes back each `per / tokens`.
    #[must_use]
    pub const fn new(tokens: u32, per: Duration) -> Self {
        Self { tokens, per, burst: tokens }
    }

    /// `tokens` in each second.
    #[must_use]
    pub const fn per_second(tokens: u32) -> Self {
        Self::new(tokens, Duration::from_secs(1))
    }

    /// `tokens` in each minute.
    #[must_use]
    pub const fn per_minute(tokens: u32) -> Self {
        Self::new(tokens, Duration::from_secs(60))
    }

    /// `tokens` in each hour.
    #[must_use]
    pub const fn per_hour(tokens: u32) -> Self {
        Self::new(tokens, Duration::from_secs(3600))
    }

    /// How many tokens a bucket holds, which is how many calls may come at once after a pause. Default: as many as come in
    /// one period, so that a client that does all its calls at the start of a minute may.
    ///
    /// In any span `t` at most `burst + rate · t` are allowed: with the default, up to twice the number of a period in the
    /// first period after a pause. Where that is too much, set it lower; a burst of 1 spaces all calls evenly.
    #[must_use]
    pub const fn burst(mut self, tokens: u32) -> Self {
        self.burst = tokens;
        self
    }
}
