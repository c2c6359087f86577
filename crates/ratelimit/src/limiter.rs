use std::{fmt, sync::Arc, time::Duration};

use gusset_call::{Clock, Limited};

use crate::{
    Charge, Denied, Level, Quota, Refused, Reservation, Stats, bucket::Bucket, gcra::Unmet,
    stats::Counters,
};

/// One bucket for all callers. Clones share it.
///
/// ```
/// use gusset_ratelimit::{Quota, RateLimiter};
///
/// let limiter = RateLimiter::new(Quota::per_minute(100).burst(2));
/// assert_eq!(limiter.check().unwrap().remaining(), 1);
/// assert_eq!(limiter.check().unwrap().remaining(), 0);
/// assert_eq!(limiter.check().unwrap_err().to_string().split(',').next(), Some("rate limit exceeded"));
/// ```
///
/// # Cost
///
/// One atomic word and no task; no lock but a short one for those who leave the queue. About 1.5 KB. The bucket begins full. It does what
/// it says for 292 years after it was made.
///
/// # Waiting
///
/// [`until_ready`](Self::until_ready) and [`reserve`](Self::reserve) queue, first come, first served. Each who waits has a turn, a fixed moment, and
/// sleeps once until then. The queue is bounded twice: by the longest wait that each accepts, and by the number of those who wait, 1024 unless
/// [`max_waiters`](Self::max_waiters) says otherwise. Beyond either bound the answer is an immediate refusal.
#[derive(Clone)]
pub struct RateLimiter(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) bucket: Bucket,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
}

impl RateLimiter {
    /// A full bucket.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self(Arc::new(Shared {
            bucket: Bucket::new(quota),
            clock: Clock::new(),
            counters: Counters::default(),
        }))
    }

    /// How many may wait at the same time, in all clones together. Default 1024: as many tasks as a process holds with ease, and a sign that the limit is
    /// too low if they all wait. 0 lets nobody wait.
    #[must_use]
    pub fn max_waiters(self, most: u16) -> Self {
        self.0.bucket.waiters().set_most(most);
        self
    }

    /// What the limiter allows.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.0.bucket.quota()
    }

    /// How often the quota was changed.
    pub(crate) fn changes(&self) -> u64 {
        self.0.bucket.generation()
    }

    /// Allows something else from now on.
    ///
    /// Each call is decided by the old quota or by the new one, never by a part of each. Spent tokens stay spent: of a burst of 10 with 4 left, a burst of
    /// 100 leaves 94, and a burst of 5 leaves none (and one of 0 forgets what was spent). Tokens come back at the new rate.
    ///
    /// Those who wait keep their turns. Under a lower quota whoever comes later queues behind them. A higher one is of use at once: their tokens are owed at the
    /// new rate, and once these have come back, others may pass them. So until the last of them has had its turn, up to the new rate and the old one together
    /// come through. What they give back if they leave is lost, and [`wasted`](Self::wasted) counts it.
    pub fn set_quota(&self, quota: Quota) {
        self.0.bucket.set_quota(quota, || self.0.clock.nanos());
    }

    /// Takes one token, if there is one.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none, or if all that come are promised to those who wait. Nothing is taken then.
    #[inline(always)]
    pub fn check(&self) -> Result<Level, Limited> {
        let nanos = self.0.clock.nanos();
        match self.0.take_now(1, nanos) {
            Some(level) => Ok(level),
            None => self.0.check(1).map_err(|refused| self.0.limited(refused)),
        }
    }

    /// Takes `cost` tokens, all or none; a cost of 0 takes nothing, and is refused only while others wait.
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if there are not as many now, [`Denied::TooCostly`] if there never will be. Nothing is
    /// taken then.
    #[inline]
    pub fn check_n(&self, cost: u32) -> Result<Level, Denied> {
        let nanos = self.0.clock.nanos();
        match self.0.take_now(cost, nanos) {
            Some(level) => Ok(level),
            None => Ok(self.0.check(cost)?),
        }
    }

    /// How full the bucket is. Takes nothing.
    #[must_use]
    pub fn peek(&self) -> Level {
        self.0.peek()
    }

    /// Takes one token as soon as there is one, first come, first served.
    ///
    /// The first poll takes a place in the queue, or refuses at once if the turn would come only after
    /// `max_wait` (capped at one year), or if too many wait already: nobody waits in vain. Then it sleeps once, until its turn.
    ///
    /// Within a call that has a deadline, the time that is left is the longest wait that makes sense:
    ///
    /// ```
    /// # use gusset_ratelimit::{Limited, RateLimiter};
    /// use gusset_call::Deadline;
    ///
    /// async fn fetch(limiter: &RateLimiter, deadline: Deadline) -> Result<(), Limited> {
    ///     limiter.until_ready(deadline.remaining()).await?;
    ///     // ...
    ///     # Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Limited`], with the whole time until the turn would have come.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime with time enabled.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before its turn gives the token back if nobody queued behind it, or once all
    /// who did have left as well. Otherwise that turn passes unused, because those behind were promised theirs, and
    /// [`wasted`](Self::wasted) counts it.
    pub async fn until_ready(&self, max_wait: Duration) -> Result<Level, Limited> {
        self.0.until_ready(1, max_wait).await.map_err(|refused| self.0.limited(refused))
    }

    /// Takes `cost` tokens, all at once, as soon as there are as many; otherwise as [`until_ready`](Self::until_ready).
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime with time enabled.
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if it would take longer than `max_wait` or too many wait, [`Denied::TooCostly`] if there will never
    /// be as many.
    pub async fn until_ready_n(&self, cost: u32, max_wait: Duration) -> Result<Level, Denied> {
        Ok(self.0.until_ready(cost, max_wait).await?)
    }

    /// Takes `cost` tokens now, to be used when they are due, within `max_wait` (capped at one year).
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if they would be due later or too many wait, [`Denied::TooCostly`] if there will never
    /// be as many. Nothing is taken then.
    pub fn reserve(&self, cost: u32, max_wait: Duration) -> Result<Reservation, Denied> {
        let turn = self.0.queue(cost, max_wait)?;
        Ok(Reservation::new(self.0.clone(), turn))
    }

    /// How many calls were allowed and refused. Those who left before their turn are neither.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// How many tokens were used by nobody, because those who had taken them left, or kept them until they had come back by time and gave them up then.
    #[must_use]
    pub fn wasted(&self) -> u64 {
        self.0.bucket.wasted(self.0.clock.nanos())
    }

    /// How many wait at present, reservations that are not used yet among them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.bucket.waiters().number()
    }
}

