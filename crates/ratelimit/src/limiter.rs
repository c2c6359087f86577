use std::{fmt, sync::Arc, time::Duration};

use gusset_call::Limited;
use tokio::time::{Instant, sleep_until};

use crate::{
    Denied, Level, Quota, Stats,
    bucket::{Bucket, Place},
    gcra::{Gcra, Now},
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
/// One atomic word and no task; no lock but a short one for those who leave the queue. The bucket begins full. It does what
/// it says for 292 years after it was made.
#[derive(Clone)]
pub struct RateLimiter(Arc<Shared>);

struct Shared {
    quota: Quota,
    gcra: Gcra,
    bucket: Bucket,
    epoch: Instant,
    counters: Counters,
}

impl RateLimiter {
    /// Ticks of a burst fit into so many bits, and so do the ticks of 292 years and of a wait beside them.
    const BITS: u32 = 62;

    /// Longer waits are refused: the ticks of the queue must stay within the clock.
    const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

    /// A full bucket.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self(Arc::new(Shared {
            quota,
            gcra: Gcra::new(quota, Self::BITS),
            bucket: Bucket::default(),
            epoch: Instant::now(),
            counters: Counters::default(),
        }))
    }

    /// What the limiter allows.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.0.quota
    }

    /// Takes one token, if there is one.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none, or if all that come are promised to those who wait in
    /// [`until_ready`](Self::until_ready). Nothing is taken then.
    pub fn check(&self) -> Result<Level, Limited> {
        self.check_n(1).map_err(|denied| self.0.gcra.single(denied))
    }

    /// Takes `cost` tokens, all or none; a cost of 0 takes nothing, and is refused only while others wait.
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if there are not as many now, [`Denied::TooCostly`] if there never will be. Nothing is
    /// taken then.
    pub fn check_n(&self, cost: u32) -> Result<Level, Denied> {
        let now = self.0.now();
        let result = self.0.take(cost, now, now.tick);
        self.0.counters.count(result.is_ok());
        result.map(|place| self.0.gcra.level(place.end, now))
    }

    /// How full the bucket is. Takes nothing.
    #[must_use]
    pub fn peek(&self) -> Level {
        self.0.gcra.level(self.0.bucket.full_at(), self.0.now())
    }

    /// Takes one token as soon as there is one, first come, first served.
    ///
    /// The first poll takes a place in the queue, or refuses at once if the turn would come only after
    /// `max_wait` (capped at one year): nobody waits in vain. Then it sleeps once, until its turn. The queue costs the limiter no memory, and never holds more than the
    /// tokens of `max_wait`.
    ///
    /// # Errors
    ///
    /// [`Limited`], with the whole time until the turn would have come, if that is more than `max_wait`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before its turn gives the token back if nobody queued behind it, or once all
    /// who did have left as well. Otherwise that turn passes unused, because those behind were promised theirs, and
    /// [`wasted`](Self::wasted) counts it.
    pub async fn until_ready(&self, max_wait: Duration) -> Result<Level, Limited> {
        self.until_ready_n(1, max_wait).await.map_err(|denied| self.0.gcra.single(denied))
    }

    /// Takes `cost` tokens, all at once, as soon as there are as many; otherwise as [`until_ready`](Self::until_ready).
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if it would take longer than `max_wait`, [`Denied::TooCostly`] if there will never
    /// be as many.
    pub async fn until_ready_n(&self, cost: u32, max_wait: Duration) -> Result<Level, Denied> {
        let now = self.0.now();
        let latest = self.0.gcra.tick_after(now, max_wait.min(Self::MAX_WAIT));
        let place = self.0.take(cost, now, latest).inspect_err(|_| self.0.counters.count(false))?;
        let allowed_at = self.0.gcra.allowed_at(place.end);
        if allowed_at > now.tick {
            let turn = Turn { limiter: &self.0, place };
            sleep_until(self.0.epoch + self.0.gcra.nanos_at(allowed_at)).await;
            // It has come; what was taken is used.
            std::mem::forget(turn);
        }
        self.0.counters.count(true);
        Ok(self.peek())
    }

    /// How many calls were allowed and refused. Those who left while they waited are neither.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// How many tokens were used by nobody, because those who waited for them left.
    #[must_use]
    pub fn wasted(&self) -> u64 {
        self.0.gcra.tokens(self.0.bucket.wasted(&self.0.gcra, self.0.now()))
    }
}

impl Shared {
    fn now(&self) -> Now {
        self.gcra.now(self.epoch.elapsed())
    }

    fn take(&self, cost: u32, now: Now, latest: u64) -> Result<Place, Denied> {
        let cost = self.gcra.cost(cost).map_err(Denied::TooCostly)?;
        self.bucket
            .take(&self.gcra, cost, now, latest)
            .map_err(|allowed_at| Denied::Limited(self.gcra.limited(allowed_at, now)))
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

/// A place in the queue, given back on drop.
struct Turn<'a> {
    limiter: &'a Shared,
    place: Place,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.limiter.bucket.give_back(&self.limiter.gcra, self.place, self.limiter.now());
    }
}
