use std::{error::Error, fmt, time::Duration};

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
///
/// **A period of 0** is no rate at all, and counts as the fastest, 10⁹ per second.
///
/// [`checked`](Self::checked) refuses all of these instead. Use it for what comes from a configuration.
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

    /// As [`new`](Self::new) with a `burst`, but nothing is bent to fit: for numbers that somebody else has written.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use gusset_ratelimit::{InvalidQuota, Quota};
    ///
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(Quota::checked(100, minute, 5), Ok(Quota::per_minute(100).burst(5)));
    /// let error = Quota::checked(100, Duration::ZERO, 5).unwrap_err();
    /// assert_eq!(error, InvalidQuota::NoPeriod);
    /// assert_eq!(error.to_string(), "a quota needs a period of more than 0 s");
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidQuota`] if it would allow nothing, if a token would come back in less than a nanosecond, or if the
    /// period is longer than 292 years.
    pub const fn checked(tokens: u32, per: Duration, burst: u32) -> Result<Self, InvalidQuota> {
        let longest = Duration::from_nanos(1 << 63);
        if tokens == 0 {
            Err(InvalidQuota::NoTokens)
        } else if per.is_zero() {
            Err(InvalidQuota::NoPeriod)
        } else if burst == 0 {
            Err(InvalidQuota::NoBurst)
        } else if per.as_nanos() > longest.as_nanos() {
            Err(InvalidQuota::TooSlow { per })
        } else if per.as_nanos() < tokens as u128 {
            Err(InvalidQuota::TooFast { tokens, per })
        } else {
            Ok(Self { tokens, per, burst })
        }
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

    /// How many tokens come back in each [`period`](Self::period).
    #[must_use]
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The span in which they come back.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.per
    }

    /// How many tokens there are at most: the burst.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.burst
    }
}

/// Why [`Quota::checked`] takes numbers for a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// 0 tokens per period allow nothing.
    NoTokens,
    /// No time for the tokens to come back in.
    NoPeriod,
    /// A burst of 0 allows nothing.
    NoBurst,
    /// More than one token per nanosecond.
    TooFast {
        /// The tokens asked for.
        tokens: u32,
        /// The period in which they were to come back.
        per: Duration,
    },
    /// A period of more than 292 years.
    TooSlow {
        /// The period asked for.
        per: Duration,
    },
}

impl fmt::Display for InvalidQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTokens => f.write_str("a quota needs at least 1 token per period"),
            Self::NoPeriod => f.write_str("a quota needs a period of more than 0 s"),
            Self::NoBurst => f.write_str("a quota needs a burst of at least 1 token"),
            Self::TooFast { tokens, per } => {
                write!(f, "{tokens} tokens per {per:?} are more than one each nanosecond")
            }
            Self::TooSlow { per } => {
                write!(f, "a period of {} s is more than 292 years", per.as_secs())
            }
        }
    }
}

impl Error for InvalidQuota {}