impl<K: ?Sized> Charge<K> for RateLimiter {
    fn charge(&self, _: &K, cost: u32) -> Result<Option<Level>, Refused> {
        match cost {
            1 => Ok(Some(self.check()?)),
            cost => Ok(Some(self.check_n(cost).map_err(|denied| denied.under(|| self.quota()))?)),
        }
    }

    fn test(&self, _: &K, cost: u32) -> Result<Option<Level>, Refused> {
        let level = self.0.bucket.test(cost, self.0.clock.nanos());
        Ok(Some(level.map_err(|unmet| Denied::from(unmet).under(|| self.quota()))?))
    }

    fn give_back(&self, _: &K, cost: u32) {
        self.0.bucket.refund(cost, self.0.clock.nanos());
        self.0.counters.count_given_back();
    }

    fn level(&self, _: &K) -> Option<Level> {
        Some(self.0.peek())
    }

    fn count_refused(&self, _: &K) {
        self.0.counters.count_refused();
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.quota())
    }

    fn changes(&self) -> u64 {
        self.changes()
    }
}

impl Shared {
    #[inline(always)]
    fn take_now(&self, cost: u32, nanos: u64) -> Option<Level> {
        let level = self.bucket.take_now(cost, nanos);
        if level.is_some() {
            self.counters.count_allowed();
        }
        level
    }

    #[cold]
    fn check(&self, cost: u32) -> Result<Level, Unmet> {
        match self.bucket.take(cost, || self.clock.nanos(), Duration::ZERO) {
            Ok(place) => {
                self.counters.count_allowed();
                Ok(place.gcra.level(place.end, place.now))
            }
            Err(refused) => {
                self.counters.count_refused();
                Err(refused)
            }
        }
    }

    /// The refusal of a single token, which is too costly only for a quota that allows nothing.
    #[cold]
    fn limited(&self, refused: Unmet) -> Limited {
        match refused.into() {
            Denied::Limited(limited) => limited,
            Denied::TooCostly(_) => Limited::new(self.bucket.quota().per),
        }
    }

    pub(crate) fn peek(&self) -> Level {
        let (gcra, now, full_at) = self.bucket.look(self.clock.nanos());
        gcra.level(full_at, now)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("quota", &self.quota())
            .field("level", &self.peek())
            .finish_non_exhaustive()
    }
}
